"""The stages that an experiment is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from rl_rerank.config.building import one_of
from rl_rerank.config.curriculum import CurriculumConfig
from rl_rerank.config.engine import EngineConfig
from rl_rerank.config.losses import ANSWER_LOSSES, RANKING_LOSSES, check_loss
from rl_rerank.config.plugin import PluginConfig
from rl_rerank.config.policies import check_policy


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters; the stage's output is merged."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str = "all-linear"


@dataclass(kw_only=True)
class StageConfig:
    """What every stage has."""

    kind: str

    @staticmethod
    def chosen(value: Any, place: str) -> type[StageConfig]:
        """The class of the stage that a mapping with `kind` describes.

        Raises:
            ValueError: if there is no such kind.
        """
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if kind not in STAGES:
            raise ValueError(f"{place}.kind must be one of {', '.join(STAGES)}; got {kind!r}")
        return STAGES[kind]


@dataclass(kw_only=True)
class TrainingStage(StageConfig):
    """What both trainers share."""

    model: str = "model"
    """Where to start: `model` for the configured model, the name of an earlier training stage, or NAME@STEP for one of
    its checkpoints."""
    learning_rate: float = 1e-5
    max_steps: int = 100
    """Optimizer steps."""
    micro_batch: int = 4
    """Rows in one forward and backward of one process, which gets fewer where its share of a step is smaller."""
    warmup_ratio: float = 0.1
    lora: LoraConfig | None = None
    """null trains all weights."""
    bf16: bool = False
    """Mixed precision: float32 weights, bfloat16 arithmetic."""
    gradient_checkpointing: bool = False
    save_steps: int = 20
    seed: int = 1
    trl: dict[str, Any] = field(default_factory=dict)
    """Any other field of trl's SFTConfig or GRPOConfig, or of transformers' TrainingArguments where no text is
    sampled."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "micro_batch", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.kind} stage: {name} must be at least 1; got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"{self.kind} stage: learning_rate must be above 0; got {self.learning_rate}")


@dataclass(kw_only=True)
class SynthBudget:
    """Where synthesis stops by itself; it goes on with more when it is started again. Counted over all starts but for
    the seconds, and looked at before every round of prompts of a process."""

    max_tokens: int | None = None
    """Of completions, and of prompts where the engine counts these."""
    max_cost: float | None = None
    """At the prices of `engine.args`, over all engines."""
    max_seconds: float | None = None
    """Of one start."""


@dataclass(kw_only=True)
class SynthStage(StageConfig):
    """Make training data: examples go through `steps`, one after the other, and what comes out is written."""

    steps: dict[str, PluginConfig] = field(default_factory=dict)
    """A name of your choice -> a synthesis step and its parameters, in order; the step is named after its place where
    `name` is empty. conf/recipe has ready lists. Empty: the examples as they are."""
    teacher: str = "labels"
    """Who answers in steps that name no engine: `labels`, an oracle over the collection's judgments; or `model`, the
    configured model through the engine."""
    noise: float = 0.0
    """teacher=labels: standard deviation of its errors, in grades, drawn anew for every prompt and sample."""
    mixture: dict[str, int] = field(default_factory=lambda: {"pointwise": 400})
    """paradigm -> number of SFT rows. Rows of a paradigm that a step answers are these answers; of any other, the
    answers that the labels call for. Parameters of a paradigm stand under `paradigms`."""
    engine: EngineConfig | None = None
    """teacher=model: what the teacher answers through; null: the experiment's engine."""
    engines: dict[str, EngineConfig] = field(default_factory=dict)
    """Further engines, which steps name."""
    inputs: str = "queries"
    """What enters the first step: `queries` of the training split with their candidates; or `passages` of the corpus,
    each an example of its own that stands for its query until a step writes one."""
    outputs: list[str] = field(default_factory=list)
    """Beside examples.jsonl, rows.jsonl and the card: parquet (examples.parquet), retriever (retriever.jsonl)."""
    licence: str = ""
    """Of the texts, for the card."""
    chunk: int = 64
    """Examples that are asked about together, and written together."""
    shards: int = 1
    """Processes that share the work. What is written does not depend on them."""
    executor: str = "processes"
    """Where they run: `processes` of this machine; or `ray`, the cluster that the environment variable RAY_ADDRESS
    names (else one of this machine), whose machines see the run folder and the data under the same paths."""
    budget: SynthBudget = field(default_factory=SynthBudget)
    seed: int = 1

    def __post_init__(self) -> None:
        one_of("synth stage: inputs", self.inputs, ("queries", "passages"))
        one_of("synth stage: teacher", self.teacher, ("labels", "model"))
        one_of("synth stage: executor", self.executor, ("processes", "ray"))
        for output in self.outputs:
            one_of("synth stage: outputs", output, ("parquet", "retriever"))
        for name, count in self.mixture.items():
            if count < 0:
                raise ValueError(f"synth stage: mixture.{name} must be 0 or more; got {count}")
        for name in ("chunk", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"synth stage: {name} must be at least 1; got {getattr(self, name)}")
        if self.noise < 0:
            raise ValueError(f"synth stage: noise must be 0 or more; got {self.noise}")


