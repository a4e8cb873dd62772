"""A teacher of sampled completions: golden values, the gradient, both forwards, learning, and what is refused."""

import copy
import json
import math
import random

import pytest
import torch
from safetensors.torch import load_file
from support.completion_groups import tiny
from support.grpo_trainer import trainer
from support.small_tokenizers import chatml, llama3
from transformers import AutoModelForCausalLM

from rl_rerank.config import build
from rl_rerank.engines.local.tokenizer import require_same_vocabulary
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.training.grpo import distillation
from rl_rerank.training.grpo.distillation import KEY, advantages, joined
from rl_rerank.training.loop import health
from rl_rerank.training.loop.health import HealthConfig
from rl_rerank.training.loop.watch import UnhealthyError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher_dir(tiny_model_dir, tmp_path_factory):
    """The tiny model with other and larger weights."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.manual_seed(7)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.06)
    model.save_pretrained(folder)
    chatml().save_pretrained(folder)
    return folder


def test_a_token_earns_the_difference_of_its_log_probabilities():
    rewards = torch.tensor([1.0, -1.0])
    teacher = torch.tensor([[-0.5, -2.0], [-1.0, 0.0]])
    policy = torch.tensor([[-1.5, -1.0], [-1.0, 0.0]])
    # 1 + .5 (-.5 + 1.5) = 1.5; 1 + .5 (-2 + 1) = .5; where both agree, what the reward says.
    expected = torch.tensor([[1.5, 0.5], [-1.0, -1.0]])
    assert torch.equal(advantages(rewards, teacher, policy, 0.5), expected)


def test_the_gradient_in_expectation_is_that_of_the_reverse_kl():
    student, other = tiny("llama"), tiny("qwen3")
    prompt = torch.randint(1, 97, (1, 9), generator=torch.Generator().manual_seed(0))

    def log_probs(model):
        return model(prompt).logits[0, -1].log_softmax(-1)

    with torch.no_grad():
        q = log_probs(other)
    p = log_probs(student)
    (p.exp() * (p - q)).sum().backward()
    exact = [weight.grad.clone() for weight in student.parameters()]
    student.zero_grad()
    # All 97 tokens as completions of one token, each weighted by its probability: the expectation over samples.
    p = log_probs(student)
    earned = advantages(torch.zeros(97), q[:, None], p.detach()[:, None], 1.0)[:, 0]
    (-(p.detach().exp() * earned * p).sum()).backward()
    for weight, expected in zip(student.parameters(), exact, strict=True):
        assert torch.allclose(weight.grad, expected, atol=1e-7)
    assert max(grad.abs().max() for grad in exact) > 1e-3


def prepared(run):
    """The inputs of the first step, with the teacher's log-probabilities."""
    run.model.train()
    return run._prepare_inputs([{"prompt": str(question)} for question in (0, 0, 0, 0, 1, 1, 1, 1)])


@pytest.mark.parametrize("shared", [True, False], ids=["packed", "plain"])
def test_the_teachers_log_probabilities_are_those_of_single_rows(
    tiny_model_dir, teacher_dir, chatml_tokenizer, tmp_path, shared
):
    run = trainer(
        tiny_model_dir, chatml_tokenizer, tmp_path, shared_prefix=shared, teacher=teacher_dir, temperature=0.7
    )
    inputs = prepared(run)
    assert (run.teacher.log_probs.refusal is None) == shared
    model = AutoModelForCausalLM.from_pretrained(teacher_dir)
    ids, mask, length = joined(inputs)
    for row in range(len(ids)):
        tokens = ids[row][mask[row].bool()][None]
        first = int(mask[row, :-length].sum())
        with torch.no_grad():
            each = (model(tokens).logits[0] / 0.7).log_softmax(-1)
        expected = [each[place - 1, tokens[0, place]].item() for place in range(first, tokens.size(1))]
        assert inputs[KEY][row, : len(expected)].tolist() == pytest.approx(expected, abs=2e-5)
        assert not inputs[KEY][row, len(expected) :].any()


