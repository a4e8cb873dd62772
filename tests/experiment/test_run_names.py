"""Variants of an experiment have folders of their own; what changes no output does not count."""

from __future__ import annotations

import pytest

from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose


def folder(*overrides: str) -> str:
    config = compose("run", ["experiment=quickstart", *overrides])
    assert isinstance(config, Config)
    return config.run_dir


def test_settings_that_are_named_and_those_that_change_nothing_give_no_digest():
    assert folder("data=beir", "data.path=x/scifact", "engine=vllm", "seed=2") == "runs/quickstart-scifact-vllm-seed2"
    assert folder("data.first_stage=dense", "budget=smoke") == "runs/quickstart-dense-smoke"
    free = ["launcher=accelerate", "report_to=[]", "journal=x", "dry_run=true", "stage=sft", "stages.sft.health=null"]
    assert folder(*free) == "runs/quickstart"


def test_a_stage_that_is_added_or_left_out_goes_on_in_the_same_folder():
    assert folder("stages.more.kind=export", "stages.more.model=rl", "stage=more") == "runs/quickstart"
    assert folder("~stages.report") == "runs/quickstart"


@pytest.mark.parametrize(
    "override",
    [
        "stages.sft.loss=lambdarank",
        "stages.rl.policy=tokens",
        "reward=[ndcg,format]",
        "~stages.rl.learning_rate",
        "engine.batch_tokens=100",
        "model.max_prompt_tokens=512",
        "data.train_queries=7",
        "budget.depth=5",
        "data.first_stage={kind: hybrid, weight: 0.7}",
    ],
)
def test_whatever_else_changes_the_output_has_a_folder_of_its_own(override: str):
    found = folder(override)
    assert found.startswith("runs/quickstart-") and found != folder()
    assert found == folder(override, "report_to=[]")


def test_order_does_not_count_and_values_do():
    one, other = "stages.sft.max_steps=5", "stages.rl.max_steps=5"
    assert folder(one, other) == folder(other, one) != folder(one)
    assert folder(one) != folder("stages.sft.max_steps=6")


def test_an_address_a_price_and_a_limit_of_a_server_do_not_count():
    served = ["engine=openai", "engine.args.model=m"]
    more = ["engine.args.base_url=http://a/v1", "engine.args.concurrency=2", "engine.args.prompt_price=1"]
    assert folder(*served, *more, "engine.args.max_cost=5") == folder(*served)
    assert folder("engine=openai", "engine.args.model=n") != folder(*served)


def test_other_settings_see_the_folder():
    config = compose("run", ["experiment=quickstart", "seed=2", "stages.sft.loss=listnet", "journal=${run_dir}/j"])
    assert isinstance(config, Config)
    assert config.journal == f"{config.run_dir}/j" and config.run_dir.startswith("runs/quickstart-seed2-")
    assert folder("run_dir=here", "stages.sft.loss=listnet") == "here"
