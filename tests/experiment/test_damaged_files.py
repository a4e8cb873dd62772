"""Files of a run folder that were damaged between two stages: each is refused by name, or made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import plain_run

from rl_rerank.cli.main import main
from rl_rerank.experiment import runner


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of which only the report is left to make."""
    folder = tmp_path_factory.mktemp("finished")
    plain_run.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runner.subprocesses, "run", plain_run.stage_here)
        assert main(plain_run.arguments("run")) == 0
    forget(folder, "report")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(runner.subprocesses, "run", plain_run.stage_here)
    return tmp_path / "copy"


def forget(folder: Path, *stages: str) -> None:
    for stage in stages:
        shutil.rmtree(folder / "run" / stage)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (flip, "has other bytes than those that were written: its SHA-256 is not the recorded one"),
    "truncated": (truncate, "bytes, and its record"),
    "missing": (Path.unlink, "cannot be read: No such file or directory"),
}


def refused(folder: Path, damage: str, name: str, capsys: pytest.CaptureFixture[str], *, stage: str, of: str) -> None:
    """Damage a file: the next stage is refused with its name, and nothing changes; the whole file lets it go on."""
    path = folder / "run" / name
    whole = path.read_bytes()
    change, reason = DAMAGES[damage]
    change(path)
    before = plain_run.results(folder / "run")
    assert main(plain_run.arguments("run")) == 2
    shown = capsys.readouterr().err
    assert f"rl-rerank: stage {stage!r} reads {of}, which has changed since" in shown
    assert f"run/{name} " in shown and reason in shown
    assert plain_run.results(folder / "run") == before and not (folder / "run" / stage / "log.txt").exists()
    path.write_bytes(whole)
    assert main(plain_run.arguments("run")) == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_file_is_refused_by_the_stage_that_reads_it(folder, capsys, damage):
    forget(folder, "evaluate")
    refused(folder, damage, "shown/run.trec", capsys, stage="evaluate", of="what stage 'shown' left")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_measures_are_refused_by_the_report(folder, capsys, damage):
    refused(folder, damage, "evaluate/metrics.json", capsys, stage="report", of="what stage 'evaluate' left")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_store_is_refused_by_the_stage_that_reads_it(folder, capsys, damage):
    forget(folder, "shown")
    refused(folder, damage, "data/documents.jsonl", capsys, stage="shown", of="run/data")


def test_a_data_store_that_is_removed_is_made_again_and_nothing_else(folder):
    before = plain_run.results(folder / "run")
    entries = (folder / "run/ledger.jsonl").read_text().splitlines()
    shutil.rmtree(folder / "run/data")
    assert main(plain_run.arguments("run")) == 0
    assert plain_run.results(folder / "run") == before
    made = [line for line in (folder / "run/ledger.jsonl").read_text().splitlines() if line not in entries]
    assert [json.loads(line)["stage"] for line in made] == ["report"]


@pytest.mark.parametrize("name", ["ledger.jsonl", "shown/stage.json", "data/store.json", "data/outputs.json"])
def test_a_truncated_record_of_the_run_is_refused_with_its_name(folder, capsys, name):
    path = folder / "run" / name
    path.write_text(path.read_text()[:-20])
    if name == "data/outputs.json":
        forget(folder, "first_stage")  # the report does not read the data
    before = plain_run.results(folder / "run")
    assert main(plain_run.arguments("run")) == 2
    shown = capsys.readouterr().err
    [sentence] = [line for line in shown.splitlines() if line.startswith("rl-rerank: ")]
    assert f"run/{name}" in sentence and "not JSON" in sentence
    assert plain_run.results(folder / "run") == before


def test_a_missing_ledger_redoes_the_stages_to_the_same_results(folder):
    before = plain_run.results(folder / "run")
    (folder / "run/ledger.jsonl").unlink()
    assert main(plain_run.arguments("run")) == 0
    assert plain_run.results(folder / "run") == before
    done = [json.loads(line)["stage"] for line in (folder / "run/ledger.jsonl").read_text().splitlines()]
    assert sorted(done) == sorted(plain_run.STAGES)
