"""A GRPO stage that is killed at each place of its work goes on to the same end, bit for bit."""

import shutil
import signal

import pytest
from support.kill_points import POINTS, KilledAt
from support.resumption import begun, differences, prepare, steps, train

from rl_rerank.io import manifest

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    """A folder with an uninterrupted run, `whole`."""
    found = tmp_path_factory.mktemp("killed")
    prepare(found, tiny_model_dir)
    train(begun(found, "whole"), tiny_model_dir, "tokens")
    return found


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_anywhere_leaves_whole_checkpoints_and_the_run_ends_in_the_same_bits(
    folder, tiny_model_dir, monkeypatch, point
):
    monkeypatch.chdir(folder)
    again = begun(folder, "again")
    assert KilledAt(point, again, tiny_model_dir, "tokens").wait() == -signal.SIGKILL
    stage = again / "tokens"
    assert not (stage / "model").exists()
    assert 1 <= len(steps(stage)) <= 6
    assert {manifest.damage(stage / f"checkpoints/checkpoint-{step}") for step in steps(stage)} == {None}
    train(again, tiny_model_dir, "tokens")
    assert differences(folder / "whole/tokens", stage) == []
    assert not list(stage.glob(".model*")) and not list((stage / "checkpoints/.partial").glob("*"))
    shutil.rmtree(again)
