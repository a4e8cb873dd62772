"""An exported folder ranks by vLLM as it did at export, also prompts as long as the budget."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from support.exported import export

from rl_rerank.paradigms.build import make

pytestmark = [pytest.mark.engine, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")]

SCRIPT = """
import sys
from rl_rerank.cli.main import main
status = main(["verify", f"model={sys.argv[1]}", "targets=[hf,vllm]"])
from rl_rerank.serving import Reranker
reranker = Reranker.load(sys.argv[1], engine="vllm")
assert len(reranker.rank("caves", ["ice cave " * 400, "bread"])) == 2
sys.exit(status)
"""


def test_golden_pairs_have_the_scores_of_the_export_by_vllm(tiny_model_dir, tmp_path):
    folder = export(tiny_model_dir, tmp_path / "model", make("pointwise", {}))
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert "vllm: 5 golden scores are within" in ended.stdout
