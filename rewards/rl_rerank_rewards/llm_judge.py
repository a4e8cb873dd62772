"""A served model as the judge of completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from rl_rerank.config import Config, EngineConfig, ModelConfig
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import build_stage_engine
from rl_rerank.paradigms.answers import find_answer
from rl_rerank.prompts.messages import numbered, ours, query
from rl_rerank.reward.base import Breakdown
from rl_rerank.types import Completion, Message, Prompt, RankingExample, Rollout, Sampling, Segment
from rl_rerank_rewards.window import WRITTEN

SYSTEM = "You judge answers of a search engine's ranking model."


@dataclass(frozen=True)
class LLMJudge:
    """The grade that a served model gives a completion, over the highest, in [0, 1]; `malformed` if not well formed.

    It is shown the query, the documents under their identifiers and the completion, in which nothing can pass for its
    own answer. Completions of a prompt are judged together, greedily; malformed ones are not sent. Answers
    are kept in a journal, so that none is paid for twice. A reply without a grade from 0 to `highest` is a failure,
    and `rewards.llm_judge.failed` says what that is worth. Needs the extra openai.

    Paradigms: listwise, groupwise, setwise, pairwise, pointwise, pointwise_graded.

    Source: Zheng et al. 2023, single answer grading, https://arxiv.org/abs/2306.05685; the prompt is ours.
    """

    engine: Mapping[str, Any] = field(default_factory=dict)
    """The server, as `engine.args` of engine.kind=openai: `model` at least, `base_url`, `concurrency`, prices."""
    criterion: str = "how well its reasoning is borne out by the passages, and how well it orders or picks them"
    """What the grade is about, after "Grade the answer by"."""
    highest: int = 10
    max_tokens: int = 1024
    """Tokens of a reply."""
    max_prompt_tokens: int = 16384
    """Budget of what the judge is shown; documents are shrunk to fit."""
    journal: str = "llm_judge.sqlite"
    """The file that keeps the answers; several runs and processes may share one."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = WRITTEN
    requires: ClassVar[tuple[str, ...]] = ("httpx2", "tenacity")
    asks_model: ClassVar[bool] = True
    unclaimed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("gold_best", "orders", "pays_identity", "pays_constant"), "the judge decides"
    )

    def __post_init__(self) -> None:
        if self.highest < 1:
            raise ValueError(f"llm_judge: highest must be at least 1; got {self.highest}")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain_group(example, [rollout])[0].value

    def explain_group(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
        """A value for each completion of one prompt.

        Raises:
            ValueError: for a reply without a grade.
        """
        asked = [self.prompt(example, rollout) for rollout in rollouts if rollout.judgment.is_ok]
        replies = iter(self._judge.generate(asked, Sampling(self.max_tokens)) if asked else ())
        return [
            Breakdown(self._grade(next(replies)[0]) if rollout.judgment.is_ok else self.malformed)
            for rollout in rollouts
        ]

    def prompt(self, example: RankingExample, rollout: Rollout) -> Prompt:
        """The judge's prompt about a completion."""
        docids = rollout.prompt.docids
        shown = [
            *query(example),
            *numbered(example, docids),
            ours("\n\nThe ranking model's answer:\n"),
            Segment(rollout.completion.text, field="completion"),
            ours(
                f"\n\nGrade the answer by {self.criterion}, from 0 (worst) to {self.highest} (best). Give your reasons "
                "in one or two sentences, and then the grade alone in <answer></answer>."
            ),
        ]
        messages = (Message("system", (ours(SYSTEM),)), Message("user", tuple(shown)))
        return Prompt(example.qid, docids, messages, "judge", reasoning=None)

    def _grade(self, reply: Completion) -> float:
        text = (find_answer(reply, reasoning=True, strict=False).text or "").strip()
        if not (text.isascii() and text.isdecimal() and int(text) <= self.highest):
            raise ValueError(f"the judge gives no grade from 0 to {self.highest}: {reply.text[-200:]!r}")
        return int(text) / self.highest

    @cached_property
    def _judge(self) -> Engine:
        return build_stage_engine(
            Config(
                engine=EngineConfig(kind="openai", args=dict(self.engine)),
                model=ModelConfig(max_prompt_tokens=self.max_prompt_tokens),
                journal=self.journal,
            ),
            "model",
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection to the server and to the journal, which another process makes anew."""
        return {k: v for k, v in self.__dict__.items() if k != "_judge"}
