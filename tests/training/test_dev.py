"""Held-out queries while GRPO trains: what is measured, which step is kept, when it stops."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import three_candidates
from support.grpo_trainer import examples, trainer

from rl_rerank.config import Config, FusionConfig, ModelConfig
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.driver import rerank, shuffled
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage, reported_protocol
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
    protocol = RerankStage(kind="rerank", seed=5)
    asked = dev.DevSet(examples(), qrels, Listwise(window=4), renderer, 4096, protocol)
    run.train()
    found = dev.measure(run, asked)
    whole = run.model.merge_and_unload() if lora else run.model
    shown = [shuffled(example, 5) for example in examples()]
    rankings, _ = rerank(shown, Listwise(window=4), HFEngine(whole.eval(), renderer))
    assert found.ndcg == pytest.approx(sum(ndcg(r.docids, qrels[r.qid], k=10) for r in rankings) / len(rankings))
    assert found.malformed == 1.0  # a random model


def measured(expected: float, **others: float) -> dev.DevValues:
    return dev.DevValues(
        **{"ndcg": expected + 0.01, "expected": expected, "malformed": 0.25, "fallbacks": 0.125, "ties": 0.5} | others
    )


def stage(tmp_path, tiny_model_dir, monkeypatch, values, *overrides) -> Path:
    """Run a GRPO stage whose evaluations give these expected nDCGs; the stage's folder."""
    three_candidates.write(tmp_path)
    (tmp_path / "mine.py").write_text(REWARD)
    given = iter([value if isinstance(value, dev.DevValues) else measured(value) for value in values])
    if values:
        monkeypatch.setattr(grpo_stage, "measure", lambda trainer, asked: next(given))
    config = compose(
        "run",
        [
            *("experiment=quickstart_tokens", "budget=tokens_smoke"),
            *("data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"),
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
    best = {"step": 2, "nDCG@10": 0.61, "expected_nDCG@10": 0.6, "malformed": 0.25, "ties": 0.5, "engine": "hf"}
    assert json.loads((folder / dev.BEST).read_text()) == best
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))
    assert not torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-4"))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["dev/expected_nDCG@10"] for row in rows] == values[1:]
    assert (rows[0]["dev/before"], rows[0]["dev/expected_before"], rows[0]["dev/nDCG@10"]) == (0.11, 0.1, 0.51)
    assert [rows[1][f"dev/{name}"] for name in ("malformed", "fallbacks", "ties")] == [0.25, 0.125, 0.5]
    # Three candidates with the relevant one first, second and third.
    assert rows[1]["dev/first_stage"] == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 3)
    assert rows[1]["dev/random"] == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 3)
    assert "dev/before" not in rows[1]


def test_the_start_is_kept_where_no_step_is_better(tiny_model_dir, tmp_path, monkeypatch, caplog):
    values = [0.5, 0.4, 0.5, 0.3, 0.4]
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, values, "stages.grpo.keep=best")
    assert json.loads((folder / dev.BEST).read_text())["step"] == 0
    assert torch.equal(weights(folder / "model"), weights(tiny_model_dir))
    assert "no step was better on the dev queries than the start" in caplog.text


def test_a_model_that_only_forgets_the_order_shown_does_not_replace_the_start(tiny_model_dir, tmp_path, monkeypatch):
    """All answers of a random model are unusable, before and after: no step has another value than a random order."""
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, [], "paradigm=listwise", "stages.grpo.keep=best")
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "dev/random" in row]
    assert [row["dev/fallbacks"] for row in rows] == [1, 1, 1, 1]
    assert [row["dev/expected_nDCG@10"] for row in rows] == pytest.approx([row["dev/random"] for row in rows])
    assert torch.equal(weights(folder / "model"), weights(tiny_model_dir))


@pytest.mark.parametrize("broken", [{"malformed": 0.51}, {"ties": 0.96}])
def test_a_step_beyond_a_bound_is_never_the_best(tiny_model_dir, tmp_path, monkeypatch, caplog, broken):
    values = [0.1, 0.5, measured(0.9, **broken), 0.4, 0.4]
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, values, "stages.grpo.keep=best")
    assert json.loads((folder / dev.BEST).read_text())["step"] == 1
    [(name, value)] = broken.items()
    bound = {"malformed": 0.5, "ties": 0.95}[name]
    assert f"step 2 would be the best on dev queries, but dev/{name} is {value:.3f}, above max_{name}={bound}" in (
        caplog.text
    )


def test_bounds_are_shares():
    with pytest.raises(ValueError, match="max_ties must be from 0 to 1; got 2"):
        GRPOStage(kind="grpo", max_ties=2)


def test_dev_queries_are_ranked_as_the_test_queries_of_the_same_model():
    stages = {
        "start": RerankStage(kind="rerank", seed=7),
        "fused": RerankStage(kind="rerank", model="grpo", seed=8, fusion=FusionConfig()),
        "other": RerankStage(kind="rerank", model="sft", seed=9),
        "pairs": RerankStage(kind="rerank", model="grpo", paradigm="pairwise", seed=10),
    }
    config = Config(model=ModelConfig(path="m"), stages=stages)
    assert reported_protocol(config, "grpo") == replace(stages["fused"], fusion=None)
    assert reported_protocol(config, "sft") is not stages["other"] and reported_protocol(config, "sft").seed == 9
    assert reported_protocol(config, "nothing") == RerankStage(kind="rerank")


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
    best = {"step": 2, "nDCG@10": 0.61, "expected_nDCG@10": 0.6, "malformed": 0.25, "ties": 0.5, "engine": "hf"}
    assert json.loads((folder / dev.BEST).read_text()) == best
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))


def test_a_stage_that_was_stopped_and_killed_before_its_model_was_saved_trains_no_further(
    tiny_model_dir, tmp_path, monkeypatch
):
    folder = stage(tmp_path, tiny_model_dir, monkeypatch, [0.1, 0.5, 0.4], "stages.grpo.patience=1")
    shutil.rmtree(folder / "model")
    stage(tmp_path, tiny_model_dir, monkeypatch, [], "stages.grpo.patience=1")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]
    assert torch.equal(weights(folder / "model"), weights(folder / "checkpoints/checkpoint-2"))
