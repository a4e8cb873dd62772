"""Recipes from their files, all stages one after another, with a tiny model and few queries."""

import importlib
import json
from pathlib import Path

import pytest
from support.cross_encoders import make as make_encoder
from support.encoders import make as make_bi_encoder

from rl_rerank import registry
from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.sft.spec import SFTStage

pytestmark = pytest.mark.slow

LOSSES = (
    "bce",
    "hinge",
    "ranknet",
    "lambdarank",
    "first",
    "skip_ranknet",
    "ranklist_style",
    "anchored_hinge",
    "listmle",
    "softmax",
    "listnet",
    "plackett_luce",
    "mse",
    "margin_mse",
    "soft_ranknet",
    "list_kl",
)


def ran(tmp_path: Path, model: Path, experiment: str, *overrides: str) -> Config:
    settings = [f"run_dir={tmp_path / 'run'}", "report_to=[]", f"model.path={model}"]
    config = compose("run", [f"experiment={experiment}", "scale=cpu", *settings, *overrides])
    assert isinstance(config, Config)
    Experiment.of(config)
    for name, stage in config.stages.items():
        importlib.import_module(f"rl_rerank.stages.{stage.kind}.run").run(config, name, stage)
    return config


def checks(config: Config) -> list[dict]:
    return json.loads((Path(config.run_dir) / "mechanism/checks.json").read_text())


def passed(config: Config, *beginnings: str) -> list[bool]:
    """Whether the checks passed whose names begin like this, in the order of the table."""
    return [found["passed"] for found in checks(config) if found["what"].startswith(beginnings)]


def summary(config: Config, stage: str) -> dict:
    return json.loads((Path(config.run_dir) / stage / "summary.json").read_text())


def six_each(tmp_path: Path, train: int = 6, test: int = 4) -> list[str]:
    """Settings for queries with six graded candidates each."""
    rows = []
    for n in range(train + test + 1):
        candidates = [{"docid": f"{n}-{d}", "text": f"text {n} {d}", "score": 6.0 - d} for d in range(6)]
        row = {"qid": f"q{n}", "query": f"what is text {n}?", "candidates": candidates}
        split = "train" if n < train else "test" if n < train + test else "dev"
        rows.append({**row, "qrels": {f"{n}-{(n + 2) % 6}": 2, f"{n}-{(n + 4) % 6}": 1}, "split": split})
    (tmp_path / "six.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=jsonl", f"data.path={tmp_path / 'six.jsonl'}"]


def test_rankifys_file_goes_through_the_whole_recipe(tmp_path, tiny_model_dir):
    contexts = [{"score": 3.0 - n, "has_answer": n == 1, "id": n, "text": f"text {n}", "title": ""} for n in range(3)]
    items = [{"question": f"what is {n}?", "answers": [f"{n}"], "query_id": n, "ctxs": contexts} for n in range(4)]
    (tmp_path / "nq.json").write_text(json.dumps(items))
    data = ["data=rankify", f"data.path={tmp_path / 'nq.json'}", "data.params.split=test"]
    config = ran(tmp_path, tiny_model_dir, "rankify", *data)
    assert [(found["passed"], found["found"]) for found in checks(config)][:2] == [
        (True, "16 of 16 fields of 4 questions"),
        (True, "4 of 4 questions"),
    ]
    assert all(found["passed"] for found in checks(config))
    rows = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())["rows"]
    # The passage with the answer stands second in their file.
    assert [row["mean"]["Success@1"] for row in rows if row["run"] == "first_stage"] == [0.0]
    assert [row["mean"]["Success@5"] for row in rows if row["run"] == "first_stage"] == [1.0]


def test_screening_ranks_all_records_of_topics_that_it_was_not_trained_on(tmp_path, tiny_model_dir):
    few = ["data.test_queries=3", "data.dev_queries=2", "data.train_queries=4", "data.params.documents=40"]
    config = ran(tmp_path, tiny_model_dir, "screening", *few, "stages.sft.max_steps=2", "stages.sft.micro_batch=1")
    lines = (tmp_path / "run/sft_eval/run.trec").read_text().splitlines()
    assert len(lines) == 3 * 40
    metrics = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())
    assert [row["run"] for row in metrics["rows"]] == ["first_stage", "untrained", "sft_eval", "fused"]
    assert metrics["measures"] == ["AP", "WSS@95", "WSS@100", "LastRel", "RPercent@20", "NormArea"]
    topics = {
        split: {json.loads(line)["qid"] for line in (tmp_path / f"run/data/{split}.jsonl").read_text().splitlines()}
        for split in ("train", "dev", "test")
    }
    families = [{".".join(qid.split(".")[:2]) for qid in qids} for qids in topics.values()]
    assert not (families[0] & families[2] or families[1] & families[2])
    # Three topics are too few to learn from, and the checks say so.
    assert any("too few" in found["found"] or not found["passed"] for found in checks(config))


