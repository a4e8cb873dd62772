"""What a dry run and the start of a run refuse, before any stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import encoders as small
from support.exported import export

from rl_rerank.cli.main import main
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving import contract

pytestmark = pytest.mark.slow

EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
  grpo: {kind: grpo, model: model, max_steps: 1, micro_batch: 2, num_generations: 2, prompts_per_step: 1}
  test: {kind: rerank, model: grpo}
"""


def row(number: int, split: str, **changes: Any) -> dict[str, Any]:
    docids = [f"q{number}-{letter}" for letter in "abc"]
    candidates = [{"docid": d, "text": f"text of {d}"} for d in docids]
    made = {"qid": f"q{number}", "query": f"query {number}", "candidates": candidates, "qrels": {docids[0]: 1}}
    return {**made, "split": split, **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(folder: Path, model: Path, *overrides: str, rows: tuple[dict[str, Any], ...] = ()) -> list[str]:
    """Twelve queries of all splits, and `rows`."""
    made = [*(row(i, ("train", "dev", "test")[i % 3]) for i in range(12)), *rows]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    data = ["data=jsonl", f"data.path={folder / 'data.jsonl'}", "run_dir=run"]
    settings = [f"model.path={model}", "model.max_prompt_tokens=300", "reward=[format]", "report_to=[]"]
    return ["run", "experiment=tiny", *data, *settings, *overrides]


def test_a_valid_experiment_passes(folder, tiny_model_dir, capsys):
    assert main([*arguments(folder, tiny_model_dir), "stages.grpo.eval_steps=1", "dry_run=true"]) == 0
    assert "# grpo: 8 pointwise prompts, in tokens: median" in capsys.readouterr().out
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        # Not "did you mean max_completion_length", which is derived.
        ("+stages.grpo.trl.max_prompt_length=100", "there is no setting 'trl.max_prompt_length'. Here you can set: "),
        ("+stages.grpo.trl.per_device_train_batch_size=4", "trl.per_device_train_batch_size is derived from the grpo"),
        ("+stages.grpo.trl.optim=sgdd", "stages.grpo: sgdd is not a valid OptimizerNames"),
        ("+stages.grpo.trl.adam_beta1=none", "trl.adam_beta1 must be of type float; got 'none'"),
        ("+stages.grpo.trl.adam_beta1=2", "trl.optim_args: Invalid beta parameter at index 0: 2"),
        ("+stages.grpo.trl.lr_scheduler_kwargs={power: 2}", "trl.lr_scheduler_kwargs: "),
        ("report_to=[foo]", "stages.grpo: foo is not supported, only"),
    ],
)
def test_trainer_arguments_are_built(folder, tiny_model_dir, capsys, override, says):
    assert main([*arguments(folder, tiny_model_dir, override), "dry_run=true"]) == 2
    error = capsys.readouterr().err
    assert "stages.grpo" in error and says in error


@pytest.mark.parametrize(
    "stage",
    [
        ["stages.grpo.policy=scores"],
        [
            "stages.grpo.kind=sft",
            "+stages.grpo.loss=softmax",
            "~stages.grpo.num_generations",
            "~stages.grpo.prompts_per_step",
        ],
    ],
)
def test_answers_that_are_scored_by_logits_are_single_tokens(folder, tiny_model_dir, capsys, stage):
    given = [*arguments(folder, tiny_model_dir, *stage), "paradigms.pointwise.params.positive=a good answer"]
    assert main([*given, "dry_run=true"]) == 2
    said = capsys.readouterr().err
    assert "stages.grpo: scores of the paradigm 'pointwise' are logits of single tokens" in said
    assert "'a good answer' is" in said


LONG = "what " * 400


