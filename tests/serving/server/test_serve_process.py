"""The command as a process: it starts, answers many at once, and ends without losing an accepted request."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")
from support.exported import export

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving.reranker import Reranker

QUERY = "how are glacier caves formed?"
DOCUMENTS = ["ice caves", "yes no yes", "a glacier cave forms in the ice of a glacier", "bread"]


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory) -> Path:
    return export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", Pointwise())


@contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, once it listens."""
    command = [sys.executable, "-m", "rl_rerank", "serve", f"model={folder}", "port=0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"at (http://[\d.]+:\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        wait_for(found[1])
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{url}/healthz").close()
            return
        except urllib.error.URLError:
            time.sleep(0.05)
    pytest.fail(f"{url} does not listen")


def post(url: str, body: object, path: str = "/v1/rerank", **headers: str) -> tuple[int, dict]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def metric(url: str, name: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.process
def test_many_at_once_and_none_lost_at_the_end(exported):
    expected = dict(Reranker.load(exported).rank(QUERY, DOCUMENTS))
    with serving(exported, "limits.batch_documents=16", "name=tiny") as (process, url), ThreadPoolExecutor(16) as pool:
        bodies = [{"query": QUERY, "documents": DOCUMENTS, "model": "tiny"} for _ in range(64)]
        for status, body in pool.map(lambda body: post(url, body), bodies):
            assert status == 200
            assert {r["index"]: r["relevance_score"] for r in body["results"]} == pytest.approx(expected, abs=1e-5)
        assert metric(url, "rl_rerank_batch_requests_count") < 64
        assert post(url, bodies[0], Host="elsewhere.example")[0] == 421  # there is no key
        # Requests that differ, so that none is answered with another, and of many documents, so that they wait.
        many = [f"{text} {number}" for number in range(60) for text in DOCUMENTS]
        long = [{"query": f"{QUERY} {number}", "documents": many} for number in range(16)]
        sent = [pool.submit(post, url, body) for body in long]
        while metric(url, "rl_rerank_waiting_requests") < 12:
            assert not all(each.done() for each in sent)
        process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in sent]
        assert [status for status, _ in answers] == [200] * 16
        assert all(len(body["results"]) == 240 for _, body in answers)
        assert process.wait(60) == 0
        with pytest.raises(urllib.error.URLError):
            post(url, bodies[0])


@pytest.mark.process
def test_the_key_comes_from_the_environment_and_stands_in_no_log(exported):
    key = "a-key-of-the-test"
    with serving(exported, RL_RERANK_API_KEY=f"{key}\n") as (process, url):
        body = {"query": QUERY, "documents": DOCUMENTS}
        assert post(url, body)[0] == 401
        assert post(url, body, Authorization=f"Bearer {key}")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert key not in errors
