"""One experiment under 30 kills at random moments leaves, byte for byte, what it leaves undisturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.resumption import differences

from rl_rerank.io.files import read_jsonl

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("RL_RERANK_KILLS", "30"))
EXPERIMENT = """\
# @package _global_
paradigm: pointwise
stages:
  synth: {kind: synth, mixture: {pointwise: 12, listwise: 4}}
  sft: {kind: sft, batch_size: 4, micro_batch: 2, max_steps: 6, save_steps: 1, learning_rate: 1e-2}
  tokens: {kind: grpo, model: sft, prompts_per_step: 4, num_generations: 4, micro_batch: 8, max_steps: 6, save_steps: 1,
    learning_rate: 1e-2, policy: {kind: tokens, num_iterations: 2}}
  adapter: {kind: grpo, model: tokens, lora: {r: 4, dropout: 0.1}, prompts_per_step: 4, num_generations: 4,
    micro_batch: 8, max_steps: 6, save_steps: 1, learning_rate: 1e-2}
  ranked: {kind: rerank, model: adapter, format_prompts: {pointwise: 4}}
  export: {kind: export, model: adapter, cross_encoder: false}
"""
REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""
TRAINED = ("sft", "tokens", "adapter")
WRITTEN = (
    *("synth/examples.jsonl", "synth/rows.jsonl", "ranked/run.trec", "ranked/rankings.jsonl", "ranked/rollouts.jsonl"),
    *("ranked/texts.jsonl", "ranked/format.json", "ranked/protocol.json"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/chaos.yaml").write_text(EXPERIMENT)
    (tmp_path / "mine.py").write_text(REWARD)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(20):
            candidates = [
                {"docid": f"{i}{c}", "text": f"the text {c} {i}", "score": 9 - k} for k, c in enumerate("abc")
            ]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}{'abc'[i % 3]}": 1}}
            file.write(json.dumps({**row, "split": "test" if i < 4 else "train"}) + "\n")
    return tmp_path


def start(folder: Path, model: Path, run_dir: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "rl_rerank", "run", "experiment=chaos", "data=jsonl", "data.path=data.jsonl"),
        *(f"model.path={model}", "model.max_prompt_tokens=400", f"run_dir={run_dir}", "reward=[mine.py:Letters]"),
        *("report_to=[]", f"journal={run_dir}/journal.sqlite"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{run_dir}.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)


def killed(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill a run with all its processes after some seconds; False if it had ended by then."""
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return True


def finished(run_dir: Path) -> set[str]:
    ledger = run_dir / "ledger.jsonl"
    return {row["stage"] for row in read_jsonl(ledger)} if ledger.exists() else set()


def test_an_experiment_under_random_kills_leaves_what_it_leaves_undisturbed(folder: Path, tiny_model_dir: Path):
    began = time.monotonic()
    assert start(folder, tiny_model_dir, "whole").wait() == 0, (folder / "whole.log").read_text()[-3000:]
    whole = time.monotonic() - began
    seed = random.randrange(2**32)
    rng, kills, done = random.Random(seed), 0, set[str]()
    while kills < KILLS:
        # Long enough for a stage at times, so that the kills reach all of them.
        process = start(folder, tiny_model_dir, "killed")
        if killed(process, rng.uniform(0.02, 0.35) * whole):
            kills += 1
        else:
            assert process.returncode == 0, (folder / "killed.log").read_text()[-3000:]
            for stage in sorted(rng.sample(sorted(finished(folder / "killed")), 2)):
                shutil.rmtree(folder / "killed" / stage)  # finished before the last kill: some of it is done again
            done = set()
        assert done <= finished(folder / "killed"), f"a finished stage was lost, seed {seed}"
        done = finished(folder / "killed")
    assert start(folder, tiny_model_dir, "killed").wait() == 0, (folder / "killed.log").read_text()[-3000:]
    one, two = folder / "whole", folder / "killed"
    for stage in TRAINED:
        assert differences(one / stage, two / stage) == [], f"{stage}, seed {seed}"
    for name in WRITTEN:
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name}, seed {seed}"
    exported = [{p.name: p.read_bytes() for p in (run / "export/model").iterdir()} for run in (one, two)]
    assert exported[0].keys() == exported[1].keys()
    # The card and the contract name the run by its configuration, of which the folder's name is a part.
    assert [n for n in exported[0] if exported[0][n] != exported[1][n] and n != "reranker.json"] == [], f"seed {seed}"