def test_the_loss_has_the_gradient_of_its_formula(tiny_model_dir, teacher_dir, chatml_tokenizer, tmp_path):
    run = trainer(
        *(tiny_model_dir, chatml_tokenizer, tmp_path),
        teacher=teacher_dir,
        teacher_weight=0.3,
        num_iterations=2,  # ratios are computed, and 1
        max_steps=4,
    )
    inputs = prepared(run)
    run.current_gradient_accumulation_steps = 1
    run._compute_loss(run.model, inputs).backward()
    found = {name: weight.grad.clone() for name, weight in run.model.named_parameters()}
    run.model.zero_grad()
    ids, mask, length = joined(inputs)
    logits = run.model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    logits = logits[:, -length - 1 : -1]
    own = logits.log_softmax(-1).gather(2, inputs["completion_ids"].unsqueeze(2)).squeeze(2)
    earned = inputs["advantages"][:, None] + 0.3 * (inputs[KEY] - own.detach())
    # dr_grpo: a sum over tokens divided by completions times 6, the most tokens of one.
    (-(earned * own * inputs["completion_mask"]).sum() / (len(ids) * 6)).backward()
    for name, weight in run.model.named_parameters():
        assert torch.allclose(found[name], weight.grad, atol=1e-6, rtol=1e-3), name
    assert max(grad.abs().max() for grad in found.values()) > 1e-3


def estimated(log):
    return [row["teacher_kl"] for row in log if "teacher_kl" in row]


def shuffled(of_rewards, teacher, policy, weight):
    """The teacher's part of each token given to another one of the batch."""
    part = weight * (teacher - policy)
    order = torch.randperm(part.numel(), generator=torch.Generator().manual_seed(part.numel()))
    return of_rewards.unsqueeze(1) + part.flatten()[order].view_as(part)


def divergence(run, teacher) -> float:
    """The exact KL of the policy to the teacher, in nats, at the first token of answers to eight prompts."""
    found = []
    for question in run.task.questions[:8]:
        ids = torch.tensor([question.token_ids])
        with torch.no_grad():
            p, q = (model(ids).logits[0, -1].log_softmax(-1) for model in (run.model, teacher))
        found.append((p.exp() * (p - q)).sum().item())
    return sum(found) / len(found)


@pytest.mark.parametrize("permuted", [False, True])
def test_a_student_moves_towards_its_teacher_and_not_with_its_judgments_permuted(
    tiny_model_dir, teacher_dir, chatml_tokenizer, tmp_path, monkeypatch, permuted
):
    if permuted:
        monkeypatch.setattr(distillation, "advantages", shuffled)
    run = trainer(
        *(tiny_model_dir, chatml_tokenizer, tmp_path),
        teacher=teacher_dir,
        terms=[Term("nothing", lambda example, rollout: 0.0)],
        num_questions=160,
        max_steps=40,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
    )
    teacher = AutoModelForCausalLM.from_pretrained(teacher_dir)
    before = divergence(run, teacher)
    run.train()
    after = divergence(run, teacher)
    assert before > 0.05
    assert after > 0.9 * before if permuted else after < 0.7 * before


def test_a_teacher_that_is_the_policy_teaches_nothing(tiny_model_dir, chatml_tokenizer, tmp_path):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, teacher=tiny_model_dir, max_steps=1)
    run.train()
    assert estimated(run.state.log_history) == [pytest.approx(0.0, abs=1e-6)]
    assert "skipped_groups" not in run.state.log_history[0]


def test_groups_without_reward_variance_learn_from_the_teacher(tiny_model_dir, teacher_dir, chatml_tokenizer, tmp_path):
    run = trainer(
        *(tiny_model_dir, chatml_tokenizer, tmp_path),
        teacher=teacher_dir,
        terms=[Term("nothing", lambda example, rollout: 0.0)],
        micro_batch_tokens=400,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        max_steps=1,
    )
    run.train()
    assert run.state.log_history[0]["grad_norm"] > 1e-3
    assert [row["advantage"] for row in run.completions] == [0.0] * 8


def test_a_run_with_a_teacher_is_not_dead_where_rewards_do_not_differ():
    def rows(**more):
        same = {"rewards/r/constant_groups": 1.0, "rewards/r/min": 0.0, "rewards/r/max": 0.0}
        return [{"step": step, "loss": 0.1, **same, **more} for step in range(1, 6)]

    def dead(rows):
        return [found.rule for found in health.examine(health.Run(rows, 3, HealthConfig()), health.RULES)]

    assert "dead" in dead(rows()) and "dead" not in dead(rows(teacher_kl=0.2))


