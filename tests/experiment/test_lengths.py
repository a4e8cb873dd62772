"""Whether prompts and completions fit the model, and how long the prompts are, without loading one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.experiment.compose import compose
from rl_rerank.stages.plugins import Plugins
from rl_rerank.training.loop import lengths
from rl_rerank.training.loop.lengths import Lengths


def composed(*overrides: str) -> Config:
    config = compose("run", ["experiment=quickstart_tokens", *overrides])
    assert isinstance(config, Config)
    return config


def described(name: str, *overrides: str) -> list[str]:
    config = composed("budget.num_generations=4", "budget.prompts_per_step=6", "budget.micro_batch=8", *overrides)
    stage: Any = config.stages[name]
    return stage.describe_batches(name, Plugins(config))


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Twelve training queries with three candidates each, one of them relevant."""
    path = tmp_path / "data.jsonl"
    with path.open("w") as file:
        for i in range(12):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i} " * (i + 1)} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}a": 1}}
            file.write(json.dumps({**row, "split": "train"}) + "\n")
    return ["data=jsonl", f"data.path={path}", f"run_dir={tmp_path / 'run'}"]


def test_the_batches_of_each_process_are_told_with_the_tokens_at_most():
    sharded = [
        "launcher=accelerate",
        "launcher.strategy=zero3",
        "launcher.num_processes=3",
        "model.max_prompt_tokens=100",
    ]
    # 6 prompts x 4 generations = 24 completions = 3 processes x 1 micro-batch x 8; 8 / 4 = 2 groups in a micro-batch
    layout, tokens = described("grpo", *sharded)
    assert layout == (
        "each of 3 processes (zero3): 1 micro-batch of 8 completions a step, 2 whole groups in each; "
        "every group lies whole on one process"
    )
    # 2 x 100 + 8 x 4 = 232, and 8 x (100 + 4) = 832 where every completion has its prompt computed
    assert tokens == (
        "at most 232 tokens a process a step = 1 x (2 prompts x 100 + 8 completions x 4), "
        "a prompt computed once for its group"
    )
    tokens = described("grpo", *sharded, "stages.grpo.policy.shared_prefix=false")[1]
    assert tokens.startswith("at most 832 tokens a process a step = 1 x (8 prompts x 100 + 8 completions x 4)")


def test_a_softmax_list_counts_every_document():
    # 4 lists of 3 documents: 12 x (100 + 4) = 1248
    assert described("sft", "model.max_prompt_tokens=100") == [
        "1 process: 1 micro-batch of 4 lists a step",
        "at most 1,248 tokens a process a step = 1 x (12 prompts x 100 + 12 completions x 4), 3 documents a list",
    ]


def test_sft_is_measured_on_the_paradigms_of_its_rows():
    config = composed("budget.pointwise_rows=0", "budget.listwise_rows=3", "budget.groupwise_rows=2")
    assert set(config.stages["format"].mixture(config)) == {"listwise", "groupwise"}
    assert set(config.stages["grpo"].mixture(config)) == {"pointwise"}


def test_a_model_whose_context_is_too_short_is_refused_in_the_plan_and_in_the_stage(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 1000}}')
    config = composed(f"model.path={tmp_path}", "model.max_prompt_tokens=997")
    with pytest.raises(ValueError, match=r"stages\.grpo: model\.max_prompt_tokens=997 \+ 4 .* = 1001, more than"):
        lengths.check_context(config.model, "grpo", 4)
    config.model.max_prompt_tokens = 996
    lengths.check_context(config.model, "grpo", 4)
    # Where the model is not here yet, the stage has its folder later.
    config.model.path, config.model.max_prompt_tokens = "nobody/nothing", 997
    lengths.check_context(config.model, "grpo", 4)
    with pytest.raises(ValueError, match="to 996 or less"):
        lengths.check_context(config.model, "grpo", 4, tmp_path)


def test_lengths_by_hand():
    # width (30 - 10) // 10 + 1 = 3; of 20 prompts the 19th in order is the 95th percentile
    found = Lengths("grpo", "pointwise", (10,) * 12 + (13,) * 6 + (20, 30), shrunk=5, budget=64).lines()
    assert found[0] == "grpo: 20 pointwise prompts, in tokens: median 10, p95 20, max 30 of 64; 25% shrunk to fit"
    assert [" ".join(line.replace("#", "").split()) for line in found[1:]] == [
        *("10 - 12 12", "13 - 15 6", "16 - 18 0", "19 - 21 1", "22 - 24 0", "25 - 27 0", "28 - 30 1")
    ]
    assert found[1].count("#") == 40
    # 40 x 6 / 12 = 20
    assert found[2].count("#") == 20


