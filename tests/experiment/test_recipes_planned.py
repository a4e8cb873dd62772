"""Recipes at the scale of their papers: a dry run shows all stages with memory and prompt lengths, and starts none."""

import json
import re

import pytest

from rl_rerank.cli.main import main
from rl_rerank.experiment.compose import compose
from rl_rerank.stages.training import TrainingStage

pytestmark = pytest.mark.slow

RECIPES = ("reasonrank", "reasonrank_32b", "grouprank", "rank_r1", "rank_r1_v02", "erank", "prorank", "published")
RECIPES += ("prp", "first", "fullrank", "ranklist", "curricula", "multistage", "losses", "rankify", "screening")
RECIPES += ("recgaze",)


@pytest.fixture
def data(tmp_path):
    """A few queries with graded candidates."""
    rows = []
    for n in range(8):
        candidates = [{"docid": f"{n}-{d}", "text": f"text {d} about {n}", "score": 6.0 - d} for d in range(6)]
        split = ("train", "train", "dev", "test")[n % 4]
        rows.append({"qid": f"q{n}", "query": f"what is {n}?", "candidates": candidates, "split": split})
        rows[-1]["qrels"] = {f"{n}-{d}": int(d in (1, 4)) for d in range(6)}
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=jsonl", f"data.path={tmp_path / 'few.jsonl'}"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dry_run_plans_every_stage_of_a_recipe_and_starts_none(recipe, tmp_path, data, capsys):
    given = [f"experiment={recipe}", "report_to=[]", f"run_dir={tmp_path / 'run'}"]
    # Carousels are simulated with the features that the recipe reads; others read any queries.
    given += [] if recipe == "recgaze" else data
    given += ["data.folds=null"] if recipe == "screening" else []  # these data have splits
    stages = compose("run", given).stages
    assert main(["run", *given, "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    plan = shown.split("# The plan; nothing was started\n")[1]
    for name, stage in stages.items():
        assert re.search(rf"^# {name} +\S", plan, re.MULTILINE), name
        if isinstance(stage, TrainingStage):
            assert re.search(rf"^# {name}: .*, with gradient checkpointing; ", plan, re.MULTILINE), name
            assert re.search(rf"^# {name}: \d+ .* prompts", plan, re.MULTILINE), name
    assert not (tmp_path / "run").exists()
