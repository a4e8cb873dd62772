"""The files that `accelerate launch` is given, and the machines that follow another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from rl_rerank.config import STRATEGIES, Config
from rl_rerank.data import prepare
from rl_rerank.experiment import run_state, worker_node
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import conf_dir

EXPERIMENT = """\
# @package _global_
stages:
  sft: {kind: sft, loss: softmax, batch_size: 4, micro_batch: 2, max_steps: 1}
"""


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The second of two machines, which may start at once: the first stage is a training stage."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    candidates = [{"docid": c, "text": f"text {c}"} for c in "ab"]
    row = {"qid": "q", "query": "query", "candidates": candidates, "qrels": {"a": 1}, "split": "train"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    found = compose("run", [*OVERRIDES, f"model.path={tiny_model_dir}"])
    assert isinstance(found, Config)
    return found


OVERRIDES = [
    *("experiment=tiny", "data=jsonl", "data.path=data.jsonl", "run_dir=run", "model.max_prompt_tokens=400"),
    *("launcher=accelerate", "launcher.num_processes=2", "launcher.num_machines=2", "launcher.machine_rank=1"),
    *("launcher.main_process_ip=127.0.0.1", "launcher.main_process_port=29999"),
]


def test_every_strategy_has_its_file():
    assert sorted(path.stem for path in (conf_dir() / "accelerate").iterdir()) == sorted(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_leaves_processes_and_precision_to_the_launcher_and_the_stage(strategy: str):
    path = conf_dir() / "accelerate" / f"{strategy}.yaml"
    values = yaml.safe_load(path.read_text())
    assert values.keys() <= {"compute_environment", "distributed_type", "deepspeed_config"}
    found = load_config_from_file(str(path))
    assert (found.num_processes, found.mixed_precision) == (-1, None)
    deepspeed = values.get("deepspeed_config", {})
    assert bool(deepspeed) == strategy.startswith("zero")
    if deepspeed:
        assert f"zero{deepspeed['zero_stage']}" == strategy.partition("-")[0]
        assert deepspeed["deepspeed_multinode_launcher"] == "standard"
        assert deepspeed["gradient_accumulation_steps"] == deepspeed["gradient_clipping"] == "auto"
    if strategy.startswith("zero3"):
        assert deepspeed["zero3_save_16bit_model"] is True


@pytest.mark.process
def test_a_stage_that_fails_ends_a_following_machine_with_its_status_and_without_a_trace(
    config: Config, caplog: pytest.LogCaptureFixture
):
    prepare(config.data, Path("run/data"))
    before = sorted(Path("run").rglob("*"))
    config.launcher.args = ["--no_such_argument"]
    assert worker_node.follow(config, OVERRIDES) == 2  # argparse's
    assert "stage 'sft' failed with exit status 2" in caplog.text
    assert sorted(Path("run").rglob("*")) == before


def test_a_following_machine_refuses_what_machine_0_did_not_start(config: Config):
    prepare(config.data, Path("run/data"))
    run_state.begin(Experiment.of(config), "sft")
    config.stages["sft"].learning_rate = 1e-3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"stages\.sft\.learning_rate: 1e-05 -> 0\.001"):
        worker_node.follow(config, OVERRIDES)
