"""The rerank stage on six small queries."""

from __future__ import annotations

import json
import logging
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl_rerank.config import Config, DataConfig, FusionConfig, ModelConfig, PluginConfig, TunedWeight
from rl_rerank.evaluation import answers
from rl_rerank.io import trec
from rl_rerank.io.files import read_jsonl, write_json, write_jsonl
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage


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
    rerank_stage.run(config, "bm25", RerankStage(kind="rerank", model="first_stage", label="BM25 as is"))
    run = trec.read_run(tmp_path / "run/bm25/run.trec")
    assert {qid: trec.trec_order(scores) for qid, scores in run.items()} == {
        f"q{i}": [f"{i}a", f"{i}b", f"{i}c"] for i in (0, 2, 4)
    }
    summary = json.loads((tmp_path / "run/bm25/summary.json").read_text())
    assert summary["cost"].pop("seconds") >= 0
    assert summary == {
        "label": "BM25 as is",
        "model": "first_stage",
        "split": "test",
        "num_queries": 3,
        "num_prompts": 0,
        "num_malformed": 0,
        "num_fallbacks": 0,
        "num_retries": 0,
        "num_ties": 0,
        "num_documents": 9,
        "cost": {"calls": 0, "rounds": 0, "prompt_tokens": 0, "completion_tokens": 0},
    }
    assert read_jsonl(tmp_path / "run/bm25/rollouts.jsonl") == []
    assert json.loads((tmp_path / "run/bm25/format.json").read_text()) == {}


def test_a_model_ranks_and_its_answers_are_kept(config, tmp_path, tiny_model_dir, caplog):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    stage = RerankStage(kind="rerank", format_prompts={"pointwise": 3, "listwise": 9})
    with caplog.at_level(logging.INFO):
        rerank_stage.run(config, "test", stage)
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
    messages = [answers.prompt(row, answers.texts(folder)) for row in rows]
    assert all(role == "user" for shown in messages for role, _ in shown[-1:])
    assert all(f"query {row['qid'][1:]}" in shown[-1][1] for row, shown in zip(rows, messages, strict=True))
    summary = json.loads((folder / "summary.json").read_text())
    share = sum(math.exp(value) for row in rows for value in row["continuations"].values()) / 9
    assert summary["answer_share"] == pytest.approx(share) and share < 0.1
    assert f"test: only {share:.1%} of the probability lies on the answers 'yes', 'no'" in caplog.text
    cost = summary["cost"]
    # Scored, not generated: a prompt has a template around a short text
    assert (cost["calls"], cost["rounds"], cost["completion_tokens"]) == (9, 1, 0)
    assert 9 * 10 < cost["prompt_tokens"] < 9 * 512


@pytest.mark.parametrize(("budget", "share"), [(None, 0.0), (1, 1.0)])
def test_the_share_of_documents_that_were_cut_is_noted(config, tmp_path, tiny_model_dir, caplog, budget, share):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512, max_passage_tokens=budget)
    with caplog.at_level(logging.INFO):
        rerank_stage.run(config, "test", RerankStage(kind="rerank", format_prompts={"pointwise": 3}))
    assert json.loads((tmp_path / "run/test/summary.json").read_text())["cut_documents"] == share
    assert f"test: {share:.0%} of the documents were cut to the token budget" in caplog.text


def test_a_stage_without_one_usable_answer_says_so(config, tmp_path, tiny_model_dir, caplog):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    config.paradigm = "listwise"
    stage = RerankStage(kind="rerank")
    rerank_stage.run(config, "test", stage)
    summary = json.loads((tmp_path / "run/test/summary.json").read_text())
    assert summary["num_fallbacks"] == summary["num_prompts"] > 0  # a random model answers with noise
    sentence = f"stages.test: none of the {summary['num_prompts']} answers can be used, so every ranking is the order"
    assert summary["warning"].startswith(sentence) and summary["warning"] in caplog.messages
    assert stage.results(tmp_path / "run/test") == [f"warning: {summary['warning']}"]
    # Scores are read from logits, so every answer is one.
    rerank_stage.run(config, "scored", scored := RerankStage(kind="rerank", paradigm="pointwise"))
    assert scored.results(tmp_path / "run/scored") == []


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
        rerank_stage.run(config, name, stage)
        shown[name] = [row["docids"] for row in read_jsonl(tmp_path / "run" / name / "rollouts.jsonl")]
    assert shown["first"] == shown["again"] != shown["other"]
    assert shown["plain"] == [[f"{i}a", f"{i}b", f"{i}c"] for i in (0, 2, 4)]