def test_pairwise_prompting_asks_a_pair_once_whatever_the_method_and_the_initial_order(tmp_path, tiny_model_dir):
    config = ran(tmp_path, tiny_model_dir, "prp", *six_each(tmp_path), "stages.sft.max_steps=2")
    assert passed(config, "allpairs: ", "heapsort: ", "sliding: ") == [True] * 6
    assert passed(config, "soft and soft_reversed and soft_random: mean nDCG@10 differs by at most") == [True]
    usage = {stage: summary(config, stage)["usage"] for stage in ("allpairs", "soft_reversed", "sliding")}
    # Four queries of 6 * 5 prompts. Beside comparisons, up to 16 prompts look for what a model would rather say.
    assert 120 <= usage["allpairs"]["asked"] <= 136
    # Two sliding passes over six documents are 2 (5 + 4) prompts.
    assert usage["soft_reversed"]["from_journal"] >= 120 and usage["sliding"]["from_journal"] >= 72
    assert max(usage[stage]["asked"] for stage in ("soft_reversed", "sliding")) <= 16
    # The teacher's scores of five documents are log strengths: they sum to about 0, and the best one is relevant.
    for line in (tmp_path / "run/synth/examples.jsonl").read_text().splitlines():
        example = json.loads(line)
        assert len(example["scores"]) == 5 and abs(sum(example["scores"].values())) < 1
        assert example["qrels"][max(example["scores"], key=example["scores"].get)] > 0


def test_first_scores_windows_without_generating_and_trains_beside_its_twins(tmp_path, tiny_model_dir):
    twins = ("joint", "rank_only", "lm_only")
    config = ran(tmp_path, tiny_model_dir, "first", *six_each(tmp_path), *[f"stages.{t}.max_steps=2" for t in twins])
    assert passed(config, "joint_eval: no token", "joint_eval: each", "joint_eval: windows of 4 by 2") == [True] * 3
    orders = [json.loads(line) for line in (tmp_path / "run/synth/examples.jsonl").read_text().splitlines()]
    assert all(sorted(one["order"]) == sorted(c["docid"] for c in one["candidates"]) for one in orders)
    rows = [json.loads(line) for line in (tmp_path / "run/synth/rows.jsonl").read_text().splitlines()]
    assert all(row["paradigm"] == "first_token" and row["target"].startswith("[") for row in rows)
    weights = {(tmp_path / f"run/{twin}/model/model.safetensors").read_bytes() for twin in twins}
    assert len(weights) == 3


def test_fullrank_learns_from_whole_orders_and_reads_lists_once(tmp_path, tiny_model_dir):
    twins = [f"stages.{name}.max_steps=2" for name in ("full", "plain", "windowed")]
    config = ran(tmp_path, tiny_model_dir, "fullrank", *six_each(tmp_path), *twins)
    assert passed(config, "synth: every gold order", "settled: passes give", "full: tokens of") == [True] * 3
    assert passed(config, "full_eval: fewer prompt tokens", "top_eval: fewer completion tokens") == [True] * 2
    assert [summary(config, stage)["num_malformed"] for stage in ("full_eval", "top_eval", "windowed_eval")] == [0] * 3
    # Decoding stops behind the second identifier, and the other documents follow.
    rollouts = [json.loads(line) for line in (tmp_path / "run/top_eval/rollouts.jsonl").read_text().splitlines()]
    assert all(row["text"].count("[") == 2 and row["text"].endswith("]") for row in rollouts)
    rows = {row["paradigm"]: row for row in map(json.loads, (tmp_path / "run/synth_windows/rows.jsonl").open())}
    assert list(rows) == ["windows"] and len(rows["windows"]["docids"]) == 4


def test_curricula_train_alike_but_for_the_weights_of_their_pairs(tmp_path, tiny_model_dir):
    few = ["data.test_queries=3", "data.dev_queries=2", "data.train_queries=12"]
    names = ("none", "reciprank", "normscore", "kdescore", "anti", "documents", "documents_reciprank")
    config = ran(tmp_path, tiny_model_dir, "curricula", *few, *[f"stages.{name}.max_steps=24" for name in names])
    found = {one["what"]: one["passed"] for one in checks(config)}
    mechanism = [passed for what, passed in found.items() if "weigh" in what]
    assert len(mechanism) == 5 * 4 and all(mechanism)
    assert not any(passed for what, passed in found.items() if "more RR@10" in what)  # too few queries to say so
    for name in ("anti", "documents_reciprank"):
        rows = [json.loads(line) for line in (tmp_path / f"run/{name}/metrics.jsonl").read_text().splitlines()]
        assert [row["curriculum/weight"] == 1 for row in rows] == [False] * 20 + [True] * 4