@pytest.mark.parametrize(
    ("query", "overrides", "says"),
    [
        (row(90, "test", query=LONG), [], "stages.test, split 'test': qid 'q90': the pointwise prompt takes"),
        (row(90, "train", query=LONG), [], "qid 'q90': the pointwise prompt takes"),
        (
            row(90, "dev", query=LONG),
            ["stages.grpo.eval_steps=1"],
            "stages.grpo, split 'dev': qid 'q90': the pointwise prompt takes",
        ),
        (
            row(90, "test", candidates=[{"docid": f"d{i}", "text": "x"} for i in range(90)], qrels={"d1": 1}),
            ["paradigm=listwise", "+paradigms.listwise.params.window=null", "data.depth=90"],
            "qid 'q90': the listwise prompt takes",
        ),
    ],
)
def test_prompts_of_every_split_are_rendered(folder, tiny_model_dir, capsys, query, overrides, says):
    assert main([*arguments(folder, tiny_model_dir, *overrides, rows=(query,)), "dry_run=true"]) == 2
    assert says in capsys.readouterr().err


def test_a_dry_run_embeds_no_documents(folder, tiny_model_dir, capsys):
    encoder = small.make(folder / "encoder")
    given = [*arguments(folder, tiny_model_dir), "data.first_stage=dense", f"data.first_stage.encoder={encoder}"]
    assert main([*given, "dry_run=true"]) == 0
    says = "# data.first_stage=dense searches when the run starts; prompts here show the data's run, or BM25's\n"
    assert says in capsys.readouterr().out
    assert not (folder / "run").exists()


def images(folder: Path) -> list[str]:
    """A collection whose documents are images without text."""
    folder.mkdir()
    made = {
        "corpus.jsonl": [{"docid": f"d{i}", "image": f"d{i}.jpg"} for i in range(3)],
        "queries.jsonl": [{"qid": f"q{i}", "text": f"a dog and {i} cats"} for i in range(30)],
    }
    for name, rows in made.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\t0\td1\t1\n" for i in range(30)))
    ranked = (f"q{q} Q0 d{i} {i + 1} {3 - i} bm25\n" for q in range(30) for i in range(3))
    (folder / "run.bm25.trec").write_text("".join(ranked))
    return ["data=collection", f"data.path={folder}"]


@pytest.mark.parametrize(("stage", "split"), [("grpo", "train"), ("test", "test")])
def test_images_without_text_are_refused(folder, tiny_model_dir, capsys, stage, split):
    given = [*arguments(folder, tiny_model_dir), *images(folder / "photos"), f"stage={stage}", "dry_run=true"]
    kind = {"test": "rerank"}.get(stage, stage)
    assert main([kind, *given[1:]]) == 2
    error = capsys.readouterr().err
    assert f"stages.{stage}, split '{split}': query 'q" in error
    assert "document 'd0' is an image without text" in error


def test_training_queries_without_a_prompt_are_refused(folder, tiny_model_dir, capsys):
    given = arguments(folder, tiny_model_dir)
    made = [row(i, ("train", "dev", "test")[i % 3]) for i in range(12)]
    same = [{**r, "qrels": dict.fromkeys((c["docid"] for c in r["candidates"]), 1)} for r in made]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    assert main([*given, "paradigm=listwise", "dry_run=true"]) == 2
    assert "none of the 4 training examples gives a listwise prompt that can teach" in capsys.readouterr().err