@dataclass(kw_only=True)
class SFTStage(TrainingStage):
    """Supervised fine-tuning: on synthesised answers, or by a ranking loss over lists of the training queries."""

    data: str = "synth"
    """The synth stage whose rows are used."""
    loss: str = "completion"
    """`completion`: cross-entropy on the answers' tokens; `fullrank`: the same with more weight on the first
    identifiers of an order; or a ranking loss on the paradigm's logits: softmax, listnet, listmle, plackett_luce, bce,
    hinge, ranknet, lambdarank, first, ranklist_style, anchored_hinge. rl_rerank/training/losses has their formulas."""
    loss_params: dict[str, Any] = field(default_factory=dict)
    """Parameters of the loss."""
    batch_size: int = 16
    """Rows (ranking losses: lists) per optimizer step, over all processes."""
    list_size: int | None = None
    """Ranking losses: documents of a list, one of the highest grade and the others of lower ones; null: all
    candidates, or as many as the paradigm shows at once."""
    answer_weight: float = 0.3
    """Ranking losses: weight of the right answers' cross-entropy, without which sampled answers become all the same."""

    @property
    def is_ranking(self) -> bool:
        """Whether the loss is one over lists and not over synthesised answers."""
        return self.loss in RANKING_LOSSES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss("sft stage", self.loss, self.loss_params, {**ANSWER_LOSSES, **RANKING_LOSSES})
        if self.list_size is not None and self.list_size < 2:
            raise ValueError(f"sft stage: list_size must be at least 2, or null for all; got {self.list_size}")
        if self.answer_weight < 0:
            raise ValueError(f"sft stage: answer_weight must be 0 or more; got {self.answer_weight}")


GPU_ATTENTION = ("flash_attention_2", "flash_attention_3", "flex_attention")
ALGORITHMS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "gdpo", "rloo")


