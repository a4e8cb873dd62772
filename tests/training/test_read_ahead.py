"""Batches that the data loader's processes render ahead are those that the trainer renders itself."""

import shutil

import pytest
import torch
from support.resumption import CASES, differences, prepare, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    found = tmp_path_factory.mktemp("ahead")
    prepare(found, tiny_model_dir)
    return found


@pytest.mark.parametrize("case", ["answers", "answers-budget", "lists", "scores", "scores-budget", "choice"])
def test_a_stage_whose_batches_are_rendered_ahead_ends_as_one_whose_are_not(folder, tiny_model_dir, monkeypatch, case):
    monkeypatch.chdir(folder)
    runs = [shutil.copytree(folder / "prepared", folder / f"{case}-{workers}") for workers in (0, 2)]
    stage = CASES[case][0]
    train(runs[0], tiny_model_dir, case)
    torch.manual_seed(99)
    ahead = f"stages.{stage}.trl={{save_total_limit: 10, dataloader_num_workers: 2}}"
    train(runs[1], tiny_model_dir, case, ahead)
    assert differences(runs[0] / stage, runs[1] / stage) == []
    # Behind a checkpoint.
    shutil.rmtree(runs[1] / stage / "model")
    for step in (4, 5, 6):
        shutil.rmtree(runs[1] / stage / f"checkpoints/checkpoint-{step}")
    train(runs[1], tiny_model_dir, case, ahead)
    assert differences(runs[0] / stage, runs[1] / stage) == []
