"""The configuration schema: dataclasses define it, the YAML files under conf/ override its defaults.

`build` turns a resolved mapping into these dataclasses; value checks live in `__post_init__` and run there. The
settings of a stage are in `rl_rerank/stages/<kind>/spec.py`, those of an engine beside the engine.
"""

from rl_rerank.config.building import at_least, build, one_of, unknown_key
from rl_rerank.config.commands import ConvertFiles, EvaluateFiles, ReportRuns, VerifyModel, file_arguments
from rl_rerank.config.curriculum import CurriculumConfig
from rl_rerank.config.engine import EngineConfig, EngineKind
from rl_rerank.config.experiment import (
    STRATEGIES,
    Config,
    DataConfig,
    HubConfig,
    LauncherConfig,
    ModelConfig,
    RewardConfig,
)
from rl_rerank.config.first_stage import FirstStageConfig
from rl_rerank.config.lists import ListTargets, WeightsConfig
from rl_rerank.config.lora import LoraConfig
from rl_rerank.config.plugin import PluginConfig
from rl_rerank.config.ranking import FeedbackConfig, FusionConfig, LongDocumentsConfig, TunedWeight
from rl_rerank.config.serve import ServeLimits, ServeModel
from rl_rerank.config.stage import Reference, StageConfig, trained
