"""Stages over images from end to end, and collections of images that nobody would see."""

from __future__ import annotations

import json
import math

import pytest
import torch
from datasets import Dataset
from support.pages import example
from transformers import TrainingArguments
from trl.trainer.sft_config import SFTConfig

from rl_rerank.cli.main import main
from rl_rerank.config import Config, DataConfig, ModelConfig, PluginConfig
from rl_rerank.engines.local import checkpoint, eyes, processor
from rl_rerank.experiment.compose import compose
from rl_rerank.io import trec
from rl_rerank.io.files import read_jsonl
from rl_rerank.packed.forward import plainly_scored
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.training.exact.lists import lists, reading
from rl_rerank.training.exact.scores import ScoreSettings, ScoresObjective
from rl_rerank.training.exact.trainer import PolicyTrainer
from rl_rerank.training.loop.answers import AnswerTrainer
from rl_rerank.training.loop.rows import tokenised
from rl_rerank_rewards.ndcg import NDCG

SMALL = {"train": 4, "dev": 2, "test": 4, "candidates": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path / "cache"))


def config(folder, model, shown="images", **data) -> Config:
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source="digits", params={**SMALL, **data}),
        model=ModelConfig(path=str(model), max_prompt_tokens=600),
        paradigms={name: PluginConfig(params={"shown": shown}) for name in ("pointwise", "listwise")},
    )


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["text", "images", "both"])
@pytest.mark.parametrize("paradigm", ["pointwise", "listwise"])
def test_the_same_recipe_ranks_texts_and_images(tmp_path, tiny_vl_dir, paradigm, shown):
    own = config(tmp_path, tiny_vl_dir, shown, text=shown != "images")
    rerank_stage.run(own, "test", RerankStage(kind="rerank", paradigm=paradigm))
    run = trec.read_run(tmp_path / "run/test/run.trec")
    assert {qid: len(scores) for qid, scores in run.items()} == {f"test{i}": 4 for i in range(4)}
    rows = read_jsonl(tmp_path / "run/test/rollouts.jsonl")
    assert len(rows) == (16 if paradigm == "pointwise" else 4)
    if paradigm == "pointwise":
        scores = {row["continuations"]["yes"] - row["continuations"]["no"] for row in rows}
        assert len(scores) >= 15  # every page has a score of its own, so it is seen


def refusal(capsys, *arguments) -> str:
    assert main(["rerank", *arguments, "dry_run=true"]) == 2
    return capsys.readouterr().err


def given(folder, model, *more) -> list[str]:
    data = [f"data.params.{name}={value}" for name, value in SMALL.items()]
    named = [
        "model.max_prompt_tokens=1000",
        f"run_dir={folder / 'run'}",
        f"model.path={model}",
        *[f"+{value}" for value in data],
    ]
    return ["experiment=images", "stage=untrained", *named, *more]


@pytest.mark.slow
def test_images_that_nobody_would_see_are_refused_in_a_sentence(tmp_path, tiny_vl_dir, tiny_model_dir, capsys):
    error = refusal(capsys, *given(tmp_path, tiny_vl_dir), "paradigms.pointwise.params.shown=text")
    assert "stages.untrained, split 'test': query 'test" in error and "is an image without text" in error
    error = refusal(capsys, *given(tmp_path, tiny_model_dir))
    assert "the pointwise prompt shows images, and the model in" in error and "reads text only" in error
    error = refusal(capsys, *given(tmp_path, tiny_vl_dir, "engine=vllm"))
    assert "stages.untrained: the paradigm 'pointwise' has shown=images, and the engine engine.kind=vllm sees" in error
    [page] = (tmp_path / "cache").glob("digits-*/test0-0.png")
    page.write_bytes(page.read_bytes()[:20])
    error = refusal(capsys, *given(tmp_path, tiny_vl_dir))
    assert f"query 'test0': the image {str(page)!r} is" in error


EXAMPLES = 4


class Examples:
    def __init__(self, folder) -> None:
        self.found = {e.qid: e for e in (example(folder, number) for number in range(EXAMPLES))}

    def example(self, qid):
        return self.found[qid]


def arguments(folder, kind=TrainingArguments, **more):
    return kind(
        output_dir=str(folder), per_device_train_batch_size=4, learning_rate=3e-3, lr_scheduler_type="constant",
        report_to=[], save_strategy="no", use_cpu=True, remove_unused_columns=False, logging_steps=1, seed=1, **more,
    )  # fmt: skip


def seeing(folder, renderer):
    model = checkpoint.load_model(folder, "float32")
    eyes.install(model, renderer.vision)
    return model


