"""A stage kind and an engine as `rl-rerank new` begins them, installed: planned, run, skipped, refused."""

import json
import os
import subprocess
import sys

import pytest

from rl_rerank.cli.new import new

pytestmark = pytest.mark.process

EXPERIMENT = """\
# @package _global_
stages:
  bm25: {kind: rerank, model: first_stage}
  words: {kind: rerank, engine: {kind: overlap, args: {scale: 2.0}}}
  agree: {kind: agreement, runs: [bm25, words]}
  evaluate: {kind: evaluate, measures: [nDCG@10]}
"""


def row(number):
    # The last candidate has both words of the query, the others one and none: the reverse of the first stage's order.
    texts = {"a": "nothing here", "b": "only salt here", "c": "salt melts ice"}
    candidates = [{"docid": f"{number}{letter}", "text": text} for letter, text in texts.items()]
    return {"qid": f"q{number}", "query": "salt ice", "candidates": candidates, "qrels": {f"{number}c": 1}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("hatchling", reason="the dev extra has it")
    folder, target = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("installed")
    for kind, name in (("stage", "agreement"), ("engine", "overlap")):
        new(kind, name, folder)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    packages = [str(folder / name) for name in ("agreement_stage", "overlap_engine")]
    subprocess.run([*install, "--target", str(target), *packages], check=True, capture_output=True)
    return target


@pytest.fixture
def command(installed, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text(EXPERIMENT)
    lines = (json.dumps({**row(i), "split": ("train", "test")[i % 2]}) + "\n" for i in range(6))
    (tmp_path / "data.jsonl").write_text("".join(lines))

    def run(*arguments):
        path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
        given = ("experiment=mine", "data=jsonl", "data.path=data.jsonl", "run_dir=run", *arguments[1:])
        return subprocess.run(
            [sys.executable, "-m", "rl_rerank", arguments[0], *given],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_both_run_in_an_experiment_and_are_skipped_when_done(command, tmp_path):
    planned = command("run", "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "# agree     agreement: Kendall's tau of bm25 and words" in planned.stdout
    assert not (tmp_path / "run").exists()
    ended = command("run")
    assert ended.returncode == 0, ended.stderr
    # the two orders are each other's reverse
    assert "bm25 and words agree by Kendall's tau -1.000 over 3 queries" in ended.stdout
    scores = [
        json.loads(line)["raw_scores"] for line in (tmp_path / "run/words/rankings.jsonl").read_text().splitlines()
    ]
    # a score is the difference between yes and no: 2 x scale x share, with shares 0, 1/2 and 1
    assert [sorted(found.values()) for found in scores] == [[0.0, 2.0, 4.0]] * 3
    again = command("run")
    assert again.returncode == 0, again.stderr
    assert "agree: done" in again.stderr and "words: done" in again.stderr
    changed = command("run", "stages.words.engine.args.scale=3.0")
    assert changed.returncode == 2
    assert "stages.words.engine.args.scale: 2.0 -> 3.0" in changed.stderr


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.agree.runs=[bm25]", "stages.agree.runs names the two stages to be compared; got ['bm25']"),
        ("stages.agree.runs=[bm25,nowhere]", "names 'nowhere', which is no stage; it can be: bm25, words"),
        ("stages.agree.runs=[bm25,evaluate]", "of kind evaluate; it must be a stage that leaves a run"),
        ("stages.agree.runz=[bm25]", "there is no setting 'stages.agree.runz'. Did you mean 'runs'?"),
        ("stages.words.engine.args.scalee=1", "there is no setting 'engine.args.scalee'. Did you mean 'scale'?"),
        (
            "stages.words.engine.kind=overlapp",
            "engine.kind must be one of bi_encoder, cross_encoder, hf, openai, overlap, rerank_api, vllm",
        ),
        ("paradigm=listwise", "stages.words: engine.kind=overlap scores pointwise prompts alone; got listwise"),
    ],
)
def test_what_is_misconfigured_is_refused_before_anything_runs(command, tmp_path, override, sentence):
    ended = command("run", override)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert not (tmp_path / "run").exists()
