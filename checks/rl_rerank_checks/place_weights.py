"""FullRank's mechanism: the first identifiers of an answer weigh most, whatever the tokenizer."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_rerank.paradigms.labels import NUMBERS
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.loop.rank_weights import RankWeights


@dataclass(frozen=True)
class PlaceWeights:
    """The tokens of weight 1 + 1 / log2(p + 1) in an sft stage's rows spell the p-th identifier, for every place p.

    Published code finds places by the number of one token of one tokenizer; with any other all tokens would weigh 2.
    """

    stage: str

    def refuse(self, run: Run) -> None:
        _weighted(run, self.stage)

    def __call__(self, run: Run) -> list[Finding]:
        from rl_rerank.engines.local.tokenizer import load_tokenizer

        stage = _weighted(run, self.stage)
        assert stage.source is not None
        tokenizer = load_tokenizer(Path(run.config.run_dir) / self.stage / "model")
        # Before they are normalised, and without the end token's.
        weigh = replace(RankWeights(**stage.loss_params), normalise="tokens")
        targets = [row["target"] for row in run.rows(stage.source, "rows.jsonl")]
        weights = [weigh(target, tokenizer)[:-1] for target in targets]
        right = sum(_spells(t, w, tokenizer) for t, w in zip(targets, weights, strict=True))
        means = [sum(some) / len(some) for some in weights]
        mean = f"the mean weight is {sum(means) / len(means):.3f}" if means else "there are none"
        return [
            Finding(
                f"{self.stage}: tokens of the identifiers weigh 2, 1.631, 1.5, ... by their place",
                bool(targets) and right == len(targets),
                f"{right} of {len(targets)} rows; {mean}",
            )
        ]


def _weighted(run: Run, name: str) -> SFTStage:
    stage = run.config.stages.get(name)
    if not isinstance(stage, SFTStage) or stage.loss != "fullrank":
        raise LookupError(f"{name!r} is no sft stage with loss=fullrank before the check")
    return stage


def _spells(target: str, weights: list[float], tokenizer: Any) -> bool:
    """Whether the tokens of each place's weight, put together, hold this place's identifier and no other."""
    if not NUMBERS.permutation.fullmatch(target):
        return False
    ids = tokenizer.encode(target, add_special_tokens=False)
    for place, identifier in enumerate(NUMBERS.read(target), start=1):
        own = [token for token, weight in zip(ids, weights, strict=True) if _is_weight(weight, place)]
        if NUMBERS.read(tokenizer.decode(own)) != (identifier,):
            return False
    return True


def _is_weight(weight: float, place: int) -> bool:
    return math.isclose(weight, 1 + 1 / math.log2(place + 1), rel_tol=1e-9)