@pytest.mark.slow
def test_supervised_rows_with_images_teach_the_eyes(tiny_vl_dir, tmp_path):
    renderer = checkpoint.renderer(ModelConfig(path=str(tiny_vl_dir), max_prompt_tokens=600), tiny_vl_dir)
    examples, paradigm = Examples(tmp_path / "pages"), Pointwise(shown="images")
    rows = [
        {"qid": qid, "paradigm": "pointwise", "docids": [docid], "target": "yes" if docid in one.qrels else "no"}
        for qid, one in examples.found.items()
        for docid in one.docids[:2]
    ]
    made = tokenised(rows, examples, {"pointwise": paradigm}, renderer)
    model = seeing(tiny_vl_dir, renderer)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = AnswerTrainer(
        rows=made,
        pad_id=renderer.tokenizer.pad_token_id,
        model=model,
        args=arguments(tmp_path / "out", SFTConfig, max_steps=12, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_dict({"index": [*range(len(rows))] * 6}),
        processing_class=renderer.tokenizer,
    )
    trainer.train()
    assert trainer.scored.refusal is None
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert any("vision_model" in name for name in moved) and any("connector" in name for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", [Pointwise(shown="images"), Pointwise(shown="both")], ids=["images", "both"])
def test_a_policy_on_scores_computes_images_in_one_row_as_in_rows_of_their_own(tiny_vl_dir, tmp_path, paradigm):
    renderer = checkpoint.renderer(ModelConfig(path=str(tiny_vl_dir), max_prompt_tokens=600), tiny_vl_dir)
    examples = [example(tmp_path / "pages", number, text="a page") for number in range(EXAMPLES)]
    asked = lists(examples, paradigm, renderer, count=8, size=None, seed=1)
    settings = ScoreSettings(num_generations=8)
    objective = ScoresObjective(asked, reading(paradigm, renderer), [Term("ndcg", NDCG())], settings)
    model = seeing(tiny_vl_dir, renderer)
    trainer = PolicyTrainer(
        objective=objective,
        model=model,
        pad_id=0,
        args=arguments(tmp_path / "out", max_steps=2, max_grad_norm=0.0),
        train_dataset=Dataset.from_dict({"index": [*range(8)]}),
        processing_class=renderer.tokenizer,
    )
    batch = objective.collate([{"index": 0}, {"index": 1}])
    found = {}
    for way in ("plain", "packed"):
        model.zero_grad()
        if way == "plain":
            labels = plainly_scored(model, batch["packed"].sequences, pad_id=0)
        else:
            labels = trainer.scored(model, batch["packed"])
        objective.outcome(batch, objective.policy(labels, batch), None, 1).loss.backward()
        found[way] = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert trainer.scored.refusal is None
    assert any("vision_model" in name and grad.abs().max() > 0 for name, grad in found["packed"].items())
    for name, grad in found["plain"].items():
        assert torch.allclose(grad, found["packed"][name], atol=1e-6, rtol=1e-4), name
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_answer_of_a_wording_about_images_is_read_in_its_form(tmp_path):
    paradigm = Listwise(wording="mm_r5", reasoning=True, shown="images")
    asked = example(tmp_path, documents=3)
    prompt = paradigm.prompt(asked, asked.docids)
    assert [segment.image for segment in prompt.messages[1].segments if segment.image] == [
        candidate.images[0] for candidate in asked.candidates
    ]
    assert "Image 1: \nImage 2: \nImage 3: " in prompt.messages[1].text
    assert json.loads(paradigm.target(asked, prompt).partition("<answer>")[2].partition("</answer>")[0])[0] == 1


REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


@pytest.mark.slow
def test_sampled_answers_train_an_adapter_on_images_and_its_checkpoints_rank(tmp_path, tiny_vl_dir):
    (tmp_path / "mine.py").write_text(REWARD)
    own = compose(
        "run",
        [
            *("experiment=images", f"model.path={tiny_vl_dir}", f"run_dir={tmp_path / 'run'}", "report_to=[]"),
            *[f"+data.params.{name}={value}" for name, value in SMALL.items()],
            *(f"reward=[{tmp_path / 'mine.py'}:Letters]", "stages.rl.policy={kind: tokens}", "stages.rl.model=model"),
            *("stages.rl.max_steps=2", "stages.rl.save_steps=1", "stages.rl.prompts_per_step=2"),
            *("stages.rl.num_generations=4", "+stages.rl.lora={r: 4, alpha: 8}"),
        ],
    )
    stage = own.stages["rl"]
    assert isinstance(stage, GRPOStage)
    grpo_stage.run(own, "rl", stage)
    folder = tmp_path / "run/rl"
    rows = read_jsonl(folder / "completions.jsonl")
    assert len(rows) == 2 * 2 * 4
    metrics = read_jsonl(folder / "metrics.jsonl")
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in metrics)
    for ref in ("rl", "rl@1"):
        rerank_stage.run(own, ref.replace("@", "_"), RerankStage(kind="rerank", model=ref))
        folder = checkpoint.locate(own, ref)
        assert processor.blindness(folder) is None
    first, last = (trec.read_run(tmp_path / f"run/{name}/run.trec") for name in ("rl_1", "rl"))
    assert first.keys() == last.keys() and first != last
