"""Stages that ask a server: what they leave behind, what they pay for, and where they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.openai_stand_in import StandIn, error, message, serving

from rl_rerank.io.files import read_jsonl

pytestmark = pytest.mark.process

KEY = "sk-secret-0123456789"
EXPERIMENT = """\
# @package _global_
paradigm: listwise
paradigms:
  listwise: {params: {window: 3, stride: 1}}
stages:
  synth:
    kind: synth
    teacher: model
    mixture: {listwise: 3}
    steps: {answers: {params: {paradigm: listwise}}, well_formed: {}}
  served: {kind: rerank, format_prompts: {listwise: 2}}
  evaluate: {kind: evaluate}
  report: {kind: report}
"""
pytest.importorskip("tenacity", reason="the extra openai has it")


@pytest.fixture
def server():
    with serving() as stand_in:
        stand_in.reply = lambda *_: message("[2] > [1] > [3]")
        yield stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment, its data, and modules that make `import torch` and its like fail."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/served.yaml").write_text(EXPERIMENT)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(8):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": ("test", "train")[i % 2]}) + "\n")
    (tmp_path / "no_torch").mkdir()
    for name in ("torch", "transformers", "trl", "peft", "vllm"):
        (tmp_path / "no_torch" / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    return tmp_path


def run(folder: Path, server: StandIn, *overrides: str, command: str = "run") -> subprocess.CompletedProcess[str]:
    arguments = [command, f"--config-dir={folder / 'conf'}", "experiment=served", "data=jsonl"]
    arguments += [f"data.path={folder / 'data.jsonl'}", f"run_dir={folder / 'run'}", "engine=openai"]
    arguments += [
        "engine.args.model=m",
        f"engine.args.base_url={server.url}",
        "engine.args.retry_wait=0.01",
        *overrides,
    ]
    path = os.pathsep.join([str(folder / "no_torch"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OPENAI_API_KEY": KEY}
    return subprocess.run(
        [sys.executable, "-m", "rl_rerank", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def summary(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / "run" / stage / "summary.json").read_text())


def test_a_served_teacher_and_reranker_run_without_torch_and_are_paid_once(folder, server):
    server.reply = lambda body, number: error(429, f"slow down {KEY}") if number == 1 else message("[2] > [1] > [3]")
    ended = run(folder, server, "engine.args.prompt_price=1", "engine.args.completion_price=2")
    assert ended.returncode == 0, ended.stderr
    rows = read_jsonl(folder / "run/synth/rows.jsonl")
    assert {row["target"] for row in rows} == {"[2] > [1] > [3]"}
    used = summary(folder, "served")["usage"]
    # Four test queries of one prompt each and two format prompts; every first attempt fails; 10 and 2 tokens a call.
    asked = used["asked"]
    assert 4 <= asked <= 6
    assert used == {
        "calls": 2 * asked,
        "retries": asked,
        "prompt_tokens": 10 * asked,
        "completion_tokens": 2 * asked,
        "cost": pytest.approx(14 * asked / 1e6),
        "asked": asked,
        "from_journal": 6 - asked,
    }
    assert summary(folder, "synth")["usage"]["asked"] == 4
    assert "nDCG@10" in ended.stdout
    assert (folder / "run/journal.sqlite").is_file()
    paid = len(server.bodies)
    for stage in ("served", "synth"):
        for file in (folder / "run" / stage).iterdir():
            file.unlink()
    again = run(folder, server, "engine.args.concurrency=2")
    assert again.returncode == 0, again.stderr
    assert len(server.bodies) == paid
    assert summary(folder, "served")["usage"]["from_journal"] == 6
    for text in (ended.stdout, ended.stderr, again.stdout, again.stderr):
        assert KEY not in text
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_run_that_reaches_its_cap_ends_with_a_sentence_and_goes_on_with_a_higher_one(folder, server):
    # A call costs 200 x 1 + 16 x 2 = 232 millionths and is expected to cost at most about 350: two fit, three do not.
    server.reply = lambda *_: message("[2] > [1] > [3]", 200, 16)
    prices = ["engine.args.prompt_price=1", "engine.args.completion_price=2"]
    ended = run(folder, server, *prices, "engine.args.max_cost=0.0008", "stage=served", command="rerank")
    assert ended.returncode == 2
    assert "engine.args.max_cost=0.0008" in ended.stderr and "Traceback" not in ended.stderr
    paid = len(server.bodies)
    assert 0 < paid < 6
    more = run(folder, server, *prices, "engine.args.max_cost=1", "stage=served", command="rerank")
    assert more.returncode == 0, more.stderr
    assert summary(folder, "served")["usage"]["from_journal"] >= paid
    assert len(server.bodies) == paid + summary(folder, "served")["usage"]["asked"]


def test_a_paradigm_that_needs_scores_is_refused_before_the_first_call(folder, server):
    ended = run(folder, server, "paradigm=pointwise")
    assert ended.returncode == 2
    assert "scores 'yes' and 'no' at the answer position" in ended.stderr
    assert server.bodies == server.keys == []
