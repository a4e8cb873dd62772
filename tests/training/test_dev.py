"""Held-out queries while GRPO trains: what is measured, which step is kept, when it stops."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.grpo_trainer import examples, trainer

from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.training.loop import dev

pytestmark = pytest.mark.slow

REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


@pytest.mark.parametrize("lora", [False, True])
def test_the_policy_is_ranked_as_an_engine_over_it_would(tiny_model_dir, chatml_tokenizer, tmp_path, lora):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, lora=lora, gradient_checkpointing=True)
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=400)
    qrels = {e.qid: e.qrels for e in examples()}
    asked = dev.DevSet(examples(), qrels, Listwise(window=4), renderer, 4096)
    run.train()
    value, malformed = dev.measure(run, asked)
    whole = run.model.merge_and_unload() if lora else run.model
    rankings, _ = rerank(examples(), Listwise(window=4), HFEngine(whole.eval(), renderer))
    assert value == pytest.approx(sum(ndcg(r.docids, qrels[r.qid], k=10) for r in rankings) / len(rankings))
    assert malformed == 1.0  # a random model


def stage(tmp_path, tiny_model_dir, monkeypatch, values, *overrides) -> Path:
    """Run a GRPO stage whose evaluations give `values`; the stage's folder."""
    rows = [
        {
            "qid": f"q{i}",
            "query": f"query {i}",
            "candidates": [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"],
            "qrels": {f"{i}{'abc'[i % 3]}": 1},
            "split": "dev" if i < 3 else "train",
        }
        for i in range(12)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD)
    given = iter(values)
    monkeypatch.setattr(grpo_stage, "measure", lambda trainer, asked: (next(given), 0.25))
    config = compose(
        "run",
        [
            *("experiment=quickstart", "data=jsonl", f"data.path={tmp_path / 'data.jsonl'}", "budget=smoke"),
            *(f"run_dir={tmp_path / 'run'}", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400"),
            *(f"reward=[{tmp_path / 'mine.py'}:Letters]", "stages.grpo.model=model", "stages.grpo.max_steps=4"),
            *(
                "stages.grpo.eval_steps=1",
                "stages.grpo.save_steps=100",
                "stages.grpo.learning_rate=1e-3",
                "report_to=[]",
                *overrides,
            ),
        ],
    )
    chosen = config.stages["grpo"]
    assert isinstance(chosen, GRPOStage)
    grpo_stage.run(config, "grpo", chosen)
    assert list(given) == []
    return tmp_path / "run/grpo"


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([w.flatten() for _, w in sorted(load_file(folder / "model.safetensors").items())])


def test_the_best_step_is_kept_and_the_stage_stops_where_none_is_better(tiny_model_dir, tmp_path, monkeypatch):
    values = [0.1, 0.5, 0.6, 0.4, 0.6]  # before training, then of every step: step 2 is the best
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, values, "stages.grpo.keep=best")
    assert json.loads((folder / dev.BEST).read_text()) == {"step": 2, "nDCG@10": 0.6, "malformed": 0.25}
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))
    assert not torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-4"))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["dev/nDCG@10"] for row in rows] == values[1:]
    assert (rows[0]["dev/before"], rows[0]["dev/malformed"]) == (0.1, 0.25)
    assert "dev/before" not in rows[1]


def test_patience_ends_training_and_the_last_model_is_left(tiny_model_dir, tmp_path, monkeypatch):
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, [0.1, 0.5, 0.4, 0.3], "stages.grpo.patience=2")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 3]
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-3"))


def test_keeping_the_best_needs_to_know_how_often_is_measured():
    with pytest.raises(ValueError, match="keep=best and patience need eval_steps"):
        GRPOStage(kind="grpo", keep="best")


def test_without_judged_dev_queries_the_stage_says_so(tiny_model_dir, tmp_path, monkeypatch):
    unjudged = {"qid": "u", "query": "x", "candidates": [{"docid": "u1", "text": "x"}], "split": "dev"}
    rows = [
        {
            "qid": f"q{i}",
            "query": f"query {i}",
            "candidates": [{"docid": f"{i}{c}", "text": f"the text {c}{i}"} for c in "abc"],
            "qrels": {f"{i}a": 1},
            "split": "train",
        }
        for i in range(8)
    ]
    path = tmp_path / "unjudged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, unjudged]))
    with pytest.raises(ValueError, match="ranks judged dev queries, and the data have none"):
        stage(tmp_path, tiny_model_dir, monkeypatch, [], f"data.path={path}")


def test_a_resumed_stage_goes_back_to_the_best_step_of_its_checkpoint(tiny_model_dir, tmp_path, monkeypatch):
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, [0.1, 0.5, 0.6, 0.4, 0.7])
    assert json.loads((folder / dev.BEST).read_text())["step"] == 4
    shutil.rmtree(folder / "checkpoints/checkpoint-4")
    shutil.rmtree(folder / "model")
    # An engine that samples otherwise after a kill: no step is better than step 2 this time.
    stage(tmp_path, tiny_model_dir, monkeypatch, [0.4, 0.3], "stages.grpo.keep=best")
    assert json.loads((folder / dev.BEST).read_text()) == {"step": 2, "nDCG@10": 0.6, "malformed": 0.25}
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))


def test_a_stage_that_was_stopped_and_killed_before_its_model_was_saved_trains_no_further(
    tiny_model_dir, tmp_path, monkeypatch
):
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, [0.1, 0.5, 0.4], "stages.grpo.patience=1")
    shutil.rmtree(folder / "model")
    stage(tmp_path, tiny_model_dir, monkeypatch, [], "stages.grpo.patience=1")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))