def test_the_plan_proposes_a_passage_budget_and_applies_none():
    documents = (*range(1, 20), 50)
    # of 20 documents the 19th in order is the 95th percentile; 9 have no more than 9 tokens
    [line] = Lengths("sft", "pointwise", (30,), 0, 64, documents=documents, passage_budget=9).lines()[2:]
    assert line == (
        "sft: 20 documents of them, in tokens: median 10, p95 19; model.max_passage_tokens=9 has room for 45% of them, "
        "19 for 95%"
    )
    [line] = Lengths("sft", "pointwise", (30,), 0, 64, documents=documents).lines()[2:]
    assert line.endswith("model.max_passage_tokens=null has room for 100% of them, 19 for 95%")
    # No budget of a passage shows what no prompt has room for.
    [line] = Lengths("sft", "pointwise", (30,), 0, 64, documents=(64,) * 9, passage_budget=32).lines()[2:]
    assert line.endswith(
        "has room for 0% of them, and 95% need all of max_prompt_tokens=64 or more: long_documents can split them"
    )


@pytest.mark.slow
def test_documents_are_measured_as_the_stage_shows_them(data: list[str], tiny_model_dir: Path):
    overrides = [f"model.path={tiny_model_dir}", "model.max_prompt_tokens=1000", "model.max_passage_tokens=5", *data]
    tokenizer = lengths.local_tokenizer(composed(*overrides).model)

    def found(*more: str) -> Lengths:
        config = composed(*overrides, *more)
        stage: Any = config.stages["sft"]
        store = prepare(config.data, Path(config.run_dir) / "data")
        return lengths.measure(config, "sft", stage, store, tokenizer)

    whole, passages = found(), found("stages.sft.long_documents={mode: maxp, words: 4, overlap: 0}")
    # Document c of query i has 4 (i + 1) words in one text, or i + 1 passages of 4; each is a prompt of its own.
    assert len(passages.tokens) > len(whole.tokens) == len(whole.documents) == 24
    assert len(passages.documents) == len(passages.tokens)
    assert max(passages.documents) < max(whole.documents)
    # The budget cuts prompts, not what is measured.
    assert max(whole.documents) > 5 and whole.passage_budget == 5
    assert found("model.max_passage_tokens=900").documents == whole.documents


@pytest.mark.slow
def test_a_dry_run_measures_the_prompts_and_writes_nothing(
    data: list[str], tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["run", "experiment=quickstart_tokens", f"model.path={tiny_model_dir}", *data, "dry_run=true"]
    assert main([*arguments, "model.max_prompt_tokens=1000", "model.max_passage_tokens=null"]) == 0
    free = summary(capsys.readouterr().out)
    # 12 queries, each with one positive prompt and one negative one
    assert free["grpo"].startswith("grpo: 24 pointwise prompts, in tokens: median ")
    assert free["grpo"].endswith(" of 1000; 0% shrunk to fit")
    longest = int(free["grpo"].split("max ")[1].split()[0])
    assert main([*arguments, f"model.max_prompt_tokens={longest - 1}", "model.max_passage_tokens=null"]) == 0
    tight = summary(capsys.readouterr().out)
    assert f" of {longest - 1}; " in tight["grpo"]
    assert "; 0% shrunk" not in tight["grpo"]
    # A cap on documents is no lack of room.
    assert main([*arguments, "model.max_prompt_tokens=1000", "model.max_passage_tokens=2"]) == 0
    assert summary(capsys.readouterr().out)["grpo"].endswith("; 0% shrunk to fit")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_the_model_s_tokenizer_lengths_are_estimates_and_say_so(
    data: list[str], capsys: pytest.CaptureFixture[str]
):
    arguments = ["run", "experiment=quickstart_tokens", *data, "dry_run=true"]
    assert main([*arguments, "model.path=smollm2"]) == 0
    known = summary(capsys.readouterr().out)
    assert main([*arguments, "model.path=nobody/nothing"]) == 0
    shown = capsys.readouterr().out
    assert "nobody/nothing' has no tokenizer on this machine; prompt lengths are estimates by SmolLM2's\n" in shown
    assert summary(shown.replace("in estimated tokens", "in tokens")) == known
    assert " prompts, in tokens: " not in shown


@pytest.mark.slow
def test_a_dry_run_reads_the_data_of_the_run_where_they_are(
    data: list[str], tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    arguments = ["experiment=quickstart_tokens", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=1000", *data]
    assert main(["synth", *arguments, "stage=synth"]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    caplog.clear()
    assert main(["run", *arguments, "dry_run=true"]) == 0
    assert "jsonl: " not in caplog.text
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def summary(shown: str) -> dict[str, str]:
    """stage -> its line on lengths."""
    lines = [line.removeprefix("# ") for line in shown.splitlines() if " prompts, in tokens: " in line]
    return {line.split(":")[0]: line for line in lines}