def test_an_unknown_split_is_named(config):
    with pytest.raises(LookupError, match="dev"):
        rerank_stage.run(config, "x", RerankStage(kind="rerank", model="first_stage", split="dev"))


def test_two_runs_are_fused_by_their_own_scores_without_a_model(config, tmp_path):
    config.model.path = "/nowhere"
    rerank_stage.run(config, "bm25", RerankStage(kind="rerank", model="first_stage"))
    raw = {"a": 0.0, "b": 1.0, "c": 10.0}
    other = [
        {
            "qid": f"q{i}",
            "docids": [f"{i}{d}" for d in "cba"],
            "scores": {f"{i}c": 3.0, f"{i}b": 2.0, f"{i}a": 1.0},
            "raw_scores": {f"{i}{d}": score for d, score in raw.items()},
        }
        for i in (0, 2, 4)
    ]
    write_jsonl(tmp_path / "run/other/rankings.jsonl", other)
    spent = {"calls": 9, "rounds": 1, "prompt_tokens": 90, "completion_tokens": 0, "seconds": 2.0}
    write_json(tmp_path / "run/other/summary.json", {"cost": spent})
    stage = RerankStage(kind="rerank", fuse=["other", "bm25"], fusion=FusionConfig(method="minmax", weight=0.6))
    rerank_stage.run(config, "fused", stage)
    # other 0 .1 1; bm25 has no scores: ranks 3 2 1 -> 1 .5 0; .6 and .4: a .4, b .26, c .6
    scores = trec.read_run(tmp_path / "run/fused/run.trec")["q0"]
    assert scores == pytest.approx({"0c": 0.6, "0a": 0.4, "0b": 0.26})
    summary = json.loads((tmp_path / "run/fused/summary.json").read_text())
    assert (summary["model"], summary["num_prompts"], summary["num_queries"]) == ("other + bm25", 0, 3)
    assert (summary["cost"]["calls"], summary["cost"]["prompt_tokens"]) == (9, 90)
    with pytest.raises(FileNotFoundError, match=r"stages.late.fuse reads .*/none/rankings.jsonl, which does not exist"):
        rerank_stage.run(config, "late", RerankStage(kind="rerank", fuse=["other", "none"]))


def test_a_weight_is_chosen_on_development_queries_and_kept_with_its_values(config, tmp_path, tiny_model_dir):
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["split"] = ("test", "dev")[i % 2]
        for place, candidate in enumerate(row["candidates"]):
            candidate["score"] = 3.0 - place
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    for split in ("test", "dev"):
        rerank_stage.run(config, f"bm25_{split}", RerankStage(kind="rerank", model="first_stage", split=split))
        rerank_stage.run(config, f"model_{split}", RerankStage(kind="rerank", split=split))
    # The model on dev has the judged b in front, the first stage a.
    dev = [
        {"qid": f"q{i}", "docids": [f"{i}{d}" for d in "bca"], "scores": {f"{i}b": 3.0, f"{i}c": 2.0, f"{i}a": 1.0},
         "raw_scores": {f"{i}a": 0.0, f"{i}b": 4.1, f"{i}c": 0.0}}
        for i in (1, 3, 5)
    ]  # fmt: skip
    write_jsonl(tmp_path / "run/model_dev/rankings.jsonl", dev)
    both = TunedWeight(dev=["model_dev", "bm25_dev"])
    stage = RerankStage(kind="rerank", fuse=["model_test", "bm25_test"], fusion=FusionConfig(method="sum", weight=both))
    rerank_stage.run(config, "fused", stage)
    chosen = json.loads((tmp_path / "run/fused/summary.json").read_text())["fusion"]
    # Sums: a 3 (1 - w), b 4.1 w + 2 (1 - w); b is first if 4.1 w > 1 - w, w > .196: 1. Otherwise a, b: 1 / log2(3).
    assert chosen["values"] == pytest.approx([1 / math.log2(3)] * 4 + [1.0] * 17)
    assert (chosen["weight"], chosen["method"], chosen["measure"]) == (0.5, "sum", "nDCG@10")
    assert (chosen["runs"], chosen["num_queries"]) == (["model_dev", "bm25_dev"], 3)
    given = RerankStage(kind="rerank", fuse=stage.fuse, fusion=FusionConfig(method="sum", weight=0.5))
    rerank_stage.run(config, "given", given)
    assert (tmp_path / "run/fused/rankings.jsonl").read_text() == (tmp_path / "run/given/rankings.jsonl").read_text()
    assert "fusion" not in json.loads((tmp_path / "run/given/summary.json").read_text())
    # The same for a model that is fused with the first stage as it ranks
    alone = FusionConfig(method="sum", weight=TunedWeight(dev=["model_dev"]))
    rerank_stage.run(config, "alone", RerankStage(kind="rerank", fusion=alone))
    assert (tmp_path / "run/alone/run.trec").read_text().replace("alone", "fused") == (
        tmp_path / "run/fused/run.trec"
    ).read_text()


