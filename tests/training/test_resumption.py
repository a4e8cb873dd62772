"""Training stages that are cut off or killed with SIGKILL and continued end as the uninterrupted ones, bit for bit."""

import importlib.util
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.resumption import (
    CASES,
    Forked,
    Launched,
    begun,
    cut,
    differences,
    kill_between_steps,
    prepare,
    seconds_per_step,
    steps,
    train,
)

from rl_rerank.io import manifest
from rl_rerank.io.files import read_jsonl
from rl_rerank.reward.base import RewardError

KILLED = ("answers", "lists", "tokens-reused", "scores")
"""One of each trainer: AnswerTrainer, RankingTrainer, RankingGRPOTrainer, PolicyTrainer."""
SHARDED = {
    "zero2": ("tokens-reused", "scores", "answers-lora"),
    "zero3": ("tokens-reused", "tokens-reused-lora", "answers"),
}


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    found = tmp_path_factory.mktemp("resumed")
    prepare(found, tiny_model_dir)
    return found


@pytest.fixture
def begin(folder, monkeypatch):
    """Make a run's folder in which only the synth stage has run."""
    monkeypatch.chdir(folder)
    return lambda name: begun(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "step"),
    [
        *((case, 3) for case in CASES if case not in KILLED and "seldom" not in case),
        ("tokens-reused-lora", 2),
        ("answers", 4),  # in the second pass over the rows
    ],
)
def test_a_stage_continued_behind_a_checkpoint_ends_as_the_uninterrupted_one(begin, tiny_model_dir, case, step):
    stage = CASES[case][0]
    whole = begin("whole")
    train(whole, tiny_model_dir, case)
    again = begin("again")
    shutil.copytree(whole / stage, again / stage)
    cut(again, stage, step)
    torch.manual_seed(99)  # nothing depends on what a process did before
    train(again, tiny_model_dir, case)
    assert differences(whole / stage, again / stage) == []
    if case != "tokens-stopped" and "dev" not in case:  # the best step on dev queries may be the start
        weights, start = (load_file(found / "model.safetensors") for found in (whole / stage / "model", tiny_model_dir))
        assert any(not torch.equal(weights[name], start[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tokens-reused-lora", "tokens-stopped", "scores-lora-dev"])
def test_a_stage_whose_training_had_ended_only_saves_its_model(begin, tiny_model_dir, case):
    stage = CASES[case][0]
    whole = begin("whole")
    train(whole, tiny_model_dir, case)
    again = begin("again")
    shutil.copytree(whole / stage, again / stage)
    shutil.rmtree(again / stage / "model")
    train(again, tiny_model_dir, case)
    assert differences(whole / stage, again / stage) == []


@pytest.mark.slow
def test_a_checkpoint_that_does_not_say_whether_rows_are_packed_is_refused(begin, tiny_model_dir):
    run = begin("again")
    train(run, tiny_model_dir, "scores")
    cut(run, "scores", 3)
    checkpoint = run / "scores/checkpoints/checkpoint-3"
    layout = manifest.read(checkpoint)["layout"]
    (checkpoint / "packed_rows.json").unlink()
    manifest.write(checkpoint, {"layout": layout})  # as if it had been saved so
    with pytest.raises(FileNotFoundError, match=r"checkpoint-3/packed_rows.json is missing: .* an earlier version"):
        train(run, tiny_model_dir, "scores")


@pytest.mark.slow
def test_a_stage_whose_reward_failed_goes_on_as_if_it_had_not(begin, tiny_model_dir, folder):
    whole, again = begin("whole"), begin("again")
    seldom = "stages.tokens.save_steps=4"
    train(whole, tiny_model_dir, "tokens", seldom)
    rows = read_jsonl(whole / "tokens/completions.jsonl")
    before = {row["qid"] for row in rows if row["step"] <= 2}
    (folder / "fails").write_text(" ".join({row["qid"] for row in rows if row["step"] == 3} - before))
    with pytest.raises(RewardError, match="no judge"):
        train(again, tiny_model_dir, "tokens", seldom)
    (folder / "fails").unlink()
    assert steps(again / "tokens") == [2]
    train(again, tiny_model_dir, "tokens", seldom)
    shutil.rmtree(again / "tokens/checkpoints/checkpoint-2")
    assert differences(whole / "tokens", again / "tokens") == []


@pytest.mark.process
@pytest.mark.parametrize("case", [*KILLED, "tokens-logged-seldom"])
def test_a_stage_killed_twice_ends_as_the_uninterrupted_one(begin, tiny_model_dir, case):
    killed_and_continued(begin, CASES[case][0], lambda run_dir: Forked(run_dir, tiny_model_dir, case), kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_any_stage_killed_at_random_ends_as_the_uninterrupted_one(begin, tiny_model_dir, case):
    killed_and_continued(begin, CASES[case][0], lambda run_dir: Forked(run_dir, tiny_model_dir, case), kills=1)


@pytest.mark.soak
@pytest.mark.parametrize(("strategy", "case"), [(strategy, case) for strategy in SHARDED for case in SHARDED[strategy]])
def test_a_sharded_stage_killed_twice_ends_as_the_uninterrupted_one(begin, tiny_model_dir, strategy, case):
    launcher = ["launcher=accelerate", f"launcher.strategy={strategy}", "launcher.num_processes=2"]

    def start(run_dir):
        return Launched(run_dir, tiny_model_dir, case, *launcher)

    killed_and_continued(begin, CASES[case][0], start, kills=2)


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_stage_that_samples_with_vllm_is_killed_and_ends_as_the_uninterrupted_one(begin, tiny_model_dir):
    # On a CPU, where completions do not depend on the batch.
    rollout = "stages.tokens.rollout={kind: vllm, args: {num_gpu_blocks_override: 64, enforce_eager: true}}"
    killed_and_continued(
        begin, "tokens", lambda run_dir: Launched(run_dir, tiny_model_dir, "tokens-reused", rollout), kills=1
    )


def killed_and_continued(begin, stage, start, *, kills):
    """Kill a stage at random points, each behind the last one, and compare what it ends with."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    whole, again = begin("whole"), begin("again")
    between = seconds_per_step(start(whole), whole / stage)
    # Behind the last kill there are two steps left.
    for step in sorted(rng.sample(range(1, 4), kills)):
        kill_between_steps(start(again), again / stage, step, rng.random() * between)
        assert not (again / stage / "model").exists()
    assert start(again).wait() == 0
    assert differences(whole / stage, again / stage) == [], f"kills of seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["answers-lora", "lists-lora", "tokens", "scores", "choice-lora"])
def test_two_runs_of_one_seed_are_the_same_and_two_seeds_are_not(begin, tiny_model_dir, case):
    stage = CASES[case][0]
    one, two, other = begin("one"), begin("two"), begin("other")
    train(one, tiny_model_dir, case)
    torch.manual_seed(99)  # as if the process had done something else before
    train(two, tiny_model_dir, case)
    assert differences(one / stage, two / stage) == []
    train(other, tiny_model_dir, case, f"stages.{stage}.seed=2")
    assert any("model" in name for name in differences(one / stage, other / stage))
