"""A rerank stage whose server hangs, fails, drops connections or dies: a sentence, and no answer is paid for twice."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
from support.openai_stand_in import StandIn, error, message, serving

from rl_rerank.cli.main import main

pytest.importorskip("tenacity", reason="the extra openai has it")

EXPERIMENT = """\
# @package _global_
paradigm: listwise
paradigms:
  listwise: {params: {window: 3, stride: 1}}
stages:
  served: {kind: rerank}
"""
GOOD = message("[2] > [1] > [3]")
ANSWERED = 2
"""Queries of six that are answered before the fault."""


@pytest.fixture
def server():
    with serving() as stand_in:
        stand_in.reply = lambda *_: GOOD
        yield stand_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/served.yaml").write_text(EXPERIMENT)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(6):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}b": 1}}
            file.write(json.dumps({**row, "split": "test"}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    return tmp_path


def rerank(url: str, run_dir: str = "run") -> int:
    engine = {"model": "m", "base_url": url, "retry_wait": 0.01, "max_attempts": 2, "timeout": 0.3, "concurrency": 1}
    given = [f"engine.args.{name}={value}" for name, value in engine.items()]
    data = ["experiment=served", "data=jsonl", "data.path=data.jsonl", f"run_dir={run_dir}", "engine=openai"]
    return main(["rerank", *data, *given])


def hang(server: StandIn):
    time.sleep(0.6)
    return GOOD


def drop(server: StandIn):
    raise ConnectionResetError  # the handler ends, and the connection with it


FAULTS = {
    "hangs": (hang, r"no usable answer in 2 attempts"),
    "answers 500": (lambda _: error(500, "out of memory"), r"no usable answer in 2 attempts.*500"),
    "drops": (drop, r"no usable answer in 2 attempts"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_ends_the_stage_and_what_was_answered_is_not_asked_again(folder, server, capfd, fault):
    assert rerank(server.url, "whole") == 0
    server.bodies.clear()
    fail, sentence = FAULTS[fault]
    server.reply = lambda *_: GOOD if len(server.bodies) <= ANSWERED else fail(server)
    began = time.monotonic()
    assert rerank(server.url) == 2
    assert time.monotonic() - began < 20
    shown = capfd.readouterr().err
    [told] = [line for line in shown.splitlines() if line.startswith("rl-rerank: ")]
    assert re.search(sentence, told) and server.url in told
    assert not (folder / "run/served/run.trec").exists()
    asked = {json.dumps(body) for body in server.bodies[:ANSWERED]}
    server.bodies.clear()
    server.reply = lambda *_: GOOD
    assert rerank(server.url) == 0
    again = {json.dumps(body) for body in server.bodies}
    assert len(again) == len(server.bodies) == 6 - ANSWERED and not asked & again
    assert (folder / "run/served/run.trec").read_bytes() == (folder / "whole/served/run.trec").read_bytes()


@pytest.mark.slow
def test_a_server_that_is_gone_is_named(folder, capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert rerank(url) == 2
    [told] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("rl-rerank: ")]
    assert url in told and not (folder / "run/served/run.trec").exists()
