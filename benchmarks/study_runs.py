"""What the study runs, which rows its page has, and what it tests: names and numbers only."""

from __future__ import annotations

from dataclasses import dataclass, field

SEEDS = (1, 2, 3)
HOURS = 24.0
"""At most, of all runs together on the clock of one machine."""


@dataclass(frozen=True)
class Run:
    """One run folder, or for a peer with several losses one for each."""

    name: str
    experiment: str
    hours: float
    """Expected, on two cores with AMX that do nothing else."""
    seed: int = 1
    peer: str = ""
    """How study_peers.py trains the model: smollm2, minilm or grpo; empty: the experiment trains its own."""
    losses: tuple[str, ...] = field(default=())
    """Of a peer: one is chosen on development queries."""
    pace: tuple[str, str] = ("", "")
    """Of a peer: the run and the training stage whose CPU time it receives, for each of its losses."""


LOSSES = ("softmax", "lambda", "bce")
"""Of sentence-transformers."""
UNION, WIKIQA = ("pointwise_seed1", "sft"), ("wikiqa_seed1", "sft")
RUNS = (
    Run("references", "study/references", 0.8),
    *(Run(f"wikiqa_seed{seed}", "study/wikiqa", 0.5, seed) for seed in SEEDS),
    *(Run(f"wikiqa_distilled_seed{seed}", "study/wikiqa_distilled", 0.4, seed) for seed in SEEDS),
    *(Run(f"pointwise_seed{seed}", "study/pointwise", 1.3, seed) for seed in SEEDS),
    *(Run(f"rl_only_seed{seed}", "study/rl_only", 0.9, seed) for seed in SEEDS),
    *(Run(f"distilled_seed{seed}", "study/distilled", 1.0, seed) for seed in SEEDS),
    Run("first_token_seed1", "study/first_token", 1.2),
    Run("graded_seed1", "study/graded", 1.8),
    Run("listwise_seed1", "study/listwise", 2.5),
    Run("cross_encoder_smollm2", "study/cross_encoder", 2.0, peer="smollm2", losses=LOSSES, pace=UNION),
    Run("cross_encoder_minilm", "study/cross_encoder", 1.2, peer="minilm", losses=LOSSES, pace=UNION),
    Run("trl_grpo", "study/trl_grpo", 0.8, peer="grpo", pace=UNION),
    Run("wikiqa_cross_encoder", "study/wikiqa_cross_encoder", 1.0, peer="smollm2", losses=LOSSES, pace=WIKIQA),
)


@dataclass(frozen=True)
class System:
    """One row of the page."""

    key: str
    label: str
    runs: tuple[str, ...]
    """Runs that have it, one for each seed."""
    stage: str
    """Its rerank stage in them."""
    is_wikiqa: bool = False
    """Trained and measured on wikiqa alone."""


def _seeds(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_seed{seed}" for seed in SEEDS)


def _trained(paradigm: str, label: str, runs: tuple[str, ...]) -> list[System]:
    return [
        System(f"{paradigm}_sft", f"{label}, SFT", runs, "sft_eval"),
        System(f"{paradigm}_rl", f"{label}, SFT+RL", runs, "rl_eval"),
    ]


SYSTEMS = (
    System("bm25", "BM25 (first stage)", ("references",), "first_stage"),
    System("minilm", "MiniLM bi-encoder, zero-shot", ("references",), "bi_encoder"),
    System("minilm_fused", "MiniLM bi-encoder + BM25", ("references",), "bi_encoder_fused"),
    System("untrained", "pointwise, untrained", ("references",), "untrained"),
    System("untrained_fused", "pointwise, untrained + BM25", ("references",), "untrained_fused"),
    *_trained("pointwise", "pointwise", _seeds("pointwise")),
    System("rl_only", "pointwise, RL only", _seeds("rl_only"), "rl_only_eval"),
    System("distilled", "pointwise, distilled from MiniLM", _seeds("distilled"), "distilled_eval"),
    System("pointwise_sft_fused", "pointwise, SFT + BM25", _seeds("pointwise"), "sft_fused"),
    System("pointwise_rl_fused", "pointwise, SFT+RL + BM25", _seeds("pointwise"), "rl_fused"),
    *_trained("graded", "graded", ("graded_seed1",)),
    *_trained("first_token", "first token", ("first_token_seed1",)),
    *_trained("listwise", "listwise", ("listwise_seed1",)),
    System("smollm2", "CrossEncoder, SmolLM2 (sentence-transformers)", ("cross_encoder_smollm2",), "test"),
    System("cross_minilm", "CrossEncoder, MiniLM (sentence-transformers)", ("cross_encoder_minilm",), "test"),
    System("trl_grpo", "plain GRPO (trl)", ("trl_grpo",), "test"),
    System("wikiqa_smollm2", "wikiqa alone: CrossEncoder, SmolLM2", ("wikiqa_cross_encoder",), "test", True),
    System("wikiqa_sft", "wikiqa alone: pointwise, SFT", _seeds("wikiqa"), "sft_eval", True),
    System("wikiqa_rl", "wikiqa alone: pointwise, SFT+RL", _seeds("wikiqa"), "rl_eval", True),
    System("wikiqa_distilled", "wikiqa alone: distilled", _seeds("wikiqa_distilled"), "distilled_eval", True),
    System("wikiqa_sft_fused", "wikiqa alone: pointwise, SFT + BM25", _seeds("wikiqa"), "sft_fused", True),
    System("wikiqa_rl_fused", "wikiqa alone: pointwise, SFT+RL + BM25", _seeds("wikiqa"), "rl_fused", True),
)
COMPARISONS = (
    ("pointwise_sft", "bm25"),
    ("pointwise_sft", "untrained"),
    ("pointwise_sft", "minilm"),
    ("pointwise_rl", "pointwise_sft"),
    ("rl_only", "untrained"),
    ("rl_only", "pointwise_sft"),
    ("distilled", "pointwise_sft"),
    ("distilled", "minilm"),
    ("pointwise_rl_fused", "bm25"),
    ("pointwise_rl_fused", "minilm_fused"),
    ("pointwise_rl_fused", "untrained_fused"),
    ("graded_rl", "graded_sft"),
    ("first_token_rl", "first_token_sft"),
    ("listwise_rl", "listwise_sft"),
    ("pointwise_rl", "smollm2"),
    ("pointwise_rl", "cross_minilm"),
    ("pointwise_rl", "trl_grpo"),
    ("wikiqa_sft", "bm25"),
    ("wikiqa_sft", "minilm"),
    ("wikiqa_rl", "wikiqa_sft"),
    ("wikiqa_sft", "wikiqa_smollm2"),
    ("wikiqa_rl", "wikiqa_smollm2"),
    ("wikiqa_distilled", "wikiqa_sft"),
    ("wikiqa_sft", "pointwise_sft"),
)
COLLECTIONS = ("wikiqa", "trecqa", "scifact", "nfcorpus", "dl19")
"""Whose test queries are measured."""
MEASURES = {"wikiqa": ("nDCG@10", "AP", "RR"), "trecqa": ("nDCG@10", "AP", "RR")}
"""Where the literature has more than nDCG@10."""
