"""Interoperability of rewards with trl: ours in a plain `trl.GRPOTrainer`.

trl calls a reward once per batch and process with a list for every column of the dataset; ours receive one rollout.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward.base import Reward, Term, evaluate, is_query_reward
from rl_rerank.types import Completion, Prompt, RankingExample, Rollout


class TRLReward:
    """One of our rewards as a `reward_funcs` of trl. A class instead of a closure, so that it can be pickled."""

    def __init__(self, name: str, reward: Reward, paradigm: Paradigm, examples: Mapping[str, RankingExample]) -> None:
        self.__name__ = name  # what trl logs it under
        self.term = Term(name, reward)
        self.paradigm = paradigm
        self.examples = examples

    def __call__(
        self, *, completions: Sequence[Any], qid: Sequence[str], docids: Sequence[Sequence[str]], **_: Any
    ) -> list[float]:
        """Score each completion.

        Args:
            completions: texts, or conversations of one assistant message.
            qid: the dataset's column with each row's query.
            docids: the dataset's column with the documents behind identifiers 1..n of each row's prompt.
        """
        return [
            self._value(_text(completion), query, shown)
            for completion, query, shown in zip(completions, qid, docids, strict=True)
        ]

    def _value(self, text: str, qid: str, docids: Sequence[str]) -> float:
        if qid not in self.examples:
            raise LookupError(f"reward {self.term.name!r}: the column qid names {qid!r}, which is no example")
        prompt, completion = Prompt(qid, tuple(docids), (), self.paradigm.name), Completion(text)
        rollout = Rollout(prompt, completion, self.paradigm.parse(prompt, completion, strict=True))
        return evaluate(self.term, self.examples[qid], [rollout])[0].value


def as_trl(reward: Reward, paradigm: Paradigm, examples: Sequence[RankingExample], *, name: str = "") -> TRLReward:
    """Wrap a reward for `trl.GRPOTrainer(reward_funcs=...)`; the dataset needs columns `prompt`, `qid`, `docids`.

    trl does not mark completions cut at the length limit; they are parsed as far as they go.

    Args:
        name: its name in trl's logs; empty: the name of the reward's class.

    Raises:
        ValueError: for a reward of whole queries, because trl passes the rows of one process only.
    """
    if is_query_reward(reward):
        raise ValueError(
            f"{type(reward).__name__} compares all completions of a query, and trl gives a reward those of one "
            "process; train with rl-rerank grpo"
        )
    return TRLReward(name or type(reward).__name__, reward, paradigm, {example.qid: example for example in examples})


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)