def test_a_stage_asks_with_a_paradigm_of_its_own_as_often_as_it_says(config, tmp_path, tiny_model_dir):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    stages = [{"paradigm": "pointwise"}, {"paradigm": "listwise", "depth": 2}]
    config.paradigms["two"] = PluginConfig(name="pipeline", params={"stages": stages})
    stage = RerankStage(kind="rerank", paradigm="two", shuffles=2, retries=1, fusion=FusionConfig(method="rrf"))
    rerank_stage.run(config, "piped", stage)
    summary = json.loads((tmp_path / "run/piped/summary.json").read_text())
    # 3 queries, 2 repetitions, 3 documents and 1 list; a random model's lists are noise, asked again once each
    assert (summary["num_prompts"], summary["num_retries"], summary["num_fallbacks"]) == (24, 6, 6)
    # One round for the documents, one for the lists, one for the lists that are asked again
    assert (summary["cost"]["calls"], summary["cost"]["rounds"]) == (30, 3)
    rows = read_jsonl(tmp_path / "run/piped/rollouts.jsonl")
    assert len(rows) == 24 + 6
    assert [row["raw_scores"] is not None for row in read_jsonl(tmp_path / "run/piped/rankings.jsonl")] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paradigm", "params"),
    [("pointwise", {}), ("pointwise_graded", {"rule": "expected"}), ("first_token", {"window": 3}), ("listwise", {}),
     ("setwise", {"mode": "scoring"}), ("pairwise", {"mode": "scoring"}), ("groupwise", {})],
)  # fmt: skip
def test_a_model_that_gives_nan_for_everything_ranks_nothing(config, tmp_path, tiny_model_dir, paradigm, params):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(folder)
    config.model = ModelConfig(path=str(folder), max_prompt_tokens=512)
    config.paradigm, config.paradigms = paradigm, {paradigm: PluginConfig(params=params)}
    with pytest.raises(ValueError, match=r"answers are not finite, so nothing was ranked; model\.dtype=float16"):
        rerank_stage.run(config, "test", RerankStage(kind="rerank"))
    assert not (tmp_path / "run/test/run.trec").exists()


def test_what_is_wrong_with_answers_is_counted_by_kind(config, tmp_path, tiny_model_dir):
    config.model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    config.paradigm = "listwise"
    rerank_stage.run(config, "test", RerankStage(kind="rerank"))
    rows = read_jsonl(tmp_path / "run/test/rollouts.jsonl")
    summary = json.loads((tmp_path / "run/test/summary.json").read_text())
    # A random model writes noise up to its limit: every answer is cut, and none is a permutation.
    assert summary["issues"]["truncated"] == summary["issues"]["not_a_permutation"] == len(rows) == 3
    assert "answer_share" not in summary
