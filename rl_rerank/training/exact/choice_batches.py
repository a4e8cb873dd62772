"""Batches of prompts with few answers: the decisions that lead to the answers, as labels of packed rows."""

# Shape legend: B prompts, A answers (padded; not restricted: anything else comes first), D decisions of all prompts,
# O options (padded), P decisions on a path.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rl_rerank.packed.layout import Labelled, pack
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.answer_tree import Decisions, decisions
from rl_rerank.training.loop.collation import Collator
from rl_rerank.training.loop.training_prompts import Question


@dataclass(frozen=True)
class ChoiceItem:
    """A prompt, rendered."""

    number: int
    sequences: Sequence[Labelled]
    """The prompt with the beginning of an answer and an option, for each option of each decision."""
    decided: Decisions


class ChoiceCollator(Collator[ChoiceItem]):
    """Labels each option of each decision, and maps each answer to its decisions and options.

    Args:
        restricted: whether only tokens that lead to an answer are options.
    """

    def __init__(
        self, questions: Sequence[Question], paradigm: Paradigm, renderer: Renderer, *, restricted: bool
    ) -> None:
        self.questions = questions
        self.paradigm: Any = paradigm
        self.renderer = renderer
        self.restricted = restricted
        self._decided: dict[tuple[str, ...], Decisions] = {}

    def item(self, number: int) -> ChoiceItem:
        prompt, decided = self.questions[number].token_ids, self.decisions(number)
        sequences = [
            ([*prompt, *beginning, option], len(prompt) + len(beginning))
            for beginning, options in zip(decided.beginnings, decided.options, strict=True)
            for option in options
        ]
        return ChoiceItem(number, sequences, decided)

    def batch(self, items: Sequence[ChoiceItem]) -> dict[str, Any]:
        made = [item.decided for item in items]
        options = [option for one in made for option in one.options]
        width, most = max(map(len, options)), max(len(one.paths) for one in made)
        longest = max(len(path) for one in made for path in one.paths)
        # Places in the flattened [D, O] of options; the last one, D * O, is a decision of probability 1. It pads short
        # paths, whose sums of log-probabilities it does not change.
        nothing = len(options) * width
        paths = torch.full((len(made), most, longest), nothing)
        first = 0
        starts: list[int] = []
        for i, one in enumerate(made):
            starts.append(first)
            for j, path in enumerate(one.paths):
                for step, (decision, option) in enumerate(path):
                    paths[i, j, step] = (first + decision) * width + option
            first += len(one.options)
        counts = torch.tensor([len(one.paths) for one in made])
        mask = torch.arange(most) < counts.unsqueeze(1)
        if not self.restricted:
            # Anything else has the first column in the mask, in the policy and in the rewards alike, so that it stays
            # at the same place when prompts differ in their number of answers.
            mask = torch.cat([mask.new_ones(len(made), 1), mask], 1)
        return {
            "packed": pack([sequence for item in items for sequence in item.sequences]),
            "is_option": torch.arange(width) < torch.tensor([len(ids) for ids in options]).unsqueeze(1),
            "first": torch.tensor(starts),
            "paths": paths,
            "mask": mask,
            "index": [item.number for item in items],
        }

    def decisions(self, number: int) -> Decisions:
        """Return the decisions between the answers to a prompt."""
        answers = self.paradigm.choices(self.questions[number].prompt)
        # The decisions depend on the answers' tokens alone, and most prompts share their answers: they are found once,
        # not once a prompt.
        if answers not in self._decided:
            self._decided[answers] = decisions(answers, self.renderer, restricted=self.restricted)
        return self._decided[answers]
