"""An exported folder ranks by vLLM and by its server as it did at export, also prompts as long as the budget."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from support.exported import export

from rl_rerank.cli.main import main
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


@pytest.mark.slow
def test_vllms_server_scores_pairs_by_the_folders_template(tiny_model_dir, tmp_path, capsys):
    folder = export(tiny_model_dir, tmp_path / "model", make("pointwise", {}))
    assert main(["verify", f"model={folder}", "targets=[vllm_score]"]) == 0
    assert "vllm_score: 5 golden scores are within" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paradigm", "params", "scores"),
    # Grades up to 10, behind each of which the end of the turn is scored: answers of two and three tokens.
    [("pointwise_graded", {"rule": "expected"}, 5), ("first_token", {}, 5)],
)
def test_vllms_server_scores_answers_behind_a_prompt(tiny_model_dir, tmp_path, capsys, paradigm, params, scores):
    folder = export(tiny_model_dir, tmp_path / "model", make(paradigm, params))
    assert main(["verify", f"model={folder}", "targets=[vllm_generative_scoring]"]) == 0
    assert f"vllm_generative_scoring: {scores} golden scores are within" in capsys.readouterr().out