REWARDS = """\
class Alone:
    pass

def none(example, rollout): return None
def listed(example, rollout): return [1.0]
def raises(example, rollout): return example.qrels["no such document"]
def malformed(example, rollout): return max(rollout.judgment.scores.values())
def trl(completions, **columns): return [0.0]
known = {f"q{i}": float(i) for i in range(12)}
def of_the_data(example, rollout): return known[example.qid]

class Short:
    def score_all(self, example, rollouts): return [0.0]

class Number:
    def __init__(self): self.x = 1.0
    def __call__(self, example, rollout): return self.x

number = Number()
"""


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("ndcg", "stages.grpo: the reward 'ndcg' scores completions of listwise, groupwise, first_token, not of "
                 "pointwise; stages.grpo.policy=scores rewards orders"),
        ("mine.py:none", "stages.grpo: reward 'none' returned None for qid 'q"),
        ("mine.py:listed", "stages.grpo: reward 'listed' returned [1.0] for qid 'q"),
        ("mine.py:raises", "stages.grpo: reward 'raises' failed for qid 'q"),
        ("mine.py:malformed", "reward 'malformed' failed for qid 'q0' and the completion '': ValueError: max()"),
        ("mine.py:Short", "stages.grpo: reward 'short' returned 1 values for qid 'q0' and its 2 completions"),
        ("mine.py:Alone", "reward 'alone' (mine.py:Alone) has neither __call__(example, rollout) nor score_all"),
        ("mine.py:trl", "reward 'trl' (mine.py:trl) takes (completions, **columns), and a reward is called with"),
    ],
)  # fmt: skip
def test_rewards_are_tried_on_a_completion(folder, tiny_model_dir, capsys, reward, says):
    (folder / "mine.py").write_text(REWARDS)
    steps = ["stages.grpo.prompts_per_step=2"]
    assert main([*arguments(folder, tiny_model_dir), f"reward=[{reward}]", *steps, "dry_run=true"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reward", "more"),
    [
        ("mine.py:of_the_data", []),
        ("mine.py:number", []),
        ("mine.py:malformed", ["stages.grpo.policy=choice", "~stages.grpo.num_generations"]),
        ("mine.py:none", ["rewards.none.failed=0"]),
        ("ndcg", ["stages.grpo.policy=scores"]),
    ],
)
def test_functions_and_objects_are_rewards(folder, tiny_model_dir, capsys, reward, more):
    (folder / "mine.py").write_text(REWARDS)
    given = [*arguments(folder, tiny_model_dir), f"reward=[{reward}]", *more, "dry_run=true"]
    assert main(given) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.path=./nope", "model.path='./nope': there is no folder"),
        ("journal=data.jsonl/answers", "journal='data.jsonl/answers' is no file that can be written in"),
        ("model.max_passage_tokens=0", "model.max_passage_tokens must be at least 1, or null for no limit"),
        ("model.max_passage_tokens=-3", "or null for no limit but the prompt's; got -3"),
        ("model.max_prompt_tokens=0", "model.max_prompt_tokens must be at least 1; got 0"),
        ("engine.args.gpu=1", "engine.args.gpu cannot be set for engine.kind=hf"),
        ("report_to=[wanb]", "wanb"),
    ],
)
def test_settings_that_can_never_work_are_refused_at_the_start(folder, tiny_model_dir, capsys, override, says):
    assert main([*arguments(folder, tiny_model_dir), override, "dry_run=true"]) == 2
    assert says in capsys.readouterr().err


def test_an_exported_model_that_is_asked_otherwise_is_named(folder, tiny_model_dir, tmp_path, capsys, caplog):
    model = export(tiny_model_dir, tmp_path / "exported", Pointwise())
    given = arguments(folder, model, "dry_run=true")
    terms = contract.read(model)
    budgets = [f"model.max_prompt_tokens={terms.max_prompt_tokens}"]
    budgets.append(f"model.max_passage_tokens={terms.max_passage_tokens or 'null'}")
    assert main([*given, *budgets]) == 0, capsys.readouterr().err
    assert "is an exported reranker" not in caplog.text
    assert main([*given, *budgets, "model.max_passage_tokens=7"]) == 0
    was = f"model.max_passage_tokens=7 (exported with {terms.max_passage_tokens})"
    assert f"is an exported reranker, which is asked otherwise here than it was trained: {was}" in caplog.text


@pytest.mark.process
def test_a_run_refuses_the_same_before_its_first_stage(folder, tiny_model_dir):
    given = arguments(folder, tiny_model_dir, "+stages.grpo.trl.max_prompt_length=100")
    done = subprocess.run([sys.executable, "-m", "rl_rerank", *given], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no setting 'trl.max_prompt_length'" in done.stderr
    assert not (folder / "run/first_stage").exists()
