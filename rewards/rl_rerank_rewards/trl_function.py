"""A reward function written for trl, as a term."""

import asyncio
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rl_rerank import registry
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import WRITTEN


@dataclass(frozen=True)
class TRLFunction:
    """What a reward function of trl makes of the completion, in the range of that function.

    It is called with lists of one: `prompts`, `completions`, `completion_ids`, `qid` and `docids`. None, with which
    such a function leaves a completion out, is an error: give it a value in the function, or by `none`.

    Paradigms: listwise, groupwise, setwise, pairwise, pointwise, pointwise_graded.

    Source: trl's contract of reward functions.
    """

    function: str = "trl.rewards:think_format_reward"
    """`package.module:function` or `path/to/file.py:function`."""
    conversational: bool = True
    """Prompts and completions are lists of messages; False: texts."""
    none: float | None = None
    """What a None of the function counts as."""

    paradigms: ClassVar[tuple[str, ...]] = WRITTEN
    unclaimed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("gold_best", "orders", "pays_partial"),
        "the function decides; the one by default asks for <think> and for nothing else",
    )

    @cached_property
    def _loaded(self) -> Any:
        return registry.find("reward", self.function)

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        messages = [{"role": m.role, "content": m.text} for m in rollout.prompt.messages]
        answer: Any = rollout.completion.text
        prompt: Any = "\n".join(message["content"] for message in messages)
        if self.conversational:
            prompt, answer = messages, [{"role": "assistant", "content": answer}]
        found = self._loaded(
            prompts=[prompt],
            completions=[answer],
            completion_ids=[list(rollout.completion.token_ids)],
            qid=[example.qid],
            docids=[list(rollout.prompt.docids)],
        )
        [value] = asyncio.run(found) if inspect.iscoroutine(found) else found
        if value is not None:
            return value
        if self.none is None:
            raise ValueError(f"{self.function} left the completion out by None; say what that is worth: none=0.0")
        return self.none

    def __getstate__(self) -> dict[str, Any]:
        """Without the function, which its name finds again."""
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"}
