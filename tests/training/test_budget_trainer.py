"""Lists, prompts and rows divided by a budget of tokens train as undivided ones, and as fixed numbers of them."""

import pytest
import torch
from datasets import Dataset
from support.choice_objective import choice_objective
from support.scores_objective import EXAMPLES, scores_objective
from transformers import AutoModelForCausalLM, TrainingArguments
from trl import SFTConfig

from rl_rerank.packed import forward
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.lists import ListCollator, lists, reading
from rl_rerank.training.exact.supervised import RankingTrainer
from rl_rerank.training.exact.trainer import PolicyTrainer
from rl_rerank.training.loop.answers import AnswerTrainer
from rl_rerank.training.loop.micro_batches import WITHOUT_GRADIENTS
from rl_rerank.training.losses.build import build_loss
from rl_rerank_rewards.exact_match import ExactMatch
from rl_rerank_rewards.setwise_label import SetwiseLabel

pytestmark = pytest.mark.slow

ROWS = 4  # of a step
STEPS = 2
ANSWERS = [
    {
        "input_ids": list(range(number + 5, number + 5 + length)),
        "labels": [-100] * (length - labels) + list(range(number + 5 + length - labels, number + 5 + length)),
        "weights": [1.0] * (length - labels) + [0.5 + 0.1 * place for place in range(labels)],
    }
    for number, (length, labels) in enumerate(((30, 2), (12, 5), (9, 1), (40, 12), (8, 2), (25, 3), (33, 7), (10, 4)))
]


def by_ranking(paradigm):
    def made(tokenizer, shared):
        renderer = Renderer(tokenizer, max_prompt_tokens=400)
        found = lists(EXAMPLES, paradigm, renderer, count=ROWS * STEPS, size=None, seed=1, with_answers=True)
        collator = ListCollator(found, reading(paradigm, renderer), with_answers=True)
        loss = build_loss("test", "softmax", {})
        return RankingTrainer(data_collator=collator, pad_id=0, loss=loss, answer_weight=0.5, **shared)

    return made


def by_policy(build):
    def made(tokenizer, shared):
        objective = build(tokenizer)
        reference = AutoModelForCausalLM.from_pretrained(shared["args"].model_dir, dtype=torch.float32)
        with torch.no_grad():  # a KL of 0 would have no gradient
            reference.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        return PolicyTrainer(objective=objective, reference=reference, pad_id=0, **shared)

    return made


def by_answers(tokenizer, shared):
    return AnswerTrainer(rows=ANSWERS, pad_id=0, processing_class=tokenizer, **shared)


def scores(tokenizer):
    ranking = build_loss("test", "ranknet", {})
    return scores_objective(tokenizer, beta=0.1, entropy=0.05, loss=ranking, loss_weight=0.4)


def choice(paradigm, reward, **settings):
    return lambda tokenizer: choice_objective(tokenizer, paradigm, reward, beta=0.1, entropy=0.05, **settings)


MADE = {
    "lists-documents": by_ranking(Pointwise()),
    "lists-identifiers": by_ranking(FirstToken(window=4)),
    "scores": by_policy(scores),
    "choice": by_policy(choice(Setwise(children=2), SetwiseLabel())),
    "choice-free": by_policy(choice(PointwiseGraded(), ExactMatch(), restrict_to_answers=False)),
    "answers": by_answers,
}


def train(name, model_dir, tokenizer, output, *, tokens=None, rows=ROWS):
    """Train by a budget, or by a number of rows; return the trainer and the tokens of every forward of training."""
    kind = SFTConfig if name == "answers" else TrainingArguments
    extra = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}} if name == "answers" else {}
    args = kind(
        output_dir=str(output),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=ROWS // rows,
        max_steps=STEPS,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        report_to=[],
        remove_unused_columns=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        **extra,
    )
    args.model_dir = model_dir
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    numbers = Dataset.from_dict({"index": [number % 6 for number in range(ROWS * STEPS)]})
    shared = {"model": model, "args": args, "train_dataset": numbers, "micro_batch_tokens": tokens}
    run = MADE[name](tokenizer, shared)
    seen = []

    def record(module, args, kwargs):
        if module.training and torch.is_grad_enabled():
            seen.append(kwargs["input_ids"].numel())

    model.register_forward_pre_hook(record, with_kwargs=True)
    run.train()
    return run, seen


def compare(one, other):
    """Two runs, by what they logged and where they ended."""
    logs = [[row for row in run.state.log_history if "grad_norm" in row] for run in (one, other)]
    assert len(logs[0]) == STEPS and logs[0][0].keys() == logs[1][0].keys()
    for first, second in zip(*logs, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-6)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
        for name in first:
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-5), name
    weights = dict(other.model.named_parameters())
    start = AutoModelForCausalLM.from_pretrained(one.args.model_dir, dtype=torch.float32)
    moved = max((p - dict(one.model.named_parameters())[n]).abs().max() for n, p in start.named_parameters())
    apart = max((p - weights[n]).abs().max() for n, p in one.model.named_parameters())
    assert moved > 1e-6 and apart < 1e-3 * moved + 1e-7


@pytest.mark.parametrize("name", MADE)
def test_a_step_is_the_same_however_it_is_divided(name, tiny_model_dir, chatml_tokenizer, tmp_path):
    whole, together = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=100_000)
    one, alone = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=1)  # rows above the budget
    some, several = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=2 * max(alone))
    assert STEPS == len(together) < len(several) < len(alone) == ROWS * STEPS
    assert max(several) <= 2 * max(alone)
    for run in (some, one):
        compare(whole, run)
    # The same without a budget: rows one by one, and all at once.
    for rows in (1, ROWS):
        compare(whole, train(name, tiny_model_dir, chatml_tokenizer, tmp_path, rows=rows)[0])


@pytest.mark.parametrize("name", ["lists-documents", "scores", "answers"])
def test_a_model_that_cannot_pack_rows_has_budgets_with_padding(
    name, tiny_model_dir, chatml_tokenizer, tmp_path, monkeypatch
):
    whole, _ = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=100_000)
    monkeypatch.setattr(forward, "refusal", lambda model: "it is a test")
    _, alone = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=1)
    run, several = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=2 * max(alone))
    assert STEPS < len(several) < len(alone) and max(several) <= 2 * max(alone)
    compare(whole, run)


@pytest.mark.parametrize("name", ["scores", "choice"])
def test_the_reference_is_computed_in_fewer_forwards(name, tiny_model_dir, chatml_tokenizer, tmp_path):
    run, _ = train(name, tiny_model_dir, chatml_tokenizer, tmp_path, tokens=100_000)
    rendered = run.collator.step([{"index": number} for number in range(ROWS)])["rendered"]
    # Half of what the rows have: all of them fit one forward, and two at most one micro-batch.
    run.micro_batch_tokens = -(-sum(unit.tokens for unit in rendered.units) // WITHOUT_GRADIENTS)
    forwards = []
    run._reference.register_forward_pre_hook(
        lambda module, args, kwargs: forwards.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = run._reference_labels(run.model, rendered)
    assert len(forwards) == 1 and len(run.budget.filled(rendered.units)) > 1
    for row, labels in enumerate(found):
        alone = run._reference_of(run.model, run.part(rendered, [row])["packed"])
        assert torch.allclose(labels.logits, alone.logits, atol=1e-5)
        assert torch.allclose(labels.log_probs, alone.log_probs, atol=1e-5)
