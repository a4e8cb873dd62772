"""Settings of stages as arguments of trl and transformers."""

import dataclasses

import pytest
import torch
from transformers import Trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from rl_rerank.experiment.compose import compose
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.loop import owned
from rl_rerank.training.loop.arguments import grpo_arguments, policy_arguments, sft_arguments

pytestmark = pytest.mark.slow


def rates(arguments, steps):
    """The learning rate of every step."""
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=arguments)
    trainer.create_optimizer_and_scheduler(steps)
    found = []
    for _ in range(steps):
        found.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        # (1 + cos(pi t / 6)) / 2
        ("cosine", [0, 0.5, 1, 0.933, 0.75, 0.5, 0.25, 0.067]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
        # The cosine from 1 to .1
        ("cosine_with_min_lr", [0, 0.5, 1, 0.940, 0.775, 0.55, 0.325, 0.160]),
        # The root of 2 / t
        ("inverse_sqrt", [0, 0.5, 1, 0.816, 0.707, 0.632, 0.577, 0.535]),
    ],
)
@pytest.mark.parametrize("kind", ["sft", "tokens", "scores", "choice"])
def test_every_trainer_has_the_schedule_and_the_decay_of_its_stage(tmp_path, kind, schedule, expected):
    common = {"learning_rate": 1e-3, "max_steps": 8, "warmup_ratio": 0.25, "schedule": schedule, "weight_decay": 0.02}
    name = "sft" if kind == "sft" else "grpo"
    settings = [f"stages.{name}.{key}={value}" for key, value in common.items()]
    if schedule == "cosine_with_min_lr":
        settings.append(f"stages.{name}.trl={{lr_scheduler_kwargs: {{min_lr_rate: 0.1}}}}")
    policy = [] if kind == "sft" else [f"stages.grpo.policy={kind}"]
    if kind in ("scores", "choice"):
        policy += ["~stages.grpo.num_generations", "stages.grpo.micro_batch=4"]
    config = compose("run", ["experiment=quickstart_tokens", "report_to=[]", *policy, *settings])
    stage = config.stages[name]
    if isinstance(stage, SFTStage):
        arguments = sft_arguments(config, stage, tmp_path / name)
    elif isinstance(stage, GRPOStage) and isinstance(stage.policy, TokensPolicy):
        arguments = grpo_arguments(config, stage, stage.policy, tmp_path / name, max_completion_tokens=8)
    else:
        assert isinstance(stage, GRPOStage)
        arguments = policy_arguments(config, stage, tmp_path / name)
    assert arguments.weight_decay == 0.02
    assert [rate / 1e-3 for rate in rates(arguments, 8)] == pytest.approx(expected, abs=2e-3)


def test_what_is_refused_are_fields_of_the_arguments():
    fields = {field.name for kind in (SFTConfig, GRPOConfig) for field in dataclasses.fields(kind)}
    assert owned.REFUSED.keys() <= fields


@pytest.mark.parametrize(("kind", "field"), [("sft", "loss_type=dft"), ("grpo", "loss_type=grpo")])
def test_the_loss_of_a_stage_is_not_trls(tmp_path, kind, field):
    config = compose("run", ["experiment=quickstart_tokens", "report_to=[]", f"stages.{kind}.trl.{field}"])
    with pytest.raises(ValueError, match=rf"trl.loss_type is derived from the {kind} stage's own settings"):
        config.stages[kind].arguments(config, tmp_path / kind)


def test_a_reference_that_moves_needs_one(tmp_path):
    config = compose("run", ["experiment=quickstart_tokens", "report_to=[]", "stages.grpo.trl.sync_ref_model=true"])
    with pytest.raises(ValueError, match="sync_ref_model needs a reference model, and beta=0 has none"):
        config.stages["grpo"].arguments(config, tmp_path / "grpo")


@pytest.mark.parametrize(("estimator", "weighted"), [("k3", False), ("k3_weighted", True)])
def test_the_policy_says_which_kl_trl_computes(tmp_path, estimator, weighted):
    settings = [f"stages.grpo.policy.kl_estimator={estimator}", "stages.grpo.rollout=vllm"]
    settings += ["stages.grpo.rollout.correction_clip=2.0", "stages.grpo.policy.updates_per_batch=3"]
    config = compose("run", ["experiment=quickstart_tokens", "report_to=[]", *settings])
    stage = config.stages["grpo"]
    assert isinstance(stage, GRPOStage) and isinstance(stage.policy, TokensPolicy)
    arguments = grpo_arguments(config, stage, stage.policy, tmp_path / "grpo", max_completion_tokens=8)
    assert arguments.use_bias_correction_kl == weighted
    assert arguments.vllm_importance_sampling_clip_max == 2.0
    assert arguments.steps_per_generation == 3 * arguments.gradient_accumulation_steps
