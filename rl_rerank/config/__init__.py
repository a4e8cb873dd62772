"""The configuration schema. Dataclasses are the schema, the YAML files under conf/ are diffs.

`build` turns a resolved mapping into these dataclasses; value checks live in `__post_init__` and run there.
"""

from rl_rerank.config.building import build, unknown_key
from rl_rerank.config.commands import ConvertFiles, EvaluateFiles, ReportRuns
from rl_rerank.config.curriculum import CURRICULA, CurriculumConfig
from rl_rerank.config.engine import ENGINE_ARGS, CrossEncoderArgs, EngineConfig, OpenAIArgs
from rl_rerank.config.experiment import (
    STRATEGIES,
    Config,
    DataConfig,
    HubConfig,
    LauncherConfig,
    ModelConfig,
    RewardConfig,
)
from rl_rerank.config.plugin import PluginConfig
from rl_rerank.config.stages import (
    ALGORITHMS,
    REFERENCE_ROLES,
    STAGES,
    CheckStage,
    EvaluateStage,
    ExportStage,
    Fusion,
    GRPOStage,
    LongDocuments,
    LoraConfig,
    ReportStage,
    RerankStage,
    SFTStage,
    StageConfig,
    SynthBudget,
    SynthStage,
    TrainingStage,
    trained,
)

__all__ = [
    "ALGORITHMS",
    "CURRICULA",
    "ENGINE_ARGS",
    "REFERENCE_ROLES",
    "STAGES",
    "STRATEGIES",
    "CheckStage",
    "Config",
    "ConvertFiles",
    "CrossEncoderArgs",
    "CurriculumConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluateFiles",
    "EvaluateStage",
    "ExportStage",
    "Fusion",
    "GRPOStage",
    "HubConfig",
    "LauncherConfig",
    "LongDocuments",
    "LoraConfig",
    "ModelConfig",
    "OpenAIArgs",
    "PluginConfig",
    "ReportRuns",
    "ReportStage",
    "RerankStage",
    "RewardConfig",
    "SFTStage",
    "StageConfig",
    "SynthBudget",
    "SynthStage",
    "TrainingStage",
    "build",
    "trained",
    "unknown_key",
]
