"""Stages under ZeRO-3 on two processes, and the export of what they leave: whole, of a checkpoint, of an adapter."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file

from rl_rerank.data.store import Store
from rl_rerank.metrics import ndcg
from rl_rerank.serving import Reranker

pytestmark = pytest.mark.process

EXPERIMENT = """\
# @package _global_
stages:
  rl: {kind: grpo, rollout: {kind: vllm, args: {num_gpu_blocks_override: 64, enforce_eager: true}}, max_steps: 2,
    save_steps: 1, eval_steps: 1,
    prompts_per_step: 4, num_generations: 4, micro_batch: 8, learning_rate: 1e-3}
  adapter: {kind: grpo, model: rl@1, lora: {r: 4}, max_steps: 2, save_steps: 1,
    prompts_per_step: 4, num_generations: 4, micro_batch: 8, learning_rate: 1e-2}
  export: {kind: export, model: rl}
  early: {kind: export, model: adapter@1}
  first: {kind: export, model: rl@1}
"""

REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


@pytest.fixture(scope="module")
def run_dir(tiny_model_dir, tmp_path_factory):
    """The folder of a run that was killed after the first of two steps and then finished by the same command."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/sharded.yaml").write_text(EXPERIMENT)
    (folder / "mine.py").write_text(REWARD)  # one that random text earns differently
    with (folder / "data.jsonl").open("w") as file:
        for i in range(24):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}{'abc'[i % 3]}": 1}}
            file.write(json.dumps({**row, "split": "test" if i < 3 else "dev" if i < 11 else "train"}) + "\n")
    command = [
        *(sys.executable, "-m", "rl_rerank", "run", "experiment=sharded", "data=jsonl", "data.path=data.jsonl"),
        *(f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400", "run_dir=run", "reward=[mine.py:Letters]"),
        *("launcher=accelerate", "launcher.strategy=zero3", "launcher.num_processes=2"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kill_after(folder / "run/rl/checkpoints/checkpoint-1/manifest.json", command, cwd=folder, env=environment)
    assert not (folder / "run/rl/model").exists()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "run"


def kill_after(marker: Path, command: list[str], **settings: Any) -> None:
    """Start a run and kill its runner with SIGKILL as soon as `marker` exists."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
    deadline = time.monotonic() + 400
    try:
        while not marker.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def gathered(checkpoint: Path) -> dict[str, torch.Tensor]:
    """DeepSpeed's own putting together of the pieces that the processes have saved."""
    return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))


def test_the_export_of_a_sharded_run_holds_the_gathered_weights_bit_for_bit(run_dir, tiny_model_dir):
    expected = gathered(run_dir / "rl/checkpoints/checkpoint-2")
    exported = load_file(run_dir / "export/model/model.safetensors")
    assert exported.keys() == expected.keys() - {"lm_head.weight"}  # tied to the embedding, stored once
    for name, weight in exported.items():
        assert torch.equal(weight, expected[name]), name
    start = load_file(tiny_model_dir / "model.safetensors")
    assert max((weight - start[name]).abs().max() for name, weight in exported.items()) > 1e-3


def test_the_export_of_an_adapters_checkpoint_holds_its_base_with_the_adapter_added(run_dir):
    pieces = gathered(run_dir / "adapter/checkpoints/checkpoint-1")
    base = load_file(run_dir / "rl/checkpoints/checkpoint-1/model.safetensors")
    exported = load_file(run_dir / "early/model/model.safetensors")
    changed = 0
    for name, weight in exported.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name]
        if (a := pieces.get(f"{prefix}.lora_A.default.weight")) is not None:
            # scale = alpha / r = 32 / 4
            update = 8.0 * pieces[f"{prefix}.lora_B.default.weight"] @ a
            changed += bool(update.abs().max() > 1e-4)
            expected = expected + update
        assert torch.allclose(weight, expected, atol=1e-6), name
    assert changed > 0


def test_sharded_rollouts_stay_on_policy_and_the_records_are_those_of_all_processes(run_dir):
    rows = [json.loads(line) for line in (run_dir / "rl/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["rollout/logprob_gap"] < 1e-4
        assert row["rollout/masked_sequences"] == 0.0
    completions = [json.loads(line) for line in (run_dir / "rl/completions.jsonl").read_text().splitlines()]
    # 2 steps x 4 prompts x 4 completions, from both processes
    assert len(completions) == 32
    found = json.loads((run_dir / "rl/checkpoints/checkpoint-2/manifest.json").read_text())
    assert found["layout"] == "zero3 over 2 processes"


@pytest.mark.parametrize(("export", "step"), [("first", 1), ("export", 2)])
def test_the_export_ranks_dev_queries_as_training_measured_them(run_dir, export, step):
    """The last step's model and the checkpoint before it, each as both processes ranked their halves of the queries."""
    [row] = [row for row in map(json.loads, (run_dir / "rl/metrics.jsonl").open()) if row["step"] == step]
    examples = Store(run_dir / "data").examples("dev")
    reranker = Reranker.load(run_dir / export / "model")
    values = [
        ndcg([e.docids[i] for i, _ in reranker.rank(e.query, [c.text for c in e.candidates])], e.qrels, k=10)
        for e in examples
    ]
    assert len(values) == 8
    assert sum(values) / 8 == pytest.approx(row["dev/nDCG@10"], abs=1e-6)


def test_the_exported_model_ranks(run_dir):
    # That it ranks as the trained model does is checked by the export itself, which fails otherwise.
    for name in ("export", "early"):
        reranker = Reranker.load(run_dir / name / "model")
        reranker.verify()
        assert len(reranker.rank("query 1", ["the text a 1", "the text b 2"])) == 2