def test_every_ranking_loss_trains_the_same_scorer_on_the_same_lists(tmp_path, tiny_model_dir):
    few = ["data.test_queries=3", "data.dev_queries=2", "data.train_queries=12"]
    steps = [f"stages.{name}.max_steps=2" for name in LOSSES]
    config = ran(tmp_path, tiny_model_dir, "losses", *few, *steps)
    assert {stage.loss for stage in config.stages.values() if isinstance(stage, SFTStage)} == set(
        registry.names("loss")
    )
    rows = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())["rows"]
    assert [row["run"] for row in rows] == [*(f"{name}_eval" for name in LOSSES), "first_stage", "untrained"]
    scores = {(tmp_path / f"run/{name}_eval/rankings.jsonl").read_text() for name in LOSSES}
    assert len(scores) == len(LOSSES)  # none is another one under its name
    calibration = [found for found in checks(config) if "calibrated" in found["what"]]
    assert [found["found"] for found in calibration] == ["3 queries: too few to compare"] * 15


def test_mono_and_duo_rank_one_after_the_other(tmp_path, tiny_model_dir):
    pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")
    few = ["data.test_queries=3", "data.dev_queries=2", "data.train_queries=12"]
    encoder = make_encoder(tmp_path / "encoder")
    short = [f"stages.{name}.{value}" for name in ("mono", "duo") for value in (f"model={encoder}", "max_steps=2")]
    config = ran(tmp_path, tiny_model_dir, "multistage", *few, *short)
    rows = {row["run"]: row for row in json.loads((tmp_path / "run/evaluate/metrics.json").read_text())["rows"]}
    assert [*rows] == ["untrained", "mono_eval", "duo_eval", "duo_sum", "one_order", "first_stage"]
    calls = {name: rows[name]["cost"]["calls"] for name in rows}
    candidates = (tmp_path / "run/mono_eval/run.trec").read_text().count("\n")
    assert calls["untrained"] == calls["mono_eval"] == candidates and calls["duo_eval"] == candidates + 3 * 5 * 4
    assert calls["one_order"] == candidates + 3 * 5 * 2
    found = {one["what"]: one["found"] for one in checks(config)}
    assert [said for what, said in found.items() if "stay" in what] == ["3 of 3 queries"] * 2
    assert len([said for what, said in found.items() if "same ranking" in what]) == 2


def test_a_gold_order_trains_by_skips_that_grow(tmp_path, tiny_model_dir):
    encoder = make_bi_encoder(tmp_path / "bi_encoder")
    few = ["data.test_queries=3", "data.dev_queries=2", "data.train_queries=12"]
    names = ("neighbours", "skips", "growing", "smooth", "all_pairs", "listmle", "listnet")
    steps = [f"stages.{name}.max_steps=4" for name in names]
    models = [f"stages.{name}.engine.args.model={encoder}" for name in ("minilm", "minilm_train")]
    config = ran(tmp_path, tiny_model_dir, "ranklist", *few, *steps, *models)
    models = {name: (tmp_path / f"run/{name}_eval/rankings.jsonl").read_text() for name in names}
    assert len(set(models.values())) == len(names)
    rows = [json.loads(line) for line in (tmp_path / "run/by_minilm/examples.jsonl").read_text().splitlines()]
    assert rows and all(len(row["order"]) == len(row["candidates"]) for row in rows)
    found = [one["found"] for one in checks(config) if "Kendall" in one["what"]]
    assert found == ["3 queries: too few to compare"] * 10


def test_proranks_first_stage_has_a_twin_on_permuted_rewards(tmp_path, tiny_model_dir):
    stages = ("warmup", "permuted", "scores")
    short = [f"stages.{name}.max_steps=2" for name in stages]
    short += [f"stages.{name}.{size}=4" for name in stages[:2] for size in ("prompts_per_step", "micro_batch")]
    config = ran(tmp_path, tiny_model_dir, "prorank", *six_each(tmp_path), *short)
    assert len({(tmp_path / f"run/{name}/model/model.safetensors").read_bytes() for name in stages}) == 3
    metrics = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())
    assert ["warmup_eval", "permuted_eval"] in [[row["system"], row["baseline"]] for row in metrics["comparisons"]]
    found = {one["what"]: one for one in checks(config)}
    [control] = [one for what, one in found.items() if "trained on permuted rewards" in what]
    assert control["found"] == "4 queries: too few to compare" and control["is_quality"]
    assert not any(one["is_quality"] for what, one in found.items() if "a completion with the fault" in what)


