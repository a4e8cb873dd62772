"""The fields of trl's and transformers' arguments that a stage's own settings decide, and that `trl:` may not set."""

from collections.abc import Mapping
from typing import Any

OWNED: Mapping[str, str] = {
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "use_bias_correction_kl": "policy.kl_estimator",
    "steps_per_generation": "policy.updates_per_batch",
    "generation_batch_size": "policy.updates_per_batch and prompts_per_step",
    "vllm_importance_sampling_mode": "rollout.correction",
    "vllm_importance_sampling_clip_max": "rollout.correction_clip",
    "vllm_importance_sampling_cap": "rollout.correction_clip",
}
"""Field of trl's and transformers' arguments -> the setting of a stage that decides it."""


def refuse(place: str, trl: Mapping[str, Any]) -> None:
    """Refuse a field of `trl` that a setting of the stage decides.

    Raises:
        ValueError: with the setting.
    """
    for key, value in trl.items():
        if key in OWNED:
            raise ValueError(f"{place}.trl.{key}={value!r} would override {place}.{OWNED[key]}; set that instead")