@dataclass(kw_only=True)
class GRPOStage(TrainingStage):
    """Reinforcement learning with group-relative advantages."""

    data: str | None = None
    """The synth stage whose examples are asked about; null: the training queries with their first-stage candidates."""
    policy: str = "tokens"
    """What is drawn and rewarded. tokens: sampled completions; scores: orders of a list of documents, drawn by their
    scores in one forward (Plackett-Luce); choice: the answer, where a prompt has but few of them, all of which are
    rewarded and weighed by their probabilities."""
    micro_batch: int = 8
    """Completions (scores: lists, choice: prompts) in one forward and backward of one process."""
    num_generations: int = 8
    """Completions sampled for each prompt (G); scores: orders drawn for each list."""
    prompts_per_step: int = 8
    """Prompts (scores: lists) per optimizer step, over all processes."""
    micro_batch_tokens: int | None = None
    """In the place of micro_batch: tokens of one forward and backward of a process, padding included, which groups of
    like length fill together. A larger group is computed by itself. null: micro_batch completions each."""
    refill_rounds: int = 0
    """How often a step's groups of one worth are sampled anew for other prompts (dynamic sampling); what is dead after
    that is skipped. 0: never."""
    refill_min_std: float = 0.0
    """A group is of one worth where the standard deviation of its rewards is at most this."""
    curriculum: CurriculumConfig | None = None
    """Which queries are likelier to be asked early; null: passes in random order."""
    num_iterations: int = 1
    """Optimizer passes over one batch of completions (mu)."""
    temperature: float = 1.0
    beta: float = 0.0
    """Weight of the KL to the starting model."""
    entropy: float = 0.0
    """scores and choice: weight of a bonus on the entropy of orders or answers."""
    held: bool = True
    """choice: the model can give the answers only. false: it may write anything, and what is not an answer earns what
    an empty completion does; teaches the form as well, by a forward for every token of an answer."""
    list_size: int | None = None
    """scores: documents of a list, as in sft."""
    estimator: str = "group"
    """scores: how the gradient of the expected reward is estimated. group: advantages within the drawn orders, for any
    reward; pl_rank and moves, of less variance, for rewards that are sums over places, such as nDCG, recall and the
    reciprocal rank. rl_rerank/training/exact/rank_gradients.py has their formulas."""
    top_k: int | None = None
    """scores: an order's probability is that of its first places, which is enough where a reward looks no deeper; null:
    of all."""
    loss: str | None = None
    """scores: a ranking loss that is minimised at once with the reward's; null: none."""
    loss_params: dict[str, Any] = field(default_factory=dict)
    loss_weight: float = 1.0
    algorithm: str = "dr_grpo"
    """grpo, dr_grpo, dapo, gspo, cispo, gdpo or rloo; rl_rerank/training/grpo/algorithms.py has their formulas."""
    scale_rewards: str | None = None
    """What advantages are divided by: the standard deviation of the group, of the batch, or none. null: as the
    algorithm does."""
    epsilon: float | None = None
    """How far below 1 the ratio of probabilities counts; null: as the algorithm has it."""
    epsilon_high: float | None = None
    """How far above 1; for cispo the largest ratio itself."""
    rollout: str = "hf"
    """What samples: hf; vllm, an engine in every training process; or vllm_server, one that runs elsewhere (CUDA)."""
    rollout_args: dict[str, Any] = field(default_factory=dict)
    """rollout=vllm: passed to vllm.LLM."""
    rollout_server: str = "127.0.0.1:8000"
    """rollout=vllm_server: host and port where launch/vllm_server.sh listens, or a whole address with https://."""
    rollout_correction: str = "token_truncate"
    """How a difference between vLLM and the trainer is corrected: token_truncate or sequence_truncate bound the
    importance ratio, token_mask and sequence_mask leave out what is beyond the bound."""
    max_logprob_gap: float = 0.1
    """Stop where vLLM's log-probabilities of the sampled tokens are further than this from the trainer's, in nats and
    on average: the run is off its policy."""
    shared_prefix: bool = True
    """Compute each prompt once for its group. Equal to the plain path, which models that it cannot serve take."""
    attention: str = "sdpa"
    """What computes attention in training: sdpa, anywhere; flash_attention_2, flash_attention_3 or flex_attention, on
    GPUs with what they need installed."""
    eval_steps: int | None = None
    """Rank dev queries greedily before training, every so many steps and at the last; null: never."""
    eval_queries: int = 32
    """Dev queries that are ranked, the first ones."""
    keep: str = "last"
    """Which step's model is left: last, or best on the dev queries. The best one has a checkpoint in any case."""
    patience: int | None = None
    """Stop after so many evaluations without a new best; null: never."""
    permute_rewards: bool = False
    """A control: train on rewards permuted within groups. The logged rewards stay the true ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_policy(self, {f.name: f.default if f.default is not MISSING else {} for f in fields(self)})
        if self.num_generations < 2:
            raise ValueError(
                "grpo stage: num_generations must be at least 2, because the advantage is relative to the group; "
                f"got {self.num_generations}"
            )
        if self.policy == "tokens" and self.micro_batch_tokens is None and self.micro_batch % self.num_generations:
            raise ValueError(
                f"grpo stage: micro_batch={self.micro_batch} is not a multiple of "
                f"num_generations={self.num_generations}, so a group would be split; choose a multiple"
            )
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ValueError(f"grpo stage: micro_batch_tokens must be at least 1; got {self.micro_batch_tokens}")
        if self.refill_rounds < 0 or self.refill_min_std < 0:
            name = "refill_rounds" if self.refill_rounds < 0 else "refill_min_std"
            raise ValueError(f"grpo stage: {name} must be at least 0; got {getattr(self, name)}")
        if self.prompts_per_step < 1:
            raise ValueError(f"grpo stage: prompts_per_step must be at least 1; got {self.prompts_per_step}")
        if self.temperature <= 0:
            raise ValueError(
                f"grpo stage: temperature must be above 0, because greedy completions of one prompt are all the same; "
                f"got {self.temperature}"
            )
        one_of("grpo stage: rollout", self.rollout, ("hf", "vllm", "vllm_server"))
        one_of("grpo stage: attention", self.attention, ("sdpa", *GPU_ATTENTION))
        corrections = ("token_truncate", "sequence_truncate", "token_mask", "sequence_mask")
        one_of("grpo stage: rollout_correction", self.rollout_correction, corrections)
        if self.rollout_args and self.rollout != "vllm":
            raise ValueError(
                f"grpo stage: rollout_args.{min(self.rollout_args)} is for rollout=vllm; got rollout={self.rollout}"
            )
        if self.max_logprob_gap <= 0:
            raise ValueError(f"grpo stage: max_logprob_gap must be above 0; got {self.max_logprob_gap}")
        one_of("grpo stage: algorithm", self.algorithm, ALGORITHMS)
        one_of("grpo stage: keep", self.keep, ("last", "best"))
        for name in ("eval_steps", "eval_queries", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"grpo stage: {name} must be at least 1; got {value}")
        if self.eval_steps is None and (self.keep == "best" or self.patience is not None):
            raise ValueError("grpo stage: keep=best and patience need eval_steps, which says how often is measured")
        if self.scale_rewards is not None:
            one_of("grpo stage: scale_rewards", self.scale_rewards, ("group", "batch", "none"))


@dataclass(kw_only=True)
class LongDocuments:
    """What a model sees of a document that is longer than a prompt has room for."""

    mode: str = "head"
    """head (cut to the prompt's budget), firstp, maxp, sump or quite: see rl_rerank/ranking/long_documents.py."""
    words: int = 150
    """firstp, maxp, sump: words of a passage."""
    overlap: int = 50
    """firstp, maxp, sump: words that a passage shares with the one before."""
    sentences: int = 3
    """quite: sentences of a summary."""
    alpha: float = 0.5
    """quite: what the weight of a covered query word is multiplied with."""

    def __post_init__(self) -> None:
        one_of("long_documents.mode", self.mode, ("head", "firstp", "maxp", "sump", "quite"))
        if not 0 <= self.overlap < self.words:
            raise ValueError(
                f"long_documents.overlap must be from 0 to words - 1, or passages would not move on; got "
                f"overlap={self.overlap}, words={self.words}"
            )
        if self.sentences < 1:
            raise ValueError(f"long_documents.sentences must be at least 1; got {self.sentences}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"long_documents.alpha must lie between 0 and 1; got {self.alpha}")


@dataclass(kw_only=True)
class Fusion:
    """How two rankings become one."""

    method: str = "minmax"
    """minmax, zscore, rrf or sum: see rl_rerank/ranking/fusion.py."""
    weight: float = 0.5
    """Of the model, or of the first run of `fuse`; the other one has 1 - weight."""

    def __post_init__(self) -> None:
        one_of("fusion.method", self.method, ("minmax", "zscore", "rrf", "sum"))
        if not 0 <= self.weight <= 1:
            raise ValueError(f"fusion.weight must be from 0 to 1; got {self.weight}")


@dataclass(kw_only=True)
class RerankStage(StageConfig):
    """Rank the held-out queries with a model and write a run file."""

    model: str = "model"
    """`model`, the name of a training stage, NAME@STEP for one of its checkpoints, or `first_stage` for the candidates
    as they came."""
    paradigm: str = ""
    """What the model is asked with; empty means the experiment's paradigm."""
    fuse: list[str] = field(default_factory=list)
    """Names of two earlier rerank stages: their runs are fused as `fusion` says, and no model is asked."""
    engine: EngineConfig | None = None
    """What answers; null: the experiment's engine."""
    label: str = ""
    """The row's name in tables; empty means the stage's name."""
    split: str = "test"
    shuffle: bool = True
    """Show candidates in a seeded random order, so that no row leans on the first stage's."""
    shuffles: int = 1
    """Rank so many times, each time in another random order, and average: scores, or ranks where the paradigm gives an
    order only. A paradigm that asks about one document at a time gains nothing."""
    retries: int = 0
    """Ask a prompt again so often whose answer cannot be used, with sampling (temperature 0.7, seeded)."""
    long_documents: LongDocuments = field(default_factory=LongDocuments)
    fusion: Fusion | None = None
    """Fuse with the first stage, or how to fuse the two runs of `fuse`; null: the model's ranking as it is, and minmax
    with equal weights for `fuse`."""
    format_prompts: dict[str, int] = field(default_factory=dict)
    """paradigm -> number of held-out prompts answered greedily to measure the share of well-formed answers."""
    seed: int = 1

    @property
    def asks(self) -> bool:
        """Whether a model is asked."""
        return self.model != "first_stage" and not self.fuse

    @property
    def role(self) -> str:
        """What its row is in a table: first_stage, untrained (the experiment's own model), fusion or system."""
        if self.fuse or self.fusion is not None:
            return "fusion"
        if self.model == "first_stage":
            return "first_stage"
        return "untrained" if self.model == "model" and self.engine is None else "system"

    def __post_init__(self) -> None:
        if self.shuffles < 1 or self.retries < 0:
            raise ValueError(
                f"rerank stage: shuffles must be at least 1 and retries at least 0; got {self.shuffles} and "
                f"{self.retries}"
            )
        if self.shuffles > 1 and not self.shuffle:
            raise ValueError(f"rerank stage: shuffles={self.shuffles} needs shuffle=true, or every order is the same")
        if self.fuse and (len(self.fuse) != 2 or self.model != "model"):
            raise ValueError(
                f"rerank stage: fuse names two rerank stages and goes without a model; got {self.fuse} and "
                f"model={self.model}"
            )
        if self.model == "first_stage" and self.fusion is not None:
            raise ValueError("rerank stage: model=first_stage cannot be fused with the first stage, which it is")


REFERENCE_ROLES = ("first_stage", "untrained")
"""Roles of the runs that stand beside every number, whether an evaluate stage names them or not."""


@dataclass(kw_only=True)
class EvaluateStage(StageConfig):
    """Measure runs."""

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "AP"])
    runs: list[str] = field(default_factory=list)
    """Names of rerank stages, in table order; empty means all that come before it. The first stage and the untrained
    model, where they have been ranked, follow in any case."""
    comparisons: list[list[str]] = field(default_factory=list)
    """Pairs [system, baseline] to be tested on the first measure: names of rerank stages, or of `seeds`."""
    seeds: dict[str, list[str]] = field(default_factory=dict)
    """A name -> the rerank stages of one system that was trained with several seeds. It gets a row with the mean over
    them, an interval over queries and seeds, and can be compared."""
    force: bool = False
    """Also test pairs that were made under different protocols; the table then says so."""