def test_published_weights_are_asked_in_the_words_of_a_wording(tmp_path, tiny_model_dir):
    config = ran(tmp_path, tiny_model_dir, "published", *six_each(tmp_path), "paradigm=pointwise")
    rows = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())["rows"]
    assert [(row["run"], row["num_queries"]) for row in rows] == [("published", 4), ("first_stage", 4)]
    assert "mxbai" in json.loads((tmp_path / "run/published/protocol.json").read_text())["paradigm"]
    assert summary(config, "published")["num_prompts"] == 24 and summary(config, "published")["num_malformed"] == 0


def test_carousels_train_on_clicks_looks_and_the_truth(tmp_path, tiny_model_dir):
    few = ["data.test_queries=5", "data.dev_queries=2", "data.train_queries=40"]
    few += ["data.params.users=40", "data.params.screens=20"]
    names = ("naive", "clicks_ips", "looks", "looks_ips", "full")
    config = ran(tmp_path, tiny_model_dir, "recgaze", *few, *[f"stages.{name}.max_steps=2" for name in names])
    models = {(tmp_path / f"run/{name}/model/model.safetensors").read_bytes() for name in names}
    assert len(models) == len(names)  # none learns what another one does
    naive, looks = (
        [json.loads(line) for line in (tmp_path / f"run/{stage}/examples.jsonl").read_text().splitlines()]
        for stage in ("by_clicks", "by_looks")
    )
    assert naive and all(len(row["candidates"]) == len(row["qrels"]) == 12 for row in naive)
    examined = [{c["docid"] for c in row["candidates"] if c["features"]["examined"]} for row in looks]
    assert looks and [set(row["qrels"]) for row in looks] == examined
    found = {one["what"]: one for one in checks(config)}
    known = found["examination of a place is within 0.05 of the simulator's on average"]
    assert known["passed"] and "over 12 places" in known["found"]
    assert sum("explains held-out clicks" in what for what in found) == 2
    snips = [one["found"] for what, one in found.items() if "SNIPS" in what]
    assert len(snips) == 3 and all("too few" in said for said in snips)
    splits = [
        {json.loads(line)["qid"] for line in (tmp_path / f"run/data/{split}.jsonl").read_text().splitlines()}
        for split in ("train", "test")
    ]
    for part in (0, 1):  # person, screen
        assert not {q.split("-")[part] for q in splits[0]} & {q.split("-")[part] for q in splits[1]}


def test_baidus_system_learns_from_clicks_then_judgments_and_leaves_a_pyramid(tmp_path, tiny_model_dir):
    pytest.importorskip("sklearn", reason="the extra clicks has it")
    few = ["data.test_queries=4", *(f"data.params.{name}" for name in ("judged=12", "clicked=12", "dev=2", "test=4"))]
    few += ["model.max_passage_tokens=120"]  # a token is nearly a character here; summaries differ from beginnings
    names = ("pretrained", "anchored", "plain", "head_pretrained", "head", "pyramid")
    config = ran(tmp_path, tiny_model_dir, "baidu", *few, *[f"stages.{name}.max_steps=2" for name in names])
    models = {(tmp_path / f"run/{name}/model/model.safetensors").read_bytes() for name in names}
    assert len(models) == len(names)  # none learns what another one does
    settings = {name: json.loads((tmp_path / f"run/{name}/model/config.json").read_text()) for name in names}
    assert [name for name in names if "pyramid" in settings[name]] == ["pyramid"]
    rows = [json.loads(line) for line in (tmp_path / "run/by_clicks/examples.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and sum("calibrate" in row["provenance"] for row in rows) == 12
    taught = [json.loads(line) for line in (tmp_path / "run/by_teacher/examples.jsonl").read_text().splitlines()]
    assert len(taught) == 24 and all(len(row["scores"]) == 10 for row in taught)
    found = {one["what"]: one for one in checks(config)}
    [cost] = [one["found"] for what, one in found.items() if "its operations give" in what]
    assert "of the operations" in cost and "over 5 windows" not in cost and "over 4 windows" in cost
    assert sum("better calibrated" in what for what in found) == 2
