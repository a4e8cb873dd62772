"""The synthesis stage: what it leaves behind."""

import json
import logging
from pathlib import Path

import pytest
from support.synth_runs import config, run, stage, summary

from rl_rerank.config import Config, PluginConfig
from rl_rerank.data.sources.jsonl import JsonLines
from rl_rerank.io.files import read_jsonl
from rl_rerank.registry import names
from rl_rerank.stages.synth import run as synth_stage

STEP = """\
from dataclasses import dataclass, replace

@dataclass(frozen=True)
class Louder:
    times: int = 1
    def __call__(self, examples, context):
        for example in examples:
            context.counts["shouted"] += self.times
            yield replace(example, query=example.query + "!" * self.times)

@dataclass(frozen=True)
class Silent:
    def __call__(self, examples, context):
        for example in examples:
            context.counts["malformed"] += 1
        yield from ()

@dataclass(frozen=True)
class Twice:
    def __call__(self, examples, context):
        for example in examples:
            yield example
            yield example
"""


def rows(settings: Config, **more) -> list:
    run(settings, **more)
    return read_jsonl(Path(settings.run_dir) / "synth/rows.jsonl")


def test_the_mixture_is_written_with_a_summary_and_the_same_seed_gives_the_same_rows(tmp_path):
    settings = config(tmp_path)
    mixture = {"pointwise": 20, "listwise": 11, "groupwise": 0}
    made = rows(settings, mixture=mixture)
    assert [row["paradigm"] for row in made] == ["pointwise"] * 20 + ["listwise"] * 11
    assert {row["qid"] for row in made} <= {f"q{n}" for n in range(1, 13)}
    assert all(set(row) == {"qid", "paradigm", "docids", "target", "teacher"} for row in made)
    found = summary(settings)
    assert found["paradigms"] == {
        "pointwise": {"asked": 20, "rows": 20},
        "listwise": {"asked": 11, "rows": 11},
        "groupwise": {"asked": 0, "rows": 0},
    }
    assert (found["teacher"], found["seed"], len(found["data"])) == ("labels", 1, 64)
    assert rows(settings, mixture=mixture) == made
    assert rows(settings, mixture=mixture, seed=2) != made


def test_too_few_rows_are_a_warning_that_says_how_many(tmp_path, caplog):
    # Two queries with three documents each: six different pointwise questions, of which each pass asks two a query.
    made = rows(config(tmp_path, num_queries=2), mixture={"pointwise": 400})
    assert 4 <= len(made) <= 6
    assert f"synth: {len(made)} pointwise rows of the 400 asked for: 2 training examples give no more" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_an_unknown_step_parameter_or_paradigm_is_refused_before_any_work(tmp_path):
    with pytest.raises(LookupError, match=r"no step is named 'shufle'; installed: .*Did you mean 'shuffle'\?"):
        run(config(tmp_path), {"shufle": {}})
    with pytest.raises(ValueError, match="step 'rank' has no parameter 'paradim'; it has: paradigm,"):
        run(config(tmp_path), {"rank": {"paradim": "listwise"}})
    with pytest.raises(LookupError, match="no paradigm is named 'pointwize'"):
        run(config(tmp_path), mixture={"pointwize": 1})
    assert not (tmp_path / "run/synth").exists()


def test_a_step_of_ones_own_is_a_file_and_a_recipe_that_leaves_nothing_says_what_became_of_it(tmp_path):
    (tmp_path / "mine.py").write_text(STEP)
    mine = f"{tmp_path}/mine.py"
    made = run(config(tmp_path), {"louder": {"target": f"{mine}:Louder", "times": 2}}, mixture={"pointwise": 1})
    assert [example.query for example in made] == [f"query {n}!!" for n in range(1, 13)]
    other = config(tmp_path / "other")
    with pytest.raises(ValueError, match=r"made no row from 0 examples: .*'malformed': 12"):
        run(other, {"silent": {"target": f"{mine}:Silent"}})
    twice = config(tmp_path / "twice")
    with pytest.raises(ValueError, match="its steps gave 2 examples the qid 'q1'; a qid is one example"):
        run(twice, {"twice": {"target": f"{mine}:Twice"}})


