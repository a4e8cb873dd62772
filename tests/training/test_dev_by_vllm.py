"""Dev queries that are ranked by the vLLM of the rollouts: with the policy's weights, as transformers ranks them.

What imports vLLM runs in processes of its own.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.launching import two_processes
from support.resumption import Launched, differences, prepare, steps

from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.grpo import dev_engine
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.training.loop import dev

SCRIPT = str(Path(__file__).parents[1] / "support/dev_by_vllm.py")
SMALL = "args: {num_gpu_blocks_override: 64, enforce_eager: true}"
COMPARED = ("reward", "loss", "dev/nDCG@10", "dev/expected_nDCG@10", "dev/malformed")

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@needs_vllm
@pytest.mark.engine
@pytest.mark.parametrize(("processes", "trained"), [("one", "full"), ("one", "lora"), ("zero3 on two", "lora")])
def test_vllm_ranks_as_transformers_before_and_after_the_weights_move(tiny_model_dir, tmp_path, processes, trained):
    launch = [sys.executable] if processes == "one" else two_processes("zero3")
    command = [*launch, SCRIPT, str(tmp_path), str(tiny_model_dir), trained]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("found*.json"))]
    assert len(results) == (1 if processes == "one" else 2)
    for found in results:
        assert found == results[0]  # means over the queries of all processes
        before, after = found["before"], found["after"]
        for kind, by_hf in after["hf"].items():
            assert before["vllm"][kind] == pytest.approx(before["hf"][kind], abs=1e-9)
            assert after["vllm"][kind] == pytest.approx(by_hf, abs=1e-9)
            assert by_hf["malformed"] == 0
            # The move changes orders, so that an engine with old weights, or with old keys of these prompts, is seen.
            assert abs(by_hf["expected"] - before["hf"][kind]["expected"]) > 1e-3
            assert after["without sync"][kind] == pytest.approx(before["hf"][kind], abs=1e-9)
            if kind != "pointwise":  # whose prompts are shorter than a block of the cache
                assert after["without reset"][kind] != pytest.approx(by_hf, abs=1e-9)
        assert max(found["gaps"]) < 1e-4  # completions are still the policy's


def test_processes_of_an_engine_rank_the_same_queries_and_one_of_them_counts():
    # Two engines, over two processes each.
    shares = [dev.share("abcdefg", process, 4, 2) for process in range(4)]
    assert [(list(mine), counts) for mine, counts in shares] == [
        (["a", "c", "e", "g"], True),
        (["a", "c", "e", "g"], False),
        (["b", "d", "f"], True),
        (["b", "d", "f"], False),
    ]


@needs_vllm
@pytest.mark.engine
def test_a_resumed_run_has_the_same_dev_values_and_another_engine_changes_no_completion(tmp_path, tiny_model_dir):
    prepare(tmp_path, tiny_model_dir)
    rollout, endless = f"stages.tokens.rollout={{kind: vllm, {SMALL}}}", "stages.tokens.patience=null"

    def run(name, *more):
        shutil.copytree(tmp_path / "prepared", tmp_path / name, dirs_exist_ok=True)
        assert Launched(tmp_path / name, tiny_model_dir, "tokens-dev", rollout, endless, *more).wait() == 0
        return tmp_path / name / "tokens"

    whole = run("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    # What a kill right behind the checkpoint of step 3 would have left.
    for step in steps(whole)[3:]:
        shutil.rmtree(tmp_path / f"again/tokens/checkpoints/checkpoint-{step}")
    shutil.rmtree(tmp_path / "again/tokens/model")
    assert differences(whole, run("again")) == []
    best = json.loads((whole / dev.BEST).read_text())
    assert best["engine"] == "vllm"
    other = run("other", "stages.tokens.eval_engine=hf")
    assert json.loads((other / dev.BEST).read_text()) == {**best, "engine": "hf"}
    rows, others = (read_jsonl(folder / "metrics.jsonl") for folder in (whole, other))
    assert any("reward" in row for row in rows) and all(f"dev/{dev.MEASURE}" in row for row in rows)
    for row, by_hf in zip(rows, others, strict=True):
        assert [row.get(name, -1.0) for name in COMPARED] == pytest.approx(
            [by_hf.get(name, -1.0) for name in COMPARED], abs=1e-6
        )


def composed(tiny_model_dir, *overrides):
    return compose(
        "run",
        [
            *("experiment=quickstart_tokens", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400"),
            *("stages.grpo.eval_steps=1", *overrides),
        ],
    )


def chosen(config):
    stage = config.stages["grpo"]
    assert isinstance(stage, GRPOStage)
    plugins = Plugins(config)
    return dev_engine.kind("grpo", stage, config, plugins.paradigm()), stage.describe("grpo", plugins)[-1]


@needs_vllm
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["stages.grpo.rollout=vllm_server"], "rollout=vllm_server is asked through trl's client"),
        (
            ["stages.grpo.rollout={kind: vllm, args: {logits_processors: [a:B]}}"],
            "rollout.args.logits_processors would change the answers to dev queries",
        ),
        (
            ["stages.grpo.rollout={kind: vllm, args: {max_model_len: 400}}"],
            "rollout.args.max_model_len=400 is below the ",
        ),
        (
            [
                *("paradigm=first_token", "stages.grpo.rollout={kind: vllm, args: {max_logprobs: 3}}"),
                "paradigms.first_token.params.window=4",
            ],
            "rollout.args.max_logprobs=3 is below the 4 continuations that 'first_token' scores",
        ),
        (
            [
                *("paradigm=pointwise_graded", "paradigms.pointwise_graded.params.rule=weighted"),
                *("paradigms.pointwise_graded.params.constrained=true", "stages.grpo.rollout=vllm"),
            ],
            "the paradigm 'pointwise_graded' reads log-probabilities of its answers, and with constrained=true",
        ),
    ],
)
def test_an_engine_that_cannot_rank_dev_queries_is_left_out_with_a_sentence_and_refused_where_asked_for(
    tiny_model_dir, overrides, reason
):
    kind, sentence = chosen(composed(tiny_model_dir, *overrides))
    assert kind == "hf" and sentence.startswith(f"dev queries: by transformers: {reason}")
    with pytest.raises(ValueError, match=re.escape(f"stages.grpo.eval_engine=rollout: {reason}")):
        chosen(composed(tiny_model_dir, *overrides, "stages.grpo.eval_engine=rollout"))


@needs_vllm
def test_the_refusal_comes_before_any_stage(tiny_model_dir):
    asked = ["stages.grpo.rollout=vllm_server", "stages.grpo.eval_engine=rollout"]
    with pytest.raises(ValueError, match=r"stages\.grpo\.eval_engine=rollout: rollout=vllm_server"):
        Experiment.of(composed(tiny_model_dir, *asked))


@needs_vllm
def test_the_engine_of_the_rollouts_ranks_dev_queries_unless_the_other_is_asked_for(tiny_model_dir):
    vllm = "stages.grpo.rollout=vllm"
    assert chosen(composed(tiny_model_dir, vllm)) == ("vllm", "dev queries: by the vLLM that samples rollouts")
    assert chosen(composed(tiny_model_dir, vllm, "stages.grpo.eval_engine=hf")) == (
        "hf",
        "dev queries: by transformers",
    )
    assert chosen(composed(tiny_model_dir, "stages.grpo.eval_engine=rollout"))[0] == "hf"  # which samples rollouts


def test_an_engine_for_dev_queries_needs_some():
    with pytest.raises(ValueError, match="eval_engine=hf ranks dev queries, which needs eval_steps"):
        GRPOStage(kind="grpo", eval_engine="hf")
