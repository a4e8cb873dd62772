"""Checkpoints: written aside, listed in a manifest, checked before they are resumed, deleted behind newer ones."""

import json
import shutil

import pytest
from accelerate import Accelerator
from support.resumption import CASES, Launched, cut, differences, prepare, steps, train
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from rl_rerank.config import Config
from rl_rerank.engines.local.checkpoint import locate
from rl_rerank.io import manifest
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.loop.checkpoints import (
    Checkpoints,
    checkpoint_of,
    resumable_checkpoint,
    written_checkpoint,
)


def checkpoint(folder, step, layout="unsharded"):
    """A complete checkpoint of two files."""
    made = folder / f"checkpoint-{step}"
    (made / "global_step1").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights" * 100)
    (made / "global_step1/optimizer.pt").write_bytes(b"moments" * 100)
    manifest.write(made, {"layout": layout})
    return made


def test_the_newest_checkpoint_is_resumed_and_what_was_never_finished_is_deleted(tmp_path):
    for step in (20, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path / ".partial", 120)
    assert resumable_checkpoint(tmp_path, Accelerator(cpu=True)) == str(tmp_path / "checkpoint-100")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]
    assert resumable_checkpoint(tmp_path / "nothing", Accelerator(cpu=True)) is None


def test_a_checkpoint_of_another_layout_is_refused(tmp_path):
    checkpoint(tmp_path, 20, "zero3 over 8 processes")
    with pytest.raises(ValueError, match="was written zero3 over 8 processes, and this run is unsharded"):
        resumable_checkpoint(tmp_path, Accelerator(cpu=True))


def flip(path):
    content = bytearray(path.read_bytes())
    content[350] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def halve(path):
    path.write_text(path.read_text()[:40])


DAMAGES = {
    "flipped weights": ("model.safetensors", flip, "model.safetensors has other bytes than those that were written"),
    "flipped moments": ("global_step1/optimizer.pt", flip, "global_step1/optimizer.pt has other bytes than those"),
    "truncated": ("model.safetensors", truncate, "model.safetensors has 699 bytes, and its record 700"),
    "missing": ("model.safetensors", lambda path: path.unlink(), "model.safetensors cannot be read: No such file"),
    "no manifest": ("manifest.json", lambda path: path.unlink(), "manifest.json is missing: the folder is incomplete"),
    "half a manifest": ("manifest.json", halve, "manifest.json is no manifest; it was changed after it was written"),
    "empty manifest": ("manifest.json", lambda path: path.write_text("{}"), "manifest.json is no manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    name, change, reason = DAMAGES[damage]
    checkpoint(tmp_path, 20)
    newest = checkpoint(tmp_path, 100)
    change(newest / name)
    assert resumable_checkpoint(tmp_path, Accelerator(cpu=True)) == str(tmp_path / "checkpoint-20")
    assert f"{newest} is damaged and now damaged-100: {newest}/{reason}" in caplog.text
    assert f"training goes on from {tmp_path}/checkpoint-20" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "damaged-100"]


def test_a_run_without_any_good_checkpoint_is_refused_and_nothing_is_moved(tmp_path):
    for step in (20, 100):
        flip(checkpoint(tmp_path / "rl/checkpoints", step) / "model.safetensors")
    with pytest.raises(ValueError, match=r"is whole: .*-100/model.*; .*-20/model.* Remove .*/rl to redo the stage"):
        resumable_checkpoint(tmp_path / "rl/checkpoints", Accelerator(cpu=True))
    assert steps(tmp_path / "rl") == [20, 100]


def saved(tmp_path, step, arguments, checkpoints, *, best=None):
    """What a trainer does to save a checkpoint, less its contents."""
    state = TrainerState(global_step=step, best_global_step=best, is_world_process_zero=True)
    folder = written_checkpoint(arguments, state)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    rotate_checkpoints(str(folder.parent), save_total_limit=arguments.save_total_limit)
    assert not checkpoint_of(arguments, state).exists()
    checkpoints.on_save(arguments, state, TrainerControl())
    return sorted(int(path.parent.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*/manifest.json"))


def begun(tmp_path, limit, read=()):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], save_total_limit=limit)
    checkpoints = Checkpoints(Accelerator(cpu=True), read=read)
    checkpoints.on_train_begin(arguments, TrainerState(is_world_process_zero=True), TrainerControl())
    return arguments, checkpoints


def test_a_checkpoint_is_deleted_only_when_a_newer_one_is_complete(tmp_path):
    arguments, checkpoints = begun(tmp_path, 1)
    assert saved(tmp_path, 2, arguments, checkpoints) == [2]

    class Killed(Exception):
        pass

    def kill():
        raise Killed

    checkpoints.accelerator.wait_for_everyone = kill  # between writing a checkpoint and finishing it
    with pytest.raises(Killed):
        saved(tmp_path, 4, arguments, checkpoints)
    assert resumable_checkpoint(tmp_path, Accelerator(cpu=True)) == str(tmp_path / "checkpoint-2")


def test_the_best_and_the_newest_checkpoint_are_kept(tmp_path):
    arguments, checkpoints = begun(tmp_path, 2)
    assert saved(tmp_path, 2, arguments, checkpoints, best=2) == [2]
    assert saved(tmp_path, 4, arguments, checkpoints, best=2) == [2, 4]
    assert saved(tmp_path, 20, arguments, checkpoints, best=2) == [2, 20]
    assert saved(tmp_path, 22, arguments, checkpoints, best=22) == [20, 22]


def test_checkpoints_that_later_stages_read_are_kept_beside_the_newest(tmp_path):
    arguments, checkpoints = begun(tmp_path, 2, read={4, 8})
    found = [saved(tmp_path, step, arguments, checkpoints) for step in (2, 4, 6, 8, 10, 12)]
    assert found == [[2], [2, 4], [2, 4, 6], [2, 4, 6, 8], [4, 6, 8, 10], [4, 8, 10, 12]]


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    found = tmp_path_factory.mktemp("faults")
    prepare(found, tiny_model_dir)
    return found


def whole_and_cut(folder, model_dir, case, step):
    """Two folders of a case: of its uninterrupted run, and of one that was killed behind a step's checkpoint."""
    for name in ("whole", "again"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(folder / "prepared", folder / "whole")
    train(folder / "whole", model_dir, case)
    shutil.copytree(folder / "whole", folder / "again")
    cut(folder / "again", CASES[case][0], step)
    return folder / "whole", folder / "again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("answers", "model.safetensors"),
        ("lists", "optimizer.pt"),
        ("tokens-reused", "cycle_0.safetensors"),
        ("scores", "rng_state.pth"),
        ("choice-lora", "adapter_model.safetensors"),
    ],
)
def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_the_uninterrupted_one(
    folder, tiny_model_dir, monkeypatch, caplog, case, file
):
    monkeypatch.chdir(folder)
    stage = CASES[case][0]
    # With two steps a batch of completions, step 5 lies within one.
    whole, again = whole_and_cut(folder, tiny_model_dir, case, 5)
    flip(again / stage / "checkpoints/checkpoint-5" / file)
    train(again, tiny_model_dir, case)
    assert f"checkpoint-5/{file} has other bytes" in caplog.text
    assert differences(whole / stage, again / stage) == []