@dataclass(kw_only=True)
class CheckStage(StageConfig):
    """Say whether the mechanisms that a system stands on do in this run what they should."""

    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """An installed check's name -> its parameters. Two of a kind: NAME@ANYTHING."""


@dataclass(kw_only=True)
class ReportStage(StageConfig):
    """One self-contained HTML page with tables and plots."""

    title: str = ""


@dataclass(kw_only=True)
class ExportStage(StageConfig):
    """A model folder that ranks: merged weights, tokenizer, reranker.json."""

    model: str = "grpo"
    """The name of a training stage, or NAME@STEP for one of its checkpoints."""


STAGES: dict[str, type[StageConfig]] = {
    "synth": SynthStage,
    "sft": SFTStage,
    "grpo": GRPOStage,
    "rerank": RerankStage,
    "evaluate": EvaluateStage,
    "check": CheckStage,
    "report": ReportStage,
    "export": ExportStage,
}


def trained(ref: str) -> tuple[str, int | None]:
    """`grpo@40`, a reference to a training stage's checkpoint, as ("grpo", 40); `grpo`, to its final model, as
    ("grpo", None).

    Raises:
        ValueError: if what follows the @ is no number.
    """
    name, at, step = ref.partition("@")
    if at and not step.isdecimal():
        raise ValueError(f"model={ref!r}: what follows the @ is the step of a checkpoint, such as {name}@40")
    return name, int(step) if at else None
