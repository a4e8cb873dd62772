"""A rerank stage on two workers of a Ray cluster, killed and continued, writes the bytes of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.openai_stand_in import StandIn, message, serving

from rl_rerank.cli.main import main
from rl_rerank.stages.rerank.spec import RerankStage

pytest.importorskip("ray", reason="the extra ray has it")
pytest.importorskip("tenacity", reason="the extra openai has it")

EXPERIMENT = """\
# @package _global_
paradigm: listwise
paradigms:
  listwise: {params: {window: 3, stride: 1}}
stages:
  served: {kind: rerank, retries: 1, fusion: {method: rrf}}
"""
QUERIES = 12
FILES = ("run.trec", "rankings.jsonl", "rollouts.jsonl", "texts.jsonl", "protocol.json", "format.json")


def reply(body: dict) -> tuple:
    """An order that depends on the question; every fifth one cannot be used and is asked for again."""
    asked = json.dumps(body["messages"])
    place = sum(map(ord, asked)) % 5
    orders = ("[1] > [2] > [3]", "[3] > [1] > [2]", "[2] > [3] > [1]", "[3] > [2] > [1]", "no idea")
    return message(orders[place])


@pytest.fixture
def server():
    with serving() as stand_in:
        stand_in.reply = lambda body, _: reply(body)
        yield stand_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/served.yaml").write_text(EXPERIMENT)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(QUERIES):
            candidates = [
                {"docid": f"{i}{c}", "text": f"the text {c} {i}", "score": 9 - k} for k, c in enumerate("abcde")
            ]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": "test"}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    return tmp_path


def arguments(server: StandIn, run_dir: str, *more: str) -> list[str]:
    engine = {"model": "m", "base_url": server.url, "retry_wait": 0.01, "concurrency": 1}
    given = [f"engine.args.{name}={value}" for name, value in engine.items()]
    data = ["experiment=served", "data=jsonl", "data.path=data.jsonl", f"run_dir={run_dir}", "engine=openai"]
    return ["rerank", *data, *given, *more]


ON_RAY = ["stages.served.executor=ray", "stages.served.shards=2", "stages.served.chunk=2"]


@pytest.mark.process
def test_two_workers_killed_and_continued_write_the_bytes_of_one_process(folder: Path, server: StandIn):
    assert main(arguments(server, "one")) == 0
    every = [json.dumps(body) for body in server.bodies]
    assert len(every) > QUERIES  # windows, and answers that were asked for again
    server.bodies.clear()
    process: list[subprocess.Popen[bytes]] = []

    def kill(body: dict, _: int) -> tuple:
        if len(server.bodies) > len(every) // 2:
            process[0].send_signal(signal.SIGKILL)
        return reply(body)

    server.reply = kill
    command = [sys.executable, "-m", "rl_rerank", *arguments(server, "two", *ON_RAY)]
    process.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    assert process[0].wait(800) == -signal.SIGKILL
    assert not (folder / "two/served/run.trec").exists()
    parts = sorted(path.suffix for path in (folder / "two/served/parts").iterdir())
    assert ".sqlite" in parts
    before = [json.dumps(body) for body in server.bodies]
    server.reply = lambda body, _: reply(body)
    server.bodies.clear()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for name in FILES:
        assert (folder / "two/served" / name).read_bytes() == (folder / "one/served" / name).read_bytes(), name
    assert not (folder / "two/served/parts").exists()
    again = [json.dumps(body) for body in server.bodies]
    # Of each worker, the answer that was under way may be asked for again.
    assert set(before) | set(again) == set(every) and len(before) + len(again) <= len(every) + 2 * 2
    summaries = [json.loads((folder / run / "served/summary.json").read_text()) for run in ("one", "two")]
    for summary in summaries:
        # A server's own counts of tokens are those of the calls that a process makes itself.
        for name in ("seconds", "prompt_tokens", "completion_tokens"):
            summary["cost"].pop(name)
        summary.pop("usage")
    assert summaries[0] == summaries[1]


def test_the_way_in_which_work_is_spread_is_no_other_configuration():
    values = {"split": "test", "run": None}
    assert RerankStage(kind="rerank").recorded({**values, "executor": "ray", "shards": 2, "chunk": 8}) == {
        "split": "test"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 2}, "shards=2 are workers of a cluster; give executor=ray"),
        ({"executor": "ray", "chunk": 0}, "chunk must be at least 1; got 0"),
    ],
)
def test_settings_are_checked(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RerankStage(kind="rerank", **settings)
