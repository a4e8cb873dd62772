"""A model whose tokenizer or chat template does not fit is refused before any stage starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import chat_templates
from transformers import LlamaConfig

from rl_rerank.cli.main import main

EXPERIMENT = """\
# @package _global_
defaults: [{override /data: jsonl}, {override /model: hf}, {override /reward: [exact_match]}, _self_]
report_to: []
stages:
  first_stage: {kind: rerank, model: first_stage}
  synth: {kind: synth, teacher: labels, mixture: {pointwise: 4, listwise: 4}}
  untrained: {kind: rerank, model: model}
  sft: {kind: sft, model: model, max_steps: 1, batch_size: 2, micro_batch: 2}
  grpo: {kind: grpo, model: sft, max_steps: 1, prompts_per_step: 1, num_generations: 2, micro_batch: 2}
  trained: {kind: rerank, model: grpo}
  export: {kind: export, model: grpo}
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(6):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}a": 1}}
            file.write(json.dumps({**row, "split": ("train", "test")[i % 2]}) + "\n")
    return ["run", "experiment=tiny", "data.path=data.jsonl", "run_dir=run", "model.path=model"]


def model(folder: Path, family: str, missing: int = 0) -> None:
    """A tokenizer and a model's settings, without weights: nothing may load them."""
    tokenizer = chat_templates.tokenizer(family)
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(tokenizer) - missing, max_position_embeddings=4096).save_pretrained(folder)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the plan refuses, and so the run, which makes the same plan first."""
    assert main([*arguments, "dry_run=true"]) == 2
    assert not Path("run").exists()
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more", "expected"),
    [
        ("qwen3_thinking", [], "stages.untrained: the chat template of 'model' ends prompts with"),
        ("r1", ["paradigm=first_token"], "so that first_token answers, which have no reasoning, would stand inside"),
        ("qwen3", ["model.template_kwargs.enable_thinking=true"], "set model.template_kwargs.enable_thinking=false"),
        (
            "qwen3",
            [
                "model.template_kwargs.enable_thinking=false",
                "paradigm=setwise",
                "paradigms.setwise.params.reasoning=true",
            ],
            "setwise answers begin with reasoning; leave out model.template_kwargs.enable_thinking",
        ),
        # The paradigm that is ranked with fits, and one of the rows that sft learns from does not.
        ("r1", ["paradigm=listwise", "paradigms.listwise.params.reasoning=true"], "stages.sft: the chat template of"),
        (
            "chatml",
            ["paradigm=listwise", "paradigms.listwise.params={reasoning: true, think_open: true}"],
            "paradigms.listwise.params.think_open=true: answers begin inside a thought",
        ),
    ],
)
def test_a_template_that_does_not_fit_a_paradigm_is_refused_before_any_work(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    more: list[str],
    expected: str,
):
    model(tmp_path / "model", family)
    assert expected in refusal([*arguments, *more], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "qwen35", "llama3", "gemma", "mistral"])
def test_a_template_that_fits_is_planned(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
):
    model(tmp_path / "model", family)
    assert main([*arguments, "dry_run=true"]) == 0
    assert "pointwise and listwise prompts, in tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_any_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model(tmp_path / "model", "qwen3", missing=2)
    size = len(chat_templates.tokenizer("qwen3"))
    said = refusal(arguments, capsys)
    assert (
        f"the tokenizer has {size} tokens and the model embeds {size - 2}, so that '<think>', '</think>' have no row"
        in said
    )
