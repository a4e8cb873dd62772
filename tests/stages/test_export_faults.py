"""An export that is killed, or finds the disk full: the folder of before stays, and the next one is whole."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from support.resumption import Forked

from rl_rerank.config import Config, DataConfig, ModelConfig
from rl_rerank.io.files import WriteError
from rl_rerank.serving import contract
from rl_rerank.stages.export import run as export_stage
from rl_rerank.stages.export.spec import ExportStage
from rl_rerank.stages.grpo.spec import GRPOStage

pytestmark = pytest.mark.process


def configuration(folder: Path, model: Path) -> Config:
    return Config(
        run_dir=str(folder / "run"),
        experiment="tiny",
        data=DataConfig(source="jsonl", path=str(folder / "data.jsonl")),
        model=ModelConfig(path=str(model), max_prompt_tokens=512),
        stages={
            "rl": GRPOStage(kind="grpo", micro_batch=8),
            "export": ExportStage(kind="export", model="rl", cross_encoder=False),
        },
    )


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path) -> Config:
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(4):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": "test"}) + "\n")
    shutil.copytree(tiny_model_dir, tmp_path / "run/rl/model")
    return configuration(tmp_path, tiny_model_dir)


def export(config: Config) -> None:
    export_stage.run(config, "export", config.stages["export"])


def killed(config: Config) -> None:
    """Export, and kill this process when the weights and the contract are written."""
    contract.check_schema = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
    export(config)


def on_full_disk(config: Config, said: str) -> None:
    """Export where no file can grow above 40 KB, and keep what is said."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    try:
        export(config)
    except WriteError as e:
        Path(said).write_text(str(e))


def in_a_process(target, *arguments) -> int | None:
    process = Forked.context.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_that_is_killed_leaves_the_one_before_and_is_made_again(config, tmp_path):
    export(config)
    folder = tmp_path / "run/export"
    before = contents(folder / "model")
    assert in_a_process(killed, config) == -signal.SIGKILL
    assert contents(folder / "model") == before
    assert sorted(path.name for path in folder.iterdir()) == [".model.partial", "model"]
    export(config)
    assert contents(folder / "model") == before
    assert [path.name for path in folder.iterdir()] == ["model"]


def test_an_export_on_a_full_disk_is_told_and_leaves_the_one_before(config, tmp_path):
    export(config)
    folder = tmp_path / "run/export"
    before = contents(folder / "model")
    assert in_a_process(on_full_disk, config, str(tmp_path / "said.txt")) == 0
    said = (tmp_path / "said.txt").read_text()
    assert said.startswith(f"{folder}/model cannot be written: File too large; ")
    assert said.endswith(" MiB are free there. The same command goes on when it can be")
    assert contents(folder / "model") == before
    assert [path.name for path in folder.iterdir()] == ["model"]
