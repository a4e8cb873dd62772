"""Loads the teacher of sampled completions."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from rl_rerank.config import Config
from rl_rerank.engines.local import checkpoint
from rl_rerank.engines.local.tokenizer import require_same_vocabulary
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.training.grpo.distillation import TeacherModel
from rl_rerank.training.loop import lengths, precision


def load_teacher(
    config: Config, name: str, policy: TokensPolicy, arguments: TrainingArguments, tokenizer: Any
) -> TeacherModel | None:
    """Load the teacher of the stage `name`; None if it has none, or one of weight 0.

    Args:
        arguments: made before, because ZeRO-3 shards what is loaded as they say.
        tokenizer: the trained model's.

    Raises:
        ValueError: if the teacher has another vocabulary, or a context that is too short.
    """
    if policy.distill is None or not policy.has_teacher:
        return None
    place = f"stages.{name}.policy.distill.model"
    folder = checkpoint.locate_any(config, place, policy.distill.model)
    completion = build_paradigm(config, config.paradigm).max_completion_tokens
    lengths.check_context(config.model, f"{name}.policy.distill.model", completion, folder)
    theirs = checkpoint.load_tokenizer(folder, config.model.trust_remote_code)
    require_same_vocabulary(f"{place}={policy.distill.model}", theirs, tokenizer)
    model = precision.load_frozen(folder, config.model, arguments)
    model.set_attn_implementation(policy.attention)
    return TeacherModel(model, policy.distill.weight)
