import json

import pytest
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState, TrainingArguments

from rl_rerank.engines.local.checkpoint import COMPLETE
from rl_rerank.training.loop.training_log import Records, resumable_checkpoint


def test_the_newest_whole_checkpoint_is_resumed_and_cut_ones_are_deleted(tmp_path):
    for step, whole in ((20, True), (100, True), (120, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            (folder / COMPLETE).write_text("unsharded")
    assert resumable_checkpoint(tmp_path, Accelerator(cpu=True)) == str(tmp_path / "checkpoint-100")
    assert not (tmp_path / "checkpoint-120").exists()
    assert resumable_checkpoint(tmp_path / "nothing", Accelerator(cpu=True)) is None


def test_a_checkpoint_of_another_layout_is_refused(tmp_path):
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20" / COMPLETE).write_text("zero3 over 8 processes")
    with pytest.raises(ValueError, match="was written zero3 over 8 processes, and this run is unsharded"):
        resumable_checkpoint(tmp_path, Accelerator(cpu=True))


def test_metrics_after_the_resumed_step_and_a_half_written_line_are_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = TrainerState(global_step=2, is_world_process_zero=True)
    records = Records(tmp_path, Accelerator(cpu=True), completions=lambda: [{"step": 3, "rewards": {}}])
    records.on_train_begin(arguments, state, TrainerControl())
    state.global_step = 3
    records.on_log(arguments, state, TrainerControl(), logs={"rewards/ndcg/mean": 0.5, "loss": 1.5})
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "reward/ndcg": 0.5, "loss": 1.5},
    ]
    assert json.loads((tmp_path / "completions.jsonl").read_text()) == {"step": 3, "rewards": {}}


def test_completions_that_several_steps_train_on_are_written_once(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = TrainerState(global_step=0, is_world_process_zero=True)
    batches = [[{"step": 1, "rewards": {}}], [{"step": 3, "rewards": {}}]]
    records = Records(tmp_path, Accelerator(cpu=True), completions=lambda: batches[(state.global_step - 1) // 2])
    for state.global_step in (1, 2, 3, 4):
        records.on_log(arguments, state, TrainerControl(), logs={"loss": 1.5})
    written = [json.loads(line)["step"] for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert written == [1, 3]
