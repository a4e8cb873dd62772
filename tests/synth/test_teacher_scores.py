"""A teacher's float scores in examples: from engines, by the step `rank`, and from finished runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.synth_runs import apply, config, example, run, stage, summary

from rl_rerank.config import EngineConfig, ModelConfig
from rl_rerank.engines.build import build_engine, build_stage_engine
from rl_rerank.experiment import run_state
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import digest, trec
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage

GRADES = {"a": 0, "b": 2, "c": 1}
SCORES = {"a": -7.25, "b": 3.5, "c": 0.1 + 0.2}


def scores_of(engine, examples) -> dict[str, dict[str, float]]:
    """qid -> docid -> the score that an engine gives by itself."""
    rankings, _ = rerank([e for e in examples], Pointwise(), engine)
    return {ranking.qid: dict(ranking.raw_scores or {}) for ranking in rankings}


@pytest.fixture(scope="module")
def other_model_dir(tmp_path_factory, tiny_model_dir) -> Path:
    """The tiny model with other weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "other"
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(tiny_model_dir).config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_scores_of_another_model_folder_become_gold_and_are_asked_for_once(
    tmp_path, tiny_model_dir, other_model_dir
):
    settings = config(tmp_path, 3, model=ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=400))
    engines = {"teacher": EngineConfig(kind="hf", args={"model": str(other_model_dir)})}
    steps = {"rank": {"paradigm": "pointwise", "engine": "teacher"}}
    made = list(run(settings, steps, engines=engines))
    expected = scores_of(build_engine(EngineConfig(), settings.model, other_model_dir), made)
    own = scores_of(build_engine(EngineConfig(), settings.model, tiny_model_dir), made)
    assert len(made) == 3
    for one in made:
        assert one.scores == pytest.approx(expected[one.qid], abs=1e-4)
        assert one.scores != pytest.approx(own[one.qid], abs=1e-2)
        assert list(one.order) == sorted(one.scores, key=lambda docid, one=one: -one.scores[docid])
    assert summary(settings)["usage"]["asked"] == 9
    card = (tmp_path / "run/synth/README.md").read_text()
    assert "other, through hf" in card
    (tmp_path / "run/synth/examples.jsonl").unlink()
    again = list(run(settings, steps, engines=engines))
    assert again == made
    usage = summary(settings)["usage"]
    assert (usage.get("asked", 0), usage["from_journal"]) == (0, 9)


@pytest.mark.slow
def test_a_rerank_stage_over_the_training_queries_is_a_teacher(tmp_path, tiny_model_dir):
    settings = config(tmp_path, 3, model=ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=400))
    settings = replace(settings, paradigm="pointwise")
    rerank_stage.run(settings, "teacher", RerankStage(kind="rerank", split="train"))
    path = Path(settings.run_dir) / "teacher/rankings.jsonl"
    made = list(run(settings, {"run_scores": {"path": str(path)}}))
    expected = scores_of(build_engine(EngineConfig(), settings.model, tiny_model_dir), made)
    assert len(made) == 3
    for one in made:
        assert one.scores == pytest.approx(expected[one.qid], abs=1e-4)


