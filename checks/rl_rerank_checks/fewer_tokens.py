"""FullRank's mechanism: a whole list in one prompt is read once, where windows read documents twice."""

from dataclasses import dataclass

from rl_rerank.evaluation.cost import Cost, read_cost
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class FewerTokens:
    """A rerank stage takes fewer tokens, and no more calls, than another one for the same queries."""

    stage: str
    than: str
    tokens: str = "prompt_tokens"
    """`prompt_tokens`, `completion_tokens` or `tokens`, both together."""

    def refuse(self, run: Run) -> None:
        if self.tokens not in ("prompt_tokens", "completion_tokens", "tokens"):
            raise ValueError(f"tokens must be prompt_tokens, completion_tokens or tokens; got {self.tokens!r}")
        one, other = (run.ranked_by_model(stage) for stage in (self.stage, self.than))
        if one.split != other.split:
            raise ValueError(f"{self.stage!r} ranks split {one.split!r}, {self.than!r} {other.split!r}")

    def __call__(self, run: Run) -> list[Finding]:
        own, other = (read_cost(run.file(stage, "summary.json")) for stage in (self.stage, self.than))
        what = f"{self.stage}: fewer {self.tokens.replace('_', ' ')} than {self.than}, and no more calls"
        mine, theirs = self._of(own), self._of(other)
        if mine is None or theirs is None:
            return [Finding(what, False, "the engine does not count tokens")]
        said = f"{mine:,} and {theirs:,} tokens, {own.calls:,} and {other.calls:,} calls"
        return [Finding(what, mine < theirs and own.calls <= other.calls, said)]

    def _of(self, cost: Cost) -> int | None:
        return getattr(cost, self.tokens)
