"""Chunks, kills, processes, budgets and teachers that fail: what is asked for twice, and what is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.openai_stand_in import StandIn, error, message, serving
from support.synth_runs import config, run, summary

from rl_rerank.config import EngineConfig
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.synth.spec import SynthBudget

RANK = {"rank": {"paradigm": "listwise"}}
ALL = {"near_queries": {"near": False}, "rank": {"paradigm": "listwise"}, "shuffle": {}}
pytest.importorskip("tenacity", reason="the extra openai has it")


@pytest.fixture
def server():
    with serving() as stand_in:
        stand_in.reply = lambda *_: message("[2] > [1] > [3]", 100, 10)
        yield stand_in


def served(server: StandIn, **args) -> EngineConfig:
    given = {"model": "m", "base_url": server.url, "retry_wait": 0.001, "max_attempts": 2, "concurrency": 1}
    return EngineConfig(kind="openai", args={**given, **args})


def examples(folder: Path) -> bytes:
    return (folder / "run/synth/examples.jsonl").read_bytes()


@pytest.mark.process
def test_the_output_does_not_depend_on_the_number_of_processes(tmp_path):
    for shards in (1, 2, 4):
        run(config(tmp_path / str(shards), 20), ALL, noise=0.7, chunk=3, shards=shards, mixture={"listwise": 5})
    assert examples(tmp_path / "1") == examples(tmp_path / "2") == examples(tmp_path / "4")
    assert summary(config(tmp_path / "1"))["steps"] == summary(config(tmp_path / "4"))["steps"]


@pytest.mark.process
def test_nor_on_whether_they_are_workers_of_a_ray_cluster(tmp_path, server):
    pytest.importorskip("ray", reason="the extra ray has it")
    more = {"chunk": 3, "mixture": {"listwise": 5}}
    run(config(tmp_path / "one", 20), ALL, noise=0.7, **more)
    run(config(tmp_path / "ray", 20), ALL, noise=0.7, shards=2, executor="ray", **more)
    assert examples(tmp_path / "one") == examples(tmp_path / "ray")
    assert summary(config(tmp_path / "one"))["steps"] == summary(config(tmp_path / "ray"))["steps"]
    # A budget stops them, too, and what is finished is not asked for again.
    settings, teacher = config(tmp_path / "served", 20), {"teacher": "model", "engine": served(server)}
    with pytest.raises(ValueError, match=r"stopped before its end: budget\.max_tokens=330 is reached"):
        run(settings, RANK, budget=SynthBudget(max_tokens=330), shards=2, executor="ray", **more, **teacher)
    assert 3 <= len(server.bodies) < 20
    assert len(run(settings, RANK, shards=2, executor="ray", **more, **teacher)) == 20
    # Of each worker one that was under way at the stop may be asked for again.
    assert len({json.dumps(body) for body in server.bodies}) == 20 and len(server.bodies) <= 22


@pytest.mark.slow
def test_nor_on_how_many_examples_are_taken_together(tmp_path):
    for chunk in (1, 7):
        run(config(tmp_path / str(chunk), 20), ALL, noise=0.7, chunk=chunk, mixture={"listwise": 5})
    assert examples(tmp_path / "1") == examples(tmp_path / "7")


KILLED = """\
import sys
from support.synth_runs import config, run
from rl_rerank.config import EngineConfig
from pathlib import Path
args = {"model": "m", "base_url": sys.argv[2], "concurrency": 1}
steps = {"rank": {"paradigm": "listwise"}}
run(config(Path(sys.argv[1]), 12), steps, teacher="model", chunk=4, mixture={"listwise": 5},
    engine=EngineConfig(kind="openai", args=args))