def test_the_logits_of_a_cross_encoder_become_gold(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")
    from support.cross_encoders import make

    folder = make(tmp_path / "encoder")
    engines = {"teacher": EngineConfig(kind="cross_encoder", args={"model": str(folder)})}
    made = list(
        run(config(tmp_path / "run", 2), {"rank": {"paradigm": "pointwise", "engine": "teacher"}}, engines=engines)
    )
    engine = build_engine(engines["teacher"], ModelConfig(), folder)
    for one in made:
        pairs = [(one.query, f"{c.title} {c.text}".strip()) for c in one.candidates]
        logits = engine.encoder.predict(pairs, show_progress_bar=False).tolist()
        assert one.scores == pytest.approx(dict(zip(one.docids, logits, strict=True)), abs=1e-5)


def test_an_engine_with_a_model_of_its_own_ranks_for_no_trained_model(tmp_path, tiny_model_dir, other_model_dir):
    own = EngineConfig(kind="hf", args={"model": str(other_model_dir)})
    settings = config(tmp_path, model=ModelConfig(path=str(tiny_model_dir)))
    assert own.settings().has_own_model and not EngineConfig(kind="hf").settings().has_own_model
    assert own.settings().folder(settings, "sft") == other_model_dir
    assert EngineConfig(kind="hf").settings().folder(settings, "model") == tiny_model_dir
    assert build_stage_engine(settings, "model", own).model.device.type == "cpu"
    with pytest.raises(ValueError, match=r"engine\.args\.model"):
        EngineConfig(kind="hf", args={"model": ["a", "b"]})


def write_rankings(path: Path) -> Path:
    rows = [
        {"qid": "q", "docids": ["b", "c", "a"], "scores": {"b": 3.0, "c": 2.0, "a": 1.0}, "raw_scores": SCORES},
        {"qid": "half", "docids": ["b"], "scores": {"b": 1.0}, "raw_scores": {"b": 1.5}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_raw_scores_of_a_rerank_stage_become_gold(tmp_path):
    path = write_rankings(tmp_path / "rankings.jsonl")
    given = [example("q", GRADES), example("half", GRADES), example("none", GRADES)]
    made, counts = apply(given, "run_scores", path=str(path))
    assert [(one.qid, one.order, one.scores) for one in made] == [
        ("q", ("b", "c", "a"), SCORES),
        ("half", ("b",), {"b": 1.5}),
    ]
    assert made[0].provenance["run_scores"] == "scores of rankings.jsonl"
    assert (counts["without_scores"], counts["unscored"]) == (1, 2)


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_the_scores_of_a_trec_run_become_gold(tmp_path, name):
    given = example("q", GRADES)
    ranking = rank_by_scores(given, SCORES, num_prompts=3, num_malformed=0, num_fallbacks=0)
    trec.write_run(tmp_path / name, [ranking], "teacher")
    [made], _ = apply([given], "run_scores", path=str(tmp_path / name))
    assert made.scores == pytest.approx(SCORES, rel=1e-6) and made.order == ("b", "c", "a")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "raw_scores must be an object docid -> number; got null"),
        ({"a": math.nan}, r"rankings\.jsonl:1, qid 'q', docid 'a': a score must be a finite number; got nan"),
        ({"a": "1"}, r"rankings\.jsonl:1, qid 'q', docid 'a': a score must be a finite number; got '1'"),
    ],
)
def test_a_run_without_scores_names_its_query_and_document(tmp_path, raw, says):
    (tmp_path / "rankings.jsonl").write_text(json.dumps({"qid": "q", "raw_scores": raw}) + "\n")
    with pytest.raises(ValueError, match=says):
        apply([example("q", GRADES)], "run_scores", path=str(tmp_path / "rankings.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.trec"):
        apply([example("q", GRADES)], "run_scores", path=str(tmp_path / "no.trec"))


def runs(folder: Path) -> list[str]:
    """A run with raw scores 4, 2, 0 of a, b, c, and a TREC run with 10, 30, 20."""
    (folder / "one.jsonl").write_text(json.dumps({"qid": "q", "raw_scores": {"a": 4, "b": 2, "c": 0}}) + "\n")
    (folder / "two.trec").write_text("".join(f"q Q0 {d} 1 {s} x\n" for d, s in (("a", 10), ("b", 30), ("c", 20))))
    return [str(folder / "one.jsonl"), str(folder / "two.trec")]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # (4 + 10) / 2, (2 + 30) / 2, (0 + 20) / 2
        ({}, {"a": 7.0, "b": 16.0, "c": 10.0}),
        # 1, .5, 0 and 0, 1, .5, weighted 3 to 1: .75, .625, .125
        ({"normalise": "minmax", "weights": [3, 1]}, {"a": 0.75, "b": 0.625, "c": 0.125}),
        # 2 over the root of 8 / 3, and 10 over that of 200 / 3, are the root of 1.5.
        ({"normalise": "zscore"}, {"a": 0.0, "b": math.sqrt(1.5) / 2, "c": -math.sqrt(1.5) / 2}),
        ({"normalise": "zscore", "weights": [1, 0]}, {"a": math.sqrt(1.5), "b": 0.0, "c": -math.sqrt(1.5)}),
    ],
)
def test_an_ensemble_of_runs_has_the_weighted_mean_of_their_scores(tmp_path, params, expected):
    [made], counts = apply([example("q", GRADES)], "run_scores", path=runs(tmp_path), **params)
    assert made.scores == pytest.approx(expected)
    assert list(made.order) == sorted(expected, key=lambda docid: -expected[docid])
    assert counts["unscored"] == 0


