"""The recipes that come with the framework: they compose, their plan holds, and they make what they say."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.synth_runs import summary

from rl_rerank.config import Config
from rl_rerank.data.examples import ExampleFile
from rl_rerank.experiment.compose import compose, options
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.synth import run as synth_stage
from rl_rerank.stages.synth.spec import SynthStage
from rl_rerank.types import Completion, Prompt

pytestmark = pytest.mark.slow

RECIPES = ["answers", "erank", "fullrank", "grouprank", "rank_r1", "reasonrank"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """40 documents that share words, and 8 queries with one relevant document each."""
    documents = [{"docid": f"d{n}", "text": f"ice cave number {n} and group {n % 7}"} for n in range(40)]
    queries = [{"qid": f"q{n}", "text": f"cave number {n} ice", "split": "train"} for n in range(8)]
    for name, rows in {"corpus": documents, "queries": queries}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{n} 0 d{n} 1\n" for n in range(8)))
    return tmp_path


def composed(recipe: str, folder: Path, *overrides: str) -> Config:
    found = compose("synth", [f"recipe={recipe}", "data=collection", f"data.path={folder}", *overrides])
    assert isinstance(found, Config)
    found.run_dir = str(folder / "run")
    Experiment.of(found)
    return found


def test_every_recipe_is_tried_here():
    assert sorted(options("recipe")) == RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_examples_and_rows_with_the_labels_as_teacher(recipe, collection):
    config = composed(recipe, collection)
    stage = config.stages["synth"]
    assert isinstance(stage, SynthStage)
    synth_stage.run(config, "synth", stage)
    made = ExampleFile(collection / "run/synth/examples.jsonl")
    rows = read_jsonl(collection / "run/synth/rows.jsonl")
    assert {row["paradigm"] for row in rows} == set(stage.mixture)
    sizes = [len(example.candidates) for example in made]
    if recipe == "grouprank":
        # Lists of 40 at most, two groups of 5 to 20 of each.
        assert len(made) == 16 and min(sizes) >= 5 and max(sizes) <= 20
        for row in rows:
            prompt = Prompt(row["qid"], tuple(row["docids"]), ())
            assert Groupwise(reasoning=True).parse(prompt, Completion(row["target"]), strict=True).is_ok
        assert {row["teacher"] for row in rows} == {"labels"} and summary(config)["steps"]["answers"]["prompts"] == 16
        for example in made:  # the answers follow the fused scores that GRPO's reward reads, not the judgments
            [said] = example.teachers
            scores = Groupwise(reasoning=True).parse(Prompt("", said.docids, ()), Completion(said.text), strict=True)
            assert example.scores is not None
            top = max(said.docids, key=example.scores.__getitem__)
            assert scores.scores[top] == max(scores.scores.values()) > min(scores.scores.values())
    else:
        assert len(made) == 8
    if recipe == "rank_r1":
        assert all(re.fullmatch(r"\[\d+\]", row["target"]) for row in rows)
    if recipe in ("erank", "rank_r1"):
        assert all(sum(example.qrels.get(d, 0) for d in example.docids) == 1 for example in made)
    if recipe in ("reasonrank", "fullrank"):
        # Without noise the teacher's order has the relevant document first.
        assert all(example.order and example.qrels[example.order[0]] == 1 for example in made)
    if recipe == "fullrank":
        assert all(len(row["docids"]) == len(made.example(row["qid"]).docids) for row in rows)
    assert summary(config)["stopped"] == "" and (collection / "run/synth/index.html").is_file()


def test_a_step_of_a_recipe_is_set_on_the_command_line(collection):
    config = composed("erank", collection, "stages.synth.steps.bands.params.positives=2", "stages.synth.noise=0.5")
    stage = config.stages["synth"]
    assert isinstance(stage, SynthStage)
    assert list(stage.steps) == ["bm25", "bands", "rank", "well_formed", "length", "shuffle"]
    assert (stage.steps["bands"].params["positives"], stage.noise) == (2, 0.5)
    with pytest.raises(LookupError, match=r"no recipe is named 'eranc'; .* Did you mean 'erank'"):
        composed("eranc", collection)


def test_a_recipe_takes_the_place_of_an_experiments_synthesis():
    config = compose("run", ["experiment=quickstart_tokens", "recipe=reasonrank"])
    assert isinstance(config, Config)
    stage = config.stages["synth"]
    assert isinstance(stage, SynthStage) and next(iter(stage.steps)) == "bm25"
    assert set(stage.mixture) == {"pointwise", "listwise", "groupwise"}
    assert dataclasses.asdict(config)["paradigms"]["listwise"]["params"]["reasoning"] is True


def test_a_models_own_answers_are_the_rows_of_groups(collection, tiny_model_dir):
    tiny = (f"model.path={tiny_model_dir}", "model.max_prompt_tokens=1024", "paradigms.groupwise.params.think_tokens=8")
    config = composed("grouprank", collection, "stages.synth.steps.answers.params.engine=model", "engine=hf", *tiny)
    stage = config.stages["synth"]
    assert isinstance(stage, SynthStage)
    # Random weights write nothing that is an answer, and nothing else is put in its place.
    with pytest.raises(ValueError, match=r"made no row from 0 examples: .*'answers': .*'malformed': 16"):
        synth_stage.run(config, "synth", stage)


@pytest.mark.parametrize(("scale", "reasons"), [([], False), (["scale=cpu"], True)])
def test_rank_r1s_baseline_answers_with_the_label_alone_but_where_grpo_starts_from_it(scale, reasons):
    data = ["data=pydocs"] if scale else ["data=pydocs", "launcher=local", "engine=hf"]
    config = compose("run", ["experiment=rank_r1", *scale, *data])
    assert isinstance(config, Config)
    Experiment.of(config)
    synth, asked, grpo = (config.stages[name] for name in ("synth", "sft_eval", "grpo"))
    assert isinstance(synth, SynthStage) and isinstance(asked, RerankStage) and isinstance(grpo, GRPOStage)
    [trained] = synth.mixture
    baseline, system = (build_paradigm(config, name) for name in (trained, "setwise"))
    assert asked.paradigm == trained
    assert (grpo.model == "sft") is reasons
    assert isinstance(baseline, Setwise) and isinstance(system, Setwise) and system.reasoning
    assert baseline == replace(system, reasoning=reasons)