"""


@pytest.mark.process
def test_after_sigkill_nothing_that_was_answered_is_asked_again_and_nothing_is_lost(tmp_path, server):
    whole = config(tmp_path / "whole", 12)
    run(whole, RANK, teacher="model", chunk=4, mixture={"listwise": 5}, engine=served(server))
    all_bodies = {json.dumps(body) for body in server.bodies}
    assert len(all_bodies) == len(server.bodies) == 12
    server.bodies.clear()
    process = None

    def reply(body, number):
        if process is not None and len(server.bodies) == 7:  # in the middle of the second chunk
            process.send_signal(signal.SIGKILL)
            process.wait()
        return message("[2] > [1] > [3]", 100, 10)

    server.reply = reply
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), server.url]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    assert process.wait(300) == -signal.SIGKILL
    asked = [json.dumps(body) for body in server.bodies]
    assert len(asked) == len(set(asked)) == 7
    server.bodies.clear()
    process = None
    run(config(tmp_path / "killed", 12), RANK, teacher="model", chunk=4, mixture={"listwise": 5}, engine=served(server))
    again = [json.dumps(body) for body in server.bodies]
    # The seventh answer never arrived; the six before it are not asked for, and the six from it on are, once each.
    assert len(again) == len(set(again)) == 6
    assert set(asked[:6]).isdisjoint(again) and {*asked, *again} == all_bodies
    assert examples(tmp_path / "killed") == examples(tmp_path / "whole")


@pytest.mark.slow
def test_a_budget_ends_the_run_with_what_it_has_and_a_larger_one_goes_on(tmp_path, server):
    settings = config(tmp_path, 12)
    more = {"teacher": "model", "chunk": 4, "mixture": {"listwise": 5}, "engine": served(server)}
    # An answer takes 110 tokens; a budget of 900 is reached after the third round of four prompts has not begun.
    with pytest.raises(ValueError, match=r"stopped before its end: budget\.max_tokens=800 is reached: 880\. Its 8 fin"):
        run(settings, RANK, budget=SynthBudget(max_tokens=800), **more)
    assert len(server.bodies) == 8
    assert len(read_jsonl(tmp_path / "run/synth/examples.jsonl")) == 8
    found = summary(settings)
    assert found["stopped"].startswith("budget.max_tokens=800") and found["usage"]["prompt_tokens"] == 800
    assert "**Not complete**: budget.max_tokens=800" in (tmp_path / "run/synth/README.md").read_text()
    # What was used before counts.
    with pytest.raises(ValueError, match=r"budget\.max_tokens=880 is reached: 880"):
        run(settings, RANK, budget=SynthBudget(max_tokens=880), **more)
    assert len(server.bodies) == 8
    made = run(settings, RANK, budget=SynthBudget(max_tokens=2000), **more)
    assert (len(made), len(server.bodies)) == (12, 12)
    assert summary(settings)["usage"]["prompt_tokens"] == 1200
    assert summary(settings)["stopped"] == ""


@pytest.mark.process
def test_processes_that_share_the_work_share_the_budget(tmp_path, server):
    settings = config(tmp_path, 40)
    more = {"teacher": "model", "chunk": 2, "mixture": {"listwise": 5}, "engine": served(server), "shards": 2}
    # Two processes with two chunks each: the budget, reached after four answers, is seen when at most eight are under
    # way or done.
    with pytest.raises(ValueError, match=r"budget\.max_tokens=440 is reached"):
        run(settings, RANK, budget=SynthBudget(max_tokens=440), **more)
    asked = len(server.bodies)
    assert 4 <= asked <= 12
    assert len(read_jsonl(tmp_path / "run/synth/examples.jsonl")) == asked
    assert len(run(settings, RANK, **more)) == 40
    assert len(server.bodies) == 40


@pytest.mark.slow
def test_money_and_time_are_budgets_too(tmp_path, server):
    engine = served(server, prompt_price=1.0, completion_price=10.0)
    more = {"teacher": "model", "chunk": 4, "mixture": {"listwise": 5}, "engine": engine}
    # An answer costs (100 x 1 + 10 x 10) / 1e6 = 0.0002.
    with pytest.raises(ValueError, match=r"budget\.max_cost=0\.0008 is reached: 0\.0008"):
        run(config(tmp_path, 12), RANK, budget=SynthBudget(max_cost=0.0008), **more)
    assert len(server.bodies) == 4
    with pytest.raises(ValueError, match=r"budget\.max_seconds=0 is reached"):
        run(config(tmp_path, 12), RANK, budget=SynthBudget(max_seconds=0), **more)
    assert len(server.bodies) == 4
    capped = served(server, prompt_price=1.0, completion_price=10.0, max_cost=0.0)
    with pytest.raises(ValueError, match=r"stopped before its end: engine\.args\.max_cost=0"):
        run(config(tmp_path / "capped", 12), RANK, **{**more, "engine": capped})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error(400, "this prompt is not allowed"), 'refuses the request: {"error": {"message": "this prompt'),
        ((200, "<html>Gateway</html>", {}), "no usable answer in 2 attempts, the last time: the reply is not JSON"),
        (error(429, "slow down"), "no usable answer in 2 attempts, the last time"),
    ],
    ids=["refuses", "html", "busy"],
)
def test_examples_that_a_teacher_fails_at_are_dropped_and_counted_with_the_reason(tmp_path, server, answer, reason):
    good = message("[2] > [1] > [3]", 100, 10)
    server.reply = lambda body, _: answer if "query 5" in json.dumps(body) else good
    settings = config(tmp_path, 12)
    made = run(settings, RANK, teacher="model", chunk=4, mixture={"listwise": 5}, engine=served(server))
    assert [example.qid for example in made] == [f"q{n}" for n in range(1, 13) if n != 5]
    [(told, times)] = summary(settings)["failures"].items()
    assert reason in told and times == 1
    assert "## Examples that no teacher answered\n\n- 1: " in (tmp_path / "run/synth/README.md").read_text()


@pytest.mark.slow
def test_a_teacher_that_fails_at_one_example_after_the_other_stops_the_run_which_can_go_on(tmp_path, server):
    good = server.reply
    server.reply = lambda body, _: error(400, "no") if len(server.bodies) > 4 else good(body, 0)
    settings = config(tmp_path, 12)
    more = {"teacher": "model", "chunk": 4, "mixture": {"listwise": 5}, "engine": served(server)}
    with pytest.raises(ValueError, match=r"3 examples in a row were not answered, the last time: .*answers 400"):
        run(settings, RANK, **more)
    assert len(read_jsonl(tmp_path / "run/synth/examples.jsonl")) == 4
    server.reply = good
    assert len(run(settings, RANK, **more)) == 12


FULL = """\
import resource, sys
from pathlib import Path
from support.synth_runs import config, run
settings = config(Path(sys.argv[1]), 40)
from rl_rerank import data
data.prepare(settings.data, Path(settings.run_dir) / "data")
resource.setrlimit(resource.RLIMIT_FSIZE, (3500, resource.RLIM_INFINITY))
run(settings, {"rank": {"paradigm": "listwise"}}, chunk=int(sys.argv[2]), mixture={"listwise": 5})
"""


@pytest.mark.process
def test_a_disk_that_takes_no_more_is_told_and_the_same_command_goes_on_when_there_is_room(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", FULL, str(tmp_path), "4"]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1 and "File too large" in ended.stderr
    for file in (tmp_path / "run/synth").rglob("*.jsonl"):
        read_jsonl(file)  # What is there is whole.
    made = run(config(tmp_path, 40), RANK, chunk=4, mixture={"listwise": 5})
    assert len(made) == 40
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_progress_tells_rate_and_cost(tmp_path, server, capfd):
    engine = served(server, prompt_price=1.0, completion_price=10.0)
    run(config(tmp_path, 12), RANK, teacher="model", chunk=4, mixture={"listwise": 5}, engine=engine)
    shown = capfd.readouterr().err
    assert "synth: rank: 100%" in shown and "cost=0.0024" in shown and "chunk/s" in shown
