"""The rerank stage on six small queries."""

from __future__ import annotations

import json
import logging

import pytest

from rl_rerank import trec
from rl_rerank.config import Config, DataConfig, ModelConfig, PluginConfig, RerankStage
from rl_rerank.paths import read_jsonl
from rl_rerank.stages import rerank


@pytest.fixture
def config(tmp_path) -> Config:
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(6):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c}"} for c in "abc"]
            # q4 has no judged document, so it cannot make a format prompt.
            qrels = {f"{i}b": 1} if i != 4 else {f"{i}b": 0}
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": qrels}
            file.write(json.dumps({**row, "split": ("test", "train")[i % 2]}) + "\n")
    return Config(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl")),
        paradigms={"listwise": PluginConfig(params={"window": 3, "stride": 1})},
    )


def test_the_first_stage_is_ranked_as_it_came_and_needs_no_model(config, tmp_path):
    config.model.path = "/nowhere"
    rerank.run(config, "bm25", RerankStage(kind="rerank", model="first_stage", label="BM25 as is"))
    run = trec.read_run(tmp_path / "run/bm25/run.trec")
    assert {qid: trec.order(scores) for qid, scores in run.items()} == {
        f"q{i}": [f"{i}a", f"{i}b", f"{i}c"] for i in (0, 2, 4)
    }
    summary = json.loads((tmp_path / "run/bm25/summary.json").read_text())
    assert summary.pop("seconds") >= 0
    assert summary == {
        "label": "BM25 as is",
        "model": "first_stage",
        "split": "test",
        "num_queries": 3,
        "num_prompts": 0,
        "num_malformed": 0,
        "num_fallbacks": 0,
        "num_ties": 0,
        "num_documents": 9,
    }
    assert read_jsonl(tmp_path / "run/bm25/rollouts.jsonl") == []
    assert json.loads((tmp_path / "run/bm25/format.json").read_text()) == {}


def test_a_model_ranks_and_its_answers_are_kept(config, tmp_path, tiny_model_dir, caplog):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    stage = RerankStage(kind="rerank", format_prompts={"pointwise": 3, "listwise": 9})
    with caplog.at_level(logging.INFO):
        rerank.run(config, "test", stage)
    folder = tmp_path / "run/test"
    rows = read_jsonl(folder / "rollouts.jsonl")
    assert len(rows) == 9
    assert {row["status"] for row in rows} == {"ok"}
    run = trec.read_run(folder / "run.trec")
    for row in rows:
        [docid] = row["docids"]
        score = row["continuations"]["yes"] - row["continuations"]["no"]
        assert run[row["qid"]][docid] == pytest.approx(score, abs=1e-4)
    formats = json.loads((folder / "format.json").read_text())
    # q0 and q2 qualify: two pointwise prompts each, cut to three; one listwise prompt each.
    assert (formats["pointwise"]["prompts"], formats["listwise"]["prompts"]) == (3, 2)
    for counted in formats.values():
        # A random model answers with noise.
        assert counted["well_formed"] == 0
        assert sum(counted["statuses"].values()) == counted["prompts"]
        assert len(counted["samples"]) == min(3, counted["prompts"])
    assert "only 2 of 9 listwise prompts can be made from split 'test'" in caplog.text
    assert "test: ranked 9 documents of 3 queries with 9 prompts" in caplog.text


def test_candidates_are_shown_in_an_order_of_the_seed(config, tmp_path, tiny_model_dir):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    config.paradigm = "listwise"
    shown = {}
    for name, stage in {
        "first": RerankStage(kind="rerank", seed=1),
        "again": RerankStage(kind="rerank", seed=1),
        "other": RerankStage(kind="rerank", seed=2),
        "plain": RerankStage(kind="rerank", shuffle=False),
    }.items():
        rerank.run(config, name, stage)
        shown[name] = [row["docids"] for row in read_jsonl(tmp_path / "run" / name / "rollouts.jsonl")]
    assert shown["first"] == shown["again"] != shown["other"]
    assert shown["plain"] == [[f"{i}a", f"{i}b", f"{i}c"] for i in (0, 2, 4)]


def test_an_unknown_split_is_named(config):
    with pytest.raises(LookupError, match="dev"):
        rerank.run(config, "x", RerankStage(kind="rerank", model="first_stage", split="dev"))
