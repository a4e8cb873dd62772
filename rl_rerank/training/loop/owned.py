"""The fields of trl's and transformers' arguments that `trl:` may not set: a stage's own settings decide them, or they
would do nothing, or fail when the stage has started."""

from collections.abc import Mapping
from typing import Any

OWNED: Mapping[str, str] = {
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "num_train_epochs": "max_steps",
    "epsilon": "policy.epsilon",
    "epsilon_high": "policy.epsilon_high",
    "importance_sampling_level": "policy.algorithm",
    "multi_objective_aggregation": "policy.algorithm",
    "use_bias_correction_kl": "policy.kl_estimator",
    "steps_per_generation": "policy.updates_per_batch",
    "generation_batch_size": "policy.updates_per_batch and prompts_per_step",
    "vllm_importance_sampling_mode": "rollout.correction",
    "vllm_importance_sampling_clip_max": "rollout.correction_clip",
    "vllm_importance_sampling_cap": "rollout.correction_clip",
}
"""Field of trl's and transformers' arguments -> the setting of a stage that decides it."""

_REASONS: Mapping[str, str] = {
    "eval_strategy eval_steps eval_on_start do_eval load_best_model_at_end metric_for_best_model greater_is_better": (
        "trainers have no evaluation set; eval_steps and keep of a grpo stage rank dev queries"
    ),
    "logging_strategy": "the rules of health read every logged step; logging_steps may be set",
    "resume_from_checkpoint": "the same command goes on from the last checkpoint",
    "push_to_hub hub_model_id hub_token": "push=user/name uploads, with the token in HF_TOKEN or of `hf auth login`",
    "packing eval_packing padding_free assistant_only_loss dataset_text_field dataset_kwargs shuffle_dataset": (
        "a stage makes its rows and their order itself"
    ),
    "chat_template_path eos_token pad_token": "prompts are rendered by the files of the model's folder; change these",
    "model_init_kwargs": "a stage loads its model by the settings of model",
    "label_smoothing_factor": "every trainer has a loss of its own",
}
REFUSED: Mapping[str, str] = {field: reason for fields, reason in _REASONS.items() for field in fields.split()}
"""Field that no stage can use -> the reason, and what to use instead."""


def refuse(place: str, trl: Mapping[str, Any]) -> None:
    """Refuse a field of `trl` that a setting of the stage decides, or that no stage can use.

    Raises:
        ValueError: with the setting, or the reason.
    """
    for key, value in trl.items():
        if key in OWNED:
            raise ValueError(f"{place}.trl.{key}={value!r} would override {place}.{OWNED[key]}; set that instead")
        if key in REFUSED:
            shown = "" if key == "hub_token" else f"={value!r}"
            raise ValueError(f"{place}.trl.{key}{shown} is refused: {REFUSED[key]}")