@pytest.mark.slow
def test_a_run_folder_that_is_moved_goes_on_to_the_same_end(folder, tiny_model_dir, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "moved", ignore_errors=True)
    whole, again = whole_and_cut(folder, tiny_model_dir, "scores-lora-dev", 3)
    moved = again.rename(folder / "moved")
    train(moved, tiny_model_dir, "scores-lora-dev")
    assert differences(whole / "scores", moved / "scores") == []


@pytest.mark.process
@pytest.mark.parametrize("full", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_stops_the_run_in_a_sentence_and_leaves_the_last_checkpoint(
    folder, tiny_model_dir, monkeypatch, full
):
    monkeypatch.chdir(folder)
    whole, again = whole_and_cut(folder, tiny_model_dir, "scores", 3)
    kept = again / "scores/checkpoints/checkpoint-3"
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    # The optimizer's state is larger than the model, so each is the first file that does not fit.
    limited = Launched(again, tiny_model_dir, "scores", largest_file=(kept / full).stat().st_size - 1)
    assert limited.wait() == 2
    *_, sentence = [line for line in limited.log.read_text().splitlines() if line.startswith("rl-rerank: ")]
    assert sentence.startswith("rl-rerank: stages.scores, step 4: a record or the checkpoint cannot be written to ")
    assert f"; the last good checkpoint is {kept}. Make room, and the same command goes on" in sentence
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in kept.parent.iterdir()) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    train(again, tiny_model_dir, "scores")
    assert differences(whole / "scores", again / "scores") == []


@pytest.mark.process
def test_a_full_disk_at_the_end_costs_the_model_alone(folder, tiny_model_dir, monkeypatch):
    monkeypatch.chdir(folder)
    whole, again = whole_and_cut(folder, tiny_model_dir, "scores", 6)
    size = (whole / "scores/model/model.safetensors").stat().st_size
    limited = Launched(again, tiny_model_dir, "scores", largest_file=size - 1)
    assert limited.wait() == 2
    *_, sentence = [line for line in limited.log.read_text().splitlines() if line.startswith("rl-rerank: ")]
    assert f"stages.scores, step 6: the model cannot be written to {again}/scores (" in sentence
    assert f"; the last good checkpoint is {again}/scores/checkpoints/checkpoint-6. Make room" in sentence
    assert not list((again / "scores").glob(".model*"))
    train(again, tiny_model_dir, "scores")
    assert differences(whole / "scores", again / "scores") == []


def test_a_checkpoint_that_is_exported_by_its_step_is_checked(tmp_path):
    config = Config(run_dir=str(tmp_path), stages={"sft": SFTStage(kind="sft", micro_batch=8)})
    made = checkpoint(tmp_path / "sft/checkpoints", 4)
    (made / "config.json").write_text(json.dumps({}))
    assert locate(config, "sft@4") == made
    truncate(made / "global_step1/optimizer.pt")
    assert locate(config, "sft@4") == made  # what is not read is not checked
    flip(made / "model.safetensors")
    with pytest.raises(ValueError, match=r"the checkpoint sft@4 is damaged: .*model\.safetensors has other bytes"):
        locate(config, "sft@4")
