"""Synthesised rows as token ids and labels, made when they are asked for."""

# Shape legend: N rows.

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.data.examples import ExampleFile
from rl_rerank.data.indexed import hashed
from rl_rerank.paradigms.base import Paradigm, check_template
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.thoughts import READ, is_opened
from rl_rerank.ranking.long_documents import view
from rl_rerank.training.loop.on_index import OnIndex
from rl_rerank.training.loop.rank_weights import RankWeights
from rl_rerank.types import RankingExample

IGNORED = -100
"""Label of tokens without a loss."""
BYTES_PER_TOKEN = 4
"""An estimate, of text."""


class TokenisedRow(TypedDict):
    """A row."""

    input_ids: list[int]
    labels: list[int]
    """Those of the answer at the end, IGNORED before."""
    weights: NotRequired[list[float]]


class RowFile(Sequence[Mapping[str, Any]]):
    """The rows of a synth stage, each read when it is asked for; nothing but numbers of them stays in memory.

    Attributes:
        paradigms: the names of their paradigms.
        lengths: [N], estimates in tokens, good for an order by length.

    Raises:
        ValueError: for a line that is no row.
        LookupError: for a row about a query that has no example.
    """

    def __init__(self, path: Path, examples: ExampleFile, max_prompt_tokens: int) -> None:
        self.path = path
        self.paradigms: set[str] = set()
        self._offsets, facts, end = array("Q"), array("Q"), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    self.paradigms.add(row["paradigm"])
                    facts.extend((hashed(row["qid"]), len(row["docids"]), len(row["target"].encode())))
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
                    raise ValueError(f"{path}:{number}: no row of a synth stage ({e!r}): {line[:80]!r}") from None
                self._offsets.append(end)
                end += len(line)
        hashes, shown, answers = np.array(facts).reshape(-1, 3).T
        places = examples.lines.first_places(hashes)
        for missing in np.flatnonzero(places < 0)[:1]:
            raise LookupError(f"{str(examples.path)!r} has no example with qid {self[int(missing)]['qid']!r}")
        # A prompt has the share of its example's bytes that its documents are of the candidates.
        lines = examples.lines
        own = np.diff(lines.offset)[places] * shown // np.maximum(lines.best + lines.lower, 1)[places]
        prompts = np.minimum(own // BYTES_PER_TOKEN, max_prompt_tokens)
        self.lengths: NDArray[np.uint64] = prompts + answers // BYTES_PER_TOKEN

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        offsets = self._offsets[index]
        with self.path.open("rb") as file:
            if isinstance(offsets, int):
                return _read(file, offsets)
            return [_read(file, offset) for offset in offsets]


def _read(file: Any, offset: int) -> Mapping[str, Any]:
    file.seek(offset)
    return json.loads(file.readline())


class Examples(Protocol):
    """Where a row's example is found."""

    def example(self, qid: str) -> RankingExample:
        """Return the example of a query."""
        ...


def tokenised(
    rows: Sequence[Mapping[str, Any]],
    examples: Examples,
    paradigms: Mapping[str, Paradigm],
    renderer: Renderer,
    *,
    weights: RankWeights | None = None,
    long_documents: LongDocumentsConfig | None = None,
) -> OnIndex[TokenisedRow]:
    """Tokenise rows into `input_ids` and `labels`; only the answer and its end token have a loss.

    The end token is labelled by position, never by id: in some tokenizers padding and the end token are the same.

    Args:
        weights: of the answers' tokens; None: all are 1.
        long_documents: how documents are cut or summarised; None: they are not.

    Answers that open reasoning lose this tag where the chat template has already opened it.

    Raises:
        ValueError: if the chat template does not fit a paradigm, as `check_template` says.
    """
    for paradigm in paradigms.values():
        check_template(paradigm, renderer)

    settings = long_documents or LongDocumentsConfig()

    def made(number: int) -> TokenisedRow:
        row = rows[number]
        example = view(examples.example(row["qid"]), settings).example
        prompt = paradigms[row["paradigm"]].prompt(example, row["docids"])
        rendered = renderer(prompt)
        target = row["target"]
        if is_opened(rendered.text):
            target = target.removeprefix(READ)
        question = rendered.token_ids
        answer = [*renderer.continuation_ids(target), renderer.end_id]
        tokens = TokenisedRow(input_ids=[*question, *answer], labels=[IGNORED] * len(question) + answer)
        if weights is not None:
            tokens["weights"] = [*[1.0] * len(question), *weights(target, renderer.tokenizer)]
        return tokens

    return OnIndex(len(rows), made, kept=0)  # a row is read once in a pass
