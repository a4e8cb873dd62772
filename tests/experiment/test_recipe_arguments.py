"""The recipes of published systems: the arguments of their trainers are those of the table in docs/systems.md."""

import importlib
import re
from pathlib import Path

import pytest

from rl_rerank.experiment.compose import compose
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.cross_encoder.spec import CrossEncoderStage
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.stages.training import TrainingStage
from rl_rerank.training.loop.arguments import grpo_arguments, policy_arguments, sft_arguments
from rl_rerank.training.loop.batches import layout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = ("reasonrank", "reasonrank_32b", "grouprank", "rank_r1", "rank_r1_v02", "erank", "prorank", "screening")
RECIPES += ("prp", "first", "fullrank", "curricula", "losses", "ranklist", "recgaze", "baidu")


def table():
    """Rows of the table as column -> text."""
    page = (ROOT / "docs/systems.md").read_text(encoding="utf-8")
    section = page.split("## How they train\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip().strip("`") for cell in row] for row in cells]
    return [dict(zip(head, row, strict=True)) for row in rows]


def built(config, name, stage, tmp_path):
    if isinstance(stage, SFTStage):
        return sft_arguments(config, stage, tmp_path / name)
    assert isinstance(stage, GRPOStage)
    if not isinstance(stage.policy, TokensPolicy):
        return policy_arguments(config, stage, tmp_path / name)
    longest = build_paradigm(config, config.paradigm).max_completion_tokens
    return grpo_arguments(config, stage, stage.policy, tmp_path / name, max_completion_tokens=longest)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_trainers_of_a_recipe_have_the_arguments_of_the_table(recipe, tmp_path):
    rows = {row["stage"]: row for row in table() if row["recipe"] == recipe}
    own_data = [] if recipe == "screening" else ["data=jsonl", "data.path=none.jsonl"]
    config = compose("run", [f"experiment={recipe}", *own_data, "report_to=[]"])
    stages = {name: stage for name, stage in config.stages.items() if isinstance(stage, TrainingStage)}
    assert list(rows) == list(stages)
    for name, stage in stages.items():
        layout(name, stage.step(), stage.micro_batch, config.launcher.num_processes)  # it divides over its GPUs
        stage.bf16 = False  # refused without a GPU
        arguments, row = built(config, name, stage, tmp_path), rows[name]
        assert row["model"] == config.model.path
        steps = int(row["steps"])
        assert arguments.max_steps == steps
        assert arguments.lr_scheduler_type.value == row["schedule"]
        assert arguments.warmup_steps == round(float(row["warm-up"]) * steps)
        assert arguments.weight_decay == float(row["weight decay"])
        share = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        per_step = share * config.launcher.num_processes
        if not isinstance(stage, GRPOStage) or not isinstance(stage.policy, TokensPolicy):
            assert (row["KL"], row["updates"], row["a step"]) == ("-", "1", str(per_step))
            continue
        estimator = "k3_weighted" if arguments.use_bias_correction_kl else "k3"
        assert row["KL"] == f"{estimator}, {arguments.beta:g}"
        assert row["a step"] == str(per_step // arguments.num_generations)
        updates = arguments.steps_per_generation / arguments.gradient_accumulation_steps
        assert float(row["updates"]) == updates and arguments.num_iterations == 1
        assert arguments.vllm_importance_sampling_clip_max == stage.rollout.correction_clip == 3


def test_the_table_names_every_recipe_and_what_ends_its_answers():
    rows = table()
    assert tuple(dict.fromkeys(row["recipe"] for row in rows)) == RECIPES
    assert all(row["answers end with"].replace("\\", "").startswith(("<|im_end|>", "</s>")) for row in rows)


def test_the_page_of_systems_keeps_its_table_when_it_is_written_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its scripts import each other
    written = importlib.import_module("systems_page").page(tmp_path, [])
    section = (ROOT / "docs/systems.md").read_text(encoding="utf-8").split("## How they train")[1].split("\n## ")[0]
    assert f"## How they train{section.rstrip()}\n" in written


def test_the_encoders_of_the_pipeline_have_the_settings_that_the_page_names():
    config = compose("run", ["experiment=multistage", "data=jsonl", "data.path=none.jsonl"])
    page = (ROOT / "docs/systems.md").read_text(encoding="utf-8")
    [said] = [part for part in page.split("\n\n") if part.startswith("The encoders of `multistage`")]
    trained = [stage for stage in config.stages.values() if isinstance(stage, CrossEncoderStage) and stage.max_steps]
    assert len(trained) == 2
    for stage in trained:
        values = (f"`{stage.model}`", f"{stage.max_steps:,} steps of {stage.batch_size} prompts", stage.schedule)
        values += (f"warm-up of {stage.warmup_ratio}", f"decay of {stage.weight_decay}", f"rate {stage.learning_rate},")
        assert all(value in " ".join(said.split()) for value in values)
