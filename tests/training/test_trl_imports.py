"""A process imports vLLM where it samples with it, and nowhere else."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

EXPERIMENT = """\
# @package _global_
paradigm: pointwise
stages:
  synth: {kind: synth, mixture: {pointwise: 8}}
  sft: {kind: sft, batch_size: 4, micro_batch: 2, max_steps: 1}
  choice: {kind: grpo, policy: choice, prompts_per_step: 4, micro_batch: 2, max_steps: 1}
  tokens: {kind: grpo, rollout: hf, prompts_per_step: 2, num_generations: 2, micro_batch: 2, max_steps: 1}
"""
SCRIPT = """\
import sys

def shown(what):
    print(f"{what}: {'vllm' in sys.modules}", flush=True)

import rl_rerank.training.grpo.trainer
shown("import")
from rl_rerank.cli.main import main
for stage, command in (("synth", "synth"), ("sft", "sft"), ("choice", "grpo"), ("tokens", "grpo")):
    assert main([command, *sys.argv[1:], f"stage={stage}"]) == 0
    shown(stage)
"""


def test_stages_that_do_not_sample_with_vllm_do_not_import_it(tmp_path, tiny_model_dir):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(8):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}a": 1}}
            file.write(json.dumps({**row, "split": "train"}) + "\n")
    arguments = [
        "experiment=tiny",
        "data=jsonl",
        "data.path=data.jsonl",
        f"model.path={tiny_model_dir}",
        "reward=[exact_match]",
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, "model.max_prompt_tokens=400", "run_dir=run", "report_to=[]"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [line for line in done.stdout.splitlines() if line.endswith((": True", ": False"))]
    assert found == ["import: False", "synth: False", "sft: False", "choice: False", "tokens: False"]
    assert (tmp_path / "run/tokens/model/model.safetensors").is_file()
