"""What was made from something that has changed is refused or made anew; what only lies elsewhere is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment import run_lock, run_state, runner
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl, write_jsonl

EXPERIMENT = """\
# @package _global_
paradigm: mine
paradigms:
  mine: {target: code/paradigm.py:Mine}
rewards:
  mine: {target: code/reward.py:mine}
  trl_function: {target: null, params: {function: code/reward.py:trl}}
stages:
  first_stage: {kind: rerank, model: first_stage}
  synth: {kind: synth, teacher: labels, mixture: {mine: 4}, steps: {edit: {target: code/step.py:Edit}}}
  untrained: {kind: rerank, model: model}
  grpo: {kind: grpo, model: model, prompts_per_step: 2, num_generations: 2, micro_batch: 2}
  evaluate: {kind: evaluate, runs: [first_stage], measures: [nDCG@10]}
"""
CODE = {
    "paradigm": "from rl_rerank.paradigms.pointwise import Pointwise as Mine\n",
    "source": "from rl_rerank.data.sources.beir import Beir as Mine\n",
    "reward": "def mine(example, rollout):\n    return 1.0\n\n\ndef trl(completions, **columns):\n    return [1.0]\n",
    "step": "class Edit:\n    def __call__(self, examples, context):\n        yield from examples\n",
}
STAGES = ("first_stage", "synth", "untrained", "grpo")
DATA = ["data.path=collection", "run_dir=run", "model.path=model", "report_to=[]"]
OWNER = """\
import time
from pathlib import Path
from rl_rerank.experiment.run_lock import locked
with locked(Path("run")):
    print("locked", flush=True)
    time.sleep(600)