def test_every_file_can_be_read_back(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    settings = config(tmp_path)
    made = run(settings, {"rank": {}}, outputs=["parquet", "retriever"], mixture={"listwise": 3})
    folder = tmp_path / "run/synth"
    read = JsonLines(str(folder / "examples.jsonl")).read()
    assert [query.qid for query in read.queries] == [example.qid for example in made]
    assert [query.order for query in read.queries] == [example.order for example in made]
    table = parquet.read_table(folder / "examples.parquet").to_pylist()
    assert [row["order"] for row in table] == [list(example.order) for example in made]
    assert [dict(row["qrels"]) for row in table] == [dict(example.qrels) for example in made]
    [first, *_] = read_jsonl(folder / "retriever.jsonl")
    # q1: its document 1 is relevant, 0 and 2 are not; the order is worth no score, so that grades stand for them.
    assert (first["qid"], first["positive"]["docid"]) == ("q1", "q1-1")
    assert [negative["docid"] for negative in first["negatives"]] == ["q1-0", "q1-2"]
    assert first["scores"] == [1, 0, 0]
    example = made.example("q5")
    assert example.teachers[0].teacher == "labels" and len(example.teachers[0].prompt) == 16
    assert example.provenance == {"source": "jsonl", "rank": "listwise by labels"}
    assert sorted(summary(settings)["files"]) == [
        "examples.jsonl",
        "examples.parquet",
        "retriever.jsonl",
        "rows.jsonl",
    ]
    assert not (folder / "parts").exists()


def test_rows_of_a_paradigm_that_a_step_answers_are_its_answers(tmp_path):
    settings = config(tmp_path)
    made = rows(settings, steps={"answers": {"paradigm": "listwise"}}, mixture={"listwise": 30, "pointwise": 5})
    listwise = [row for row in made if row["paradigm"] == "listwise"]
    # One prompt of each of 12 examples, and no more.
    assert len(listwise) == 12
    assert len(made) == 17


def test_rows_of_a_paradigm_that_ranks_without_writing_are_the_labels_answers(tmp_path):
    made = rows(config(tmp_path), steps={"rank": {"paradigm": "pointwise"}}, mixture={"pointwise": 5})
    assert len(made) == 5 and {row["teacher"] for row in made} == {"labels"}


def test_what_is_uploaded_is_written_whole_beside_the_rows(tmp_path):
    settings = config(tmp_path)
    run(settings, mixture={"pointwise": 3})
    (tmp_path / "run/synth/hub").mkdir()
    (tmp_path / "run/synth/hub/stale.txt").write_text("old")
    folder = synth_stage.hub_folder(settings, "synth", stage())
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "rows.jsonl"]
    assert (folder / "rows.jsonl").read_bytes() == (tmp_path / "run/synth/rows.jsonl").read_bytes()
    card = (folder / "README.md").read_text()
    assert "| pointwise | 3 | 3 |" in card
    assert str(tmp_path) not in card
    (tmp_path / "run/synth/rows.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no rows\.jsonl: remove it and run the stage again"):
        synth_stage.hub_folder(settings, "synth", stage())


def test_the_card_says_where_data_come_from_and_what_became_of_them(tmp_path):
    settings = config(tmp_path, experiment="tiny")
    steps = {"labels_of": {"name": "rank", "paradigm": "listwise"}, "consistency": {"min_ndcg": 0.4}}
    settings.paradigms["wide"] = PluginConfig(name="listwise", params={"window": 3})
    run(settings, steps, noise=1.5, licence="cc-by-4.0", mixture={"wide": 4}, chunk=5)
    text, page = ((tmp_path / "run/synth" / name).read_text() for name in ("README.md", "index.html"))
    found = summary(settings)["steps"]
    assert found["labels_of"] == {"in": 12, "out": 12, "prompts": 12, "malformed": 0, "fallbacks": 0}
    left = found["consistency"]["out"]
    assert 0 < left == 12 - found["consistency"].get("inconsistent", 0)
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert "- Teacher: an oracle over the data's judgments, with errors of 1.5 grades." in text
    assert f"| consistency | consistency | min_ndcg=0.4 | 12 | {left} |" in text
    assert "- Prompt of `wide`: sha256 `" in text
    for said in ("tiny: data for training a reranker", "cc-by-4.0", "labels_of", "data:image/png;base64"):
        assert said in page
    few = f"Gold orders against the data's judgments, {left} examples: too few to compare."
    for shown in (text, page.replace("&#39;", "'")):
        assert str(tmp_path) not in shown and few in shown and "nDCG@10 0." not in shown
    assert json.loads((tmp_path / "run/synth/summary.json").read_text())["statistics"]["agreement"]["examples"] == left
    assert set(names("step")) >= {"rank", "answers", "consistency"}
