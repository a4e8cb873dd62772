import json

from transformers import TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io import rotated
from rl_rerank.training.loop.training_log import Records


def test_metrics_after_the_resumed_step_and_a_half_written_line_are_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    (tmp_path / "completions.jsonl").write_bytes('{"step": 1}\n{"step": 2, "query": "é'.encode()[:-1])
    metrics.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = TrainerState(global_step=2, is_world_process_zero=True)
    records = Records(tmp_path, completions=lambda: [{"step": 3, "qid": "q", "rewards": {}}])
    records.on_train_begin(arguments, state, TrainerControl())
    state.global_step = 3
    records.on_log(arguments, state, TrainerControl(), logs={"rewards/ndcg/mean": 0.5, "loss": 1.5})
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "reward/ndcg": 0.5, "loss": 1.5},
    ]
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1}, {"step": 3, "qid": "q", "rewards": {}}]


def test_a_run_that_is_cut_ends_with_the_completions_of_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(rotated, "LIMIT", 150)  # of rows of 33 bytes, so 4 rows of a step do not fill it, and 8 do
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])

    def log(folder, first, last):
        state = TrainerState(global_step=first, is_world_process_zero=True)
        made = []
        records = Records(folder, completions=lambda: made, most=4)
        records.on_train_begin(arguments, state, TrainerControl())
        for step in range(first + 1, last + 1):
            state.global_step = step
            made[:] = [{"step": step, "qid": f"q{query}", "n": n} for query in range(4) for n in range(2)]
            records.on_log(arguments, state, TrainerControl(), logs={"loss": 1.5})

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    log(tmp_path / "whole", 0, 30)
    log(tmp_path / "cut", 0, 23)
    with (tmp_path / "cut/completions.jsonl").open("a") as file:
        file.write('{"step": 24, "q')
    log(tmp_path / "cut", 18, 22)
    log(tmp_path / "cut", 20, 30)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("*.jsonl")} for name in ("whole", "cut")]
    assert files[0] == files[1]
    # The first file, the newest three that are full, and the one that is written.
    assert sorted(files[0]) == [*(f"completions.{number}.jsonl" for number in (25, 27, 29, 3)), *CURRENT]
    steps = [row["step"] for row in rotated.read(tmp_path / "whole/completions.jsonl")]
    assert steps == [step for step in (1, 2, *range(23, 31)) for _ in range(4)]


CURRENT = ("completions.jsonl", "metrics.jsonl")