"""
OURS, OF_A_FILE = "beir", "code/source.py:Mine"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("conf/experiment", "code", "model", "collection/qrels"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "conf/experiment/stale.yaml").write_text(EXPERIMENT)
    for name, code in CODE.items():
        (tmp_path / f"code/{name}.py").write_text(code)
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    documents = [{"_id": f"d{i}", "title": "", "text": f"text {i} of ice"} for i in range(6)]
    write_jsonl(tmp_path / "collection/corpus.jsonl", documents)
    write_jsonl(tmp_path / "collection/queries.jsonl", [{"_id": f"q{i}", "text": "ice"} for i in range(4)])
    for split, qids in {"train": "01", "test": "23"}.items():
        rows = "".join(f"q{q}\td{q}\t1\n" for q in qids)
        (tmp_path / f"collection/qrels/{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*overrides: str, source: str = OURS) -> Experiment:
    config = compose("run", ["experiment=stale", f"data.source={source}", *DATA, *overrides])
    assert isinstance(config, Config)
    return Experiment.of(config)


def finish_all(experiment: Experiment) -> None:
    """Record the stages as done, without their work."""
    runner.prepared(experiment)
    for name in STAGES:
        run_state.begin(experiment, name)
        run_state.finish(experiment, name, 1.0)


def outcome(experiment: Experiment, name: str) -> str:
    """What `rl-rerank run` would do with a stage: refused with a sentence, or made anew, or done."""
    try:
        runner.prepared(experiment)
    except ValueError as e:
        return str(e)
    return "redone" if run_state.done(experiment, name) is None else "done"


def append(path: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / path).open("a") as file:
            file.write(text)

    return change


def move(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: os.rename(folder / old, folder / new)


def copy_data(folder: Path) -> None:
    shutil.copytree(folder / "collection", folder / "other/place")
    shutil.rmtree(folder / "collection")


def other_data(folder: Path) -> None:
    shutil.copytree(folder / "collection", folder / "other")
    append("other/qrels/test.tsv", "q2\td5\t1\n")(folder)


def weights(folder: Path) -> None:
    path = folder / "model/model.safetensors"
    before = path.stat()
    path.write_bytes(b"WEIGHTS")  # of the same size, and as old as the others
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


EDIT = "# edited\n"
MATRIX = {
    "paradigm": (append("code/paradigm.py", EDIT), "untrained", [], "paradigms.mine.file_sha256: "),
    "paradigm of training": (append("code/paradigm.py", EDIT), "grpo", [], "paradigms.mine.file_sha256: "),
    "reward": (append("code/reward.py", EDIT), "grpo", [], "rewards.mine.file_sha256: "),
    "function": (append("code/reward.py", EDIT), "grpo", [], "rewards.trl_function.params.function_sha256: "),
    "step": (append("code/step.py", EDIT), "synth", [], "stages.synth.steps.edit.file_sha256: "),
    "weights": (weights, "untrained", [], "model.weights_sha256: "),
    "chat template": (append("model/chat_template.jinja", "{{ x }}"), "grpo", [], "model.weights_sha256: "),
    "other model": (lambda folder: None, "untrained", ["model.path=nowhere"], "model.path: model -> nowhere"),
    "other data": (other_data, "first_stage", ["data.path=other"], "data.path: collection -> other"),
    "qrels": (append("collection/qrels/test.tsv", "q2\td5\t1\n"), "first_stage", [], "redone"),
    "corpus": (append("collection/corpus.jsonl", '{"_id": "d9", "text": "ice"}\n'), "grpo", [], "redone"),
    "./": (lambda folder: None, "untrained", ["data.path=./collection/", "model.path=./model"], "done"),
    "moved data": (copy_data, "untrained", ["data.path=other/place"], "done"),
    "data that are not here": (lambda folder: shutil.rmtree("collection"), "grpo", [], "done"),
    "moved model": (move("model", "renamed"), "grpo", ["model.path=renamed"], "done"),
    "moved code": (
        move("code", "elsewhere"),
        "grpo",
        [
            "paradigms.mine.target=elsewhere/paradigm.py:Mine",
            "rewards.mine.target=elsewhere/reward.py:mine",
            "rewards.trl_function.params.function=elsewhere/reward.py:trl",
            "stages.synth.steps.edit.target=elsewhere/step.py:Edit",
        ],
        "done",
    ),
    "renamed run": (move("run", "renamed"), "untrained", ["run_dir=renamed"], "done"),
    "copied run": (lambda folder: shutil.copytree("run", "a/b") and None, "grpo", ["run_dir=a/b"], "done"),
    "nothing": (lambda folder: None, "synth", [], "done"),
}


@pytest.mark.parametrize("case", MATRIX)
def test_a_stage_is_refused_redone_or_done(folder: Path, case: str):
    change, name, overrides, expected = MATRIX[case]
    finish_all(made())
    change(folder)
    found = outcome(made(*overrides), name)
    assert found == expected if expected in ("done", "redone") else expected in found


def test_a_source_of_a_file_belongs_to_the_data(folder: Path):
    finish_all(made(source=OF_A_FILE))
    assert outcome(made(source=OF_A_FILE), "untrained") == "done"
    shutil.copytree("code", "elsewhere")
    assert outcome(made(source="elsewhere/source.py:Mine"), "untrained") == "done"
    append("code/source.py", EDIT)(folder)
    assert "data.source_sha256: " in outcome(made(source=OF_A_FILE), "untrained")


def test_a_run_from_before_digests_were_noted_goes_on(folder: Path):
    finish_all(made())
    entries = {entry["stage"]: entry for entry in read_jsonl(folder / "run/ledger.jsonl")}
    path = folder / "run/grpo/stage.json"
    begun = json.loads(path.read_text())
    del begun["config"]["model"]["weights_sha256"], begun["config"]["paradigms"]["mine"]["file_sha256"]
    path.write_text(json.dumps(begun))
    entries["grpo"]["config"] = run_state.digest.of_json(begun["config"])
    write_jsonl(folder / "run/ledger.jsonl", entries.values())
    assert outcome(made(), "grpo") == "done"


@pytest.mark.process
def test_a_single_stage_waits_for_no_run_in_its_folder(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.3)
    command = ["rerank", "experiment=stale", f"data.source={OURS}", *DATA, "stage=first_stage"]
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "locked\n"
        assert main(command) == 2
        assert f"another process ({owner.pid} on " in capsys.readouterr().err
        assert not (folder / "run/config.json").exists()
    finally:
        owner.kill()
        owner.wait()
    assert main(command) == 0
    with run_lock.locked(folder / "run"):  # as the process of a stage inherits it
        assert main(command) == 0


def test_a_single_stage_reads_no_stale_output(folder: Path, capsys: pytest.CaptureFixture[str]):
    command = ["experiment=stale", f"data.source={OURS}", *DATA]
    assert main(["rerank", *command, "stage=first_stage"]) == 0
    assert main(["evaluate", *command]) == 0
    append("collection/qrels/test.tsv", "q2\td5\t1\n")(folder)
    assert main(["evaluate", *command]) == 2
    error = capsys.readouterr().err
    assert "stage 'evaluate' follows from 'first_stage', whose output is stale" in error
    assert "`rl-rerank rerank stage=first_stage` this stage alone" in error
    assert main(["rerank", *command, "stage=first_stage"]) == 0
    assert main(["evaluate", *command]) == 0