def test_a_teacher_that_is_broken_stops_the_run(tiny_model_dir, teacher_dir, chatml_tokenizer, tmp_path):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, teacher=teacher_dir)
    run.teacher.log_probs._is_verified = True
    with torch.no_grad():
        run.teacher.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(UnhealthyError, match="step 1: the teacher gives completions probabilities that are not finite"):
        run.train()


def composed(tmp_path, model_dir, *overrides):
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(6):
            shown = [{"docid": f"{i}{c}", "text": f"the text {c} {i}", "score": 9 - k} for k, c in enumerate("abc")]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": shown, "qrels": {f"{i}a": 1}, "split": "train"}
            file.write(json.dumps(row) + "\n")
    return compose(
        "run",
        [
            *("experiment=quickstart_tokens", "budget=tokens_smoke"),
            *("data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"),
            *(f"model.path={model_dir}", "model.max_prompt_tokens=400", "stages.grpo.model=model", "report_to=[]"),
            *("reward=[exact_match]", "stages.grpo.max_steps=2", "stages.grpo.learning_rate=1e-3", *overrides),
        ],
    )


def test_a_weight_of_0_is_no_distillation(tiny_model_dir, teacher_dir, tmp_path):
    weights = []
    for name, distill in (("without", "null"), ("zero", "{model: %s, weight: 0}"), ("one", "{model: %s}")):
        given = distill % teacher_dir if "%" in distill else distill
        overrides = (f"run_dir={tmp_path / name}", f"++stages.grpo.policy.distill={given}")
        config = composed(tmp_path, tiny_model_dir, *overrides)
        stage = config.stages["grpo"]
        assert isinstance(stage, GRPOStage)
        grpo_stage.run(config, "grpo", stage)
        weights.append(load_file(tmp_path / name / "grpo/model/model.safetensors"))
    without, zero, one = weights
    assert all(torch.equal(without[name], zero[name]) for name in without)
    assert any(not torch.equal(without[name], one[name]) for name in without)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nine", r"grpo\.policy\.distill\.model names 'nine', which is no stage; it can be: model, a folder"),
        ("synth", r"grpo\.policy\.distill\.model names 'synth', of kind synth; it must be a stage that leaves a model"),
        ("./nowhere", r"stages\.grpo\.policy\.distill\.model=\./nowhere: there is no such folder"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused_by_the_plan(tiny_model_dir, tmp_path, model, message):
    given = (f"run_dir={tmp_path / 'run'}", f"++stages.grpo.policy.distill={{model: {model}}}")
    with pytest.raises((LookupError, ValueError, FileNotFoundError), match=message):
        Experiment.of(composed(tmp_path, tiny_model_dir, *given))


def test_a_vocabulary_whose_ids_mean_something_else_is_refused():
    require_same_vocabulary("x", chatml(), chatml())
    with pytest.raises(
        ValueError, match=r"^x has another vocabulary .* tokens differ, and '!' has the id 5 there and the id 3 in"
    ):
        require_same_vocabulary("x", llama3(), chatml())
    moved = copy.deepcopy(chatml())
    moved.add_tokens([f"<new {random.random()}>"])
    with pytest.raises(ValueError, match=r"1 tokens differ, and '<new .*' has the id .* there and no id in the"):
        require_same_vocabulary("x", moved, chatml())


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"model": "m", "weight": -1}, "policy.distill.weight must be at least 0; got -1"),
        ({"weight": 1}, "distill.model is required"),
        ({"model": "m", "temperature": 2}, "there is no setting 'distill.temperature'"),
    ],
)
def test_settings_of_a_teacher_that_make_no_sense_are_refused(distill, message):
    with pytest.raises(ValueError, match=message):
        build(TokensPolicy, {"distill": distill})


def test_a_control_of_rewards_has_no_teacher():
    policy = build(TokensPolicy, {"distill": {"model": "m"}})
    with pytest.raises(ValueError, match="permute_rewards permutes rewards alone, and the teacher"):
        GRPOStage(kind="grpo", policy=policy, permute_rewards=True)
    GRPOStage(kind="grpo", policy=build(TokensPolicy, {"distill": {"model": "m", "weight": 0}}), permute_rewards=True)