def test_a_document_that_one_run_lacks_has_no_score_and_does_not_count_in_the_normalisation(tmp_path):
    paths = runs(tmp_path)
    (tmp_path / "two.trec").write_text("q Q0 a 1 10 x\nq Q0 b 1 30 x\n")
    [made], counts = apply([example("q", GRADES)], "run_scores", path=paths, normalise="minmax", weights=[1, 1])
    # 1, 0 of a, b by the first run without c, and 0, 1 by the second.
    assert made.scores == {"a": 0.5, "b": 0.5} and counts["unscored"] == 1
    assert made.provenance["run_scores"] == "scores of one.jsonl, two.trec, minmax, weights 1, 1"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"path": []}, r"path must be a file, or a list of files; got \[\]"),
        ({"path": ["a", 1]}, "path must be a file, or a list of files"),
        ({"path": "a", "normalise": "softmax"}, "normalise must be one of none, zscore, minmax; got 'softmax'"),
        ({"path": ["a", "b"], "weights": [1.0]}, "weights must be as many as runs, 2; got 1"),
        ({"path": ["a", "b"], "weights": [1.0, -1.0]}, "weights must be finite numbers of at least 0"),
        ({"path": ["a", "b"], "weights": [0.0, 0.0]}, "and one above 0; got"),
    ],
)
def test_an_ensemble_that_makes_no_sense_is_refused(params, says):
    with pytest.raises(ValueError, match=says):
        apply([example("q", GRADES)], "run_scores", **params)


def test_a_run_whose_content_changed_makes_the_stage_another_one(tmp_path):
    settings, paths = config(tmp_path), runs(tmp_path)
    settings.stages["synth"] = stage({"run_scores": {"path": paths}, "shuffle": {}})

    def recorded():
        return run_state.record(Experiment.of(settings), "synth")["stages"]["synth"]["steps"]

    before = recorded()
    assert before["run_scores"]["files"] == {path: digest.of_file(Path(path)) for path in paths}
    assert "files" not in before["shuffle"]
    Path(paths[1]).write_text("q Q0 a 1 11 x\n")
    after = recorded()
    assert before["run_scores"]["files"][paths[0]] == after["run_scores"]["files"][paths[0]]
    assert before["run_scores"]["files"][paths[1]] != after["run_scores"]["files"][paths[1]]
    Path(paths[1]).unlink()
    assert recorded()["run_scores"]["files"][paths[1]] is None


def test_the_first_stages_scores_are_a_teacher_of_weak_labels(tmp_path):
    settings, found = config(tmp_path), tmp_path / "examples.jsonl"
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    for row in rows:
        for place, candidate in enumerate(row["candidates"]):
            candidate["score"] = 7.5 - 2 * place
    found.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings.stages["bm25"] = RerankStage(kind="rerank", model="first_stage", split="train")
    rerank_stage.run(settings, "bm25", settings.stages["bm25"])
    made = list(run(settings, {"run_scores": {"path": str(tmp_path / "run/bm25/rankings.jsonl")}}))
    assert len(made) == 12
    for one in made:
        assert list(one.scores.values()) == [7.5, 5.5, 3.5] and one.order == one.docids
