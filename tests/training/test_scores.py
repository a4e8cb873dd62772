"""policy=scores: drawn orders as rollouts, the gradient, the reference, and resumption."""

import itertools
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from support.policies import policy
from support.scores_objective import EXAMPLES, scores_objective
from transformers import AutoModelForCausalLM, TrainingArguments

from rl_rerank.config import ListTargets
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.training.exact.plackett_luce import log_prob
from rl_rerank.training.exact.targets import require_scores
from rl_rerank.training.exact.trainer import PolicyTrainer
from rl_rerank.training.loop.checkpoints import Checkpoints
from rl_rerank.training.loop.training_log import Records
from rl_rerank.training.losses.build import build_loss
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_rewards.multiview import MultiView
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.recall import Recall
from rl_rerank_rewards.reciprocal_rank import ReciprocalRank

pytestmark = pytest.mark.slow


class FirstShown:
    """A user's reward: the first letter of the document that is put first."""

    def __call__(self, example, rollout):
        best = max(rollout.judgment.scores, key=rollout.judgment.scores.__getitem__)
        return float(best.endswith("d0"))


def batch_of(made, *numbers):
    """Of lists, without a model."""
    return made.collate([{"index": number} for number in numbers])


def random_scores(made, batch, seed=0):
    draw = torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(seed))
    return draw.masked_fill(~batch["mask"], 0.0)


@pytest.mark.parametrize("reward", [NDCG(), MultiView(), FirstShown(), Recall(1), ReciprocalRank()])
def test_a_drawn_order_is_judged_as_the_same_order_written(chatml_tokenizer, reward):
    made = scores_objective(chatml_tokenizer, reward)
    batch = batch_of(made, 0, 1)
    found = made.outcome(batch, random_scores(made, batch), None, step=3)
    for row, one in zip(found.rows, made.lists[:2], strict=True):
        places = [int(text.strip("[]")) - 1 for text in row["completion"].split(" > ")]
        ranked = [one.docids[place] for place in places]
        if isinstance(reward, NDCG):
            grades = dict(zip(one.docids, map(int, one.grades), strict=True))
            assert row["reward"] == pytest.approx(ndcg(ranked, grades, k=10))
        if isinstance(reward, FirstShown):
            assert row["reward"] == float(ranked[0].endswith("d0"))
        if isinstance(reward, MultiView):
            assert found.metrics["rewards/r0/overlap/mean"] > 0
    assert found.metrics["reward"] == pytest.approx(found.metrics["rewards/r0/mean"])


@pytest.mark.parametrize("reward", [NDCG(k=2), NDCG(gain="exponential"), Recall(2), Recall(), ReciprocalRank(2)])
def test_what_places_add_up_to_is_the_reward(chatml_tokenizer, reward):
    made = scores_objective(chatml_tokenizer, reward)
    for number, one in enumerate(made.lists):
        parts = reward.position_based(one.example, one.docids)
        weights = [*parts.weights, *[0.0] * len(one.docids)]
        for order in itertools.permutations(range(len(one.docids))):
            found = made._rewards([number], [[list(order)] * 6])[0][0]["r0"].value
            earns = [weights[place] * parts.gains[document] for place, document in enumerate(order)]
            expected = next((e for e, d in zip(earns, order, strict=True) if parts.gains[d]), 0.0)
            assert found == pytest.approx(expected if parts.first else sum(earns))


def all_orders(n):
    return torch.tensor(list(itertools.permutations(range(n)))).unsqueeze(0)


def exact_loss(made, number, policy, reference):
    """Of one list, a sum over all orders."""
    n = len(made.lists[number].docids)
    orders, mask = all_orders(n), torch.ones(1, n, dtype=torch.bool)
    own, one = made.settings, made.lists[number]
    full = log_prob(policy[:, :n], orders, mask)
    grades = dict(zip(one.docids, map(int, one.grades), strict=True))
    rewards = torch.tensor([[ndcg([one.docids[d] for d in o], grades, k=10) for o in orders[0].tolist()]])
    loss = -(full.exp() * rewards).sum()
    loss = loss + own.beta * (full.exp() * (full - log_prob(reference[:, :n], orders, mask))).sum()
    if own.distill:
        teacher = torch.tensor([[one.example.scores[docid] for docid in one.docids]]) / own.teacher_temperature
        loss = loss + own.distill * (full.exp() * (full - log_prob(teacher, orders, mask))).sum()
    return loss + own.entropy * (full.exp() * full).sum()


TAUGHT = [replace(one, scores={d: 1.5 * k for k, d in enumerate(one.docids)}) for one in EXAMPLES]


@pytest.mark.parametrize(
    ("estimator", "distill"), [("group", 0.0), ("pl_rank", 0.0), ("moves", 0.0), ("group", 0.4), ("moves", 0.4)]
)
def test_the_gradient_converges_to_the_sum_over_all_orders(chatml_tokenizer, estimator, distill):
    errors = {}
    for size in (16, 1024):
        made = scores_objective(
            chatml_tokenizer,
            examples=TAUGHT,
            distill=distill,
            teacher_temperature=2.0,
            estimator=estimator,
            num_generations=size,
            beta=0.3,
            entropy=0.1,
            count=40,
            temperature=1.0,
        )
        squares = []
        for number in [n for n, one in enumerate(made.lists) if len(one.docids) == 3][:12]:
            batch = batch_of(made, number)
            policy = random_scores(made, batch, 1).requires_grad_()
            reference = random_scores(made, batch, 2)
            made.outcome(batch, policy, reference, step=1).loss.backward()
            found = policy.grad.clone()
            policy.grad = None
            exact_loss(made, number, policy, reference).backward()
            squares.append((found - policy.grad).pow(2).sum().item())
        errors[size] = math.sqrt(sum(squares) / len(squares))
    # 64 times the orders leave an eighth of the error.
    assert 4 < errors[16] / errors[1024] < 16
    assert errors[1024] < 0.03


def test_the_kl_to_the_teacher_is_that_of_its_scores_by_hand(chatml_tokenizer):
    pair = RankingExample("q", "q", (Candidate("a", "a"), Candidate("b", "b")), {"a": 1}, scores={"a": 3.0, "b": 1.0})
    made = scores_objective(chatml_tokenizer, examples=[pair], distill=0.3, teacher_temperature=2.0)
    batch = batch_of(made, 0)
    docids = made.lists[0].docids
    policy = torch.tensor([[math.log(3.0) if docid == "b" else 0.0 for docid in docids]], requires_grad=True)
    found = made.outcome(batch, policy, None, step=1)
    # Of two documents the first place decides: b has 3/4 and the teacher's 1 / (1 + e), as (3 - 1) / 2 = 1.
    share = 1 / (1 + math.e)
    kl = 0.75 * math.log(0.75 / share) + 0.25 * math.log(0.25 / (1 - share))
    assert found.metrics["teacher_kl"] == pytest.approx(kl, rel=1e-5)


def test_a_teacher_of_weight_0_changes_no_bit(chatml_tokenizer):
    gradients = []
    for settings in (
        {"examples": EXAMPLES},
        {"examples": TAUGHT, "distill": 0.0},
        {"examples": TAUGHT, "distill": 0.5},
    ):
        made = scores_objective(chatml_tokenizer, entropy=0.1, **settings)
        batch = batch_of(made, 0, 1)
        policy = random_scores(made, batch).requires_grad_()
        made.outcome(batch, policy, None, step=1).loss.backward()
        gradients.append(policy.grad)
    assert torch.equal(gradients[0], gradients[1]) and not torch.equal(gradients[0], gradients[2])


def test_orders_move_towards_the_teachers(tiny_model_dir, chatml_tokenizer, tmp_path):
    made = scores_objective(chatml_tokenizer, lambda e, r: 0.0, examples=TAUGHT, count=80, distill=1.0)
    run = trainer(made, tiny_model_dir, tmp_path, steps=40, save_strategy="no")
    run.train()
    kl = [row["teacher_kl"] for row in run.state.log_history if "teacher_kl" in row]
    assert kl[0] > 0.3 and sum(kl[-5:]) / 5 < 0.7 * kl[0]


def test_a_document_without_a_teachers_score_is_named():
    require_scores(TAUGHT, ListTargets(), "here")
    partly = replace(TAUGHT[1], scores={"q1d0": 1.0, "q1d2": 0.5, "q1d3": 0.25})
    with pytest.raises(ValueError, match="here: qid 'q1', docid 'q1d1' has no teacher's score"):
        require_scores([TAUGHT[0], partly], ListTargets(), "here")
    # Nobody judged q1d3 and q1d0: lists of judged documents need no scores of them.
    some = replace(TAUGHT[1], scores={"q1d1": 1.0, "q1d2": 0.5})
    require_scores([some], ListTargets(judged_only=True), "here")


def test_the_joint_loss_is_the_sum_of_both(chatml_tokenizer):
    alone = scores_objective(chatml_tokenizer)
    both = scores_objective(chatml_tokenizer, loss=build_loss("test", "ranknet", {}), loss_weight=0.4)
    batch = batch_of(alone, 0, 1)
    policy = random_scores(alone, batch)
    ranking = build_loss("test", "ranknet", {})(policy, batch["grades"], batch["mask"]).mean().item()
    found = both.outcome(batch, policy, None, step=1)
    assert found.metrics["ranking_loss"] == pytest.approx(ranking)
    assert found.loss.item() == pytest.approx(alone.outcome(batch, policy, None, step=1).loss.item() + 0.4 * ranking)


def test_permuted_rewards_teach_nothing_on_average_and_the_true_ones_are_logged(chatml_tokenizer):
    made = scores_objective(chatml_tokenizer, num_generations=512, permute_rewards=True)
    true = scores_objective(chatml_tokenizer, num_generations=512)
    batch = batch_of(made, 0)
    gradients = []
    for one in (made, true):
        policy = random_scores(one, batch).requires_grad_()
        found = one.outcome(batch, policy, None, step=1)
        found.loss.backward()
        gradients.append((policy.grad.norm().item(), found.metrics["reward"]))
    assert gradients[0][1] == gradients[1][1]
    assert gradients[0][0] < 0.3 * gradients[1][0]


def trainer(made, model_dir, output, *, lora=False, steps=3, **arguments):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32) if made.beta else None
    if lora:
        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        reference = None
    args = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=2,
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        **arguments,
    )
    dataset = Dataset.from_dict({"index": list(range(len(made.lists)))})
    run = PolicyTrainer(objective=made, model=model, reference=reference, pad_id=0, args=args, train_dataset=dataset)
    run.add_callback(Records(output, completions=lambda: run.unlogged))
    run.add_callback(Checkpoints(run.accelerator))
    return run


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_is_the_model_that_training_began_with(tiny_model_dir, chatml_tokenizer, tmp_path, lora):
    made = scores_objective(chatml_tokenizer, paradigm=FirstToken(window=4), beta=0.1)
    run = trainer(made, tiny_model_dir, tmp_path, lora=lora)
    run.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["kl"] > 1e-4
    assert {"reward", "reward_std", "reward/r0", "entropy", "loss", "grad_norm", "answer_share"} <= rows[0].keys()
    batch = made.collate([{"index": 5}])
    with torch.no_grad(), run._frozen(run.model) as frozen:
        kept = policy(made, frozen, batch)
        start = policy(made, AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32), batch)
        moved = policy(made, run.model, batch)
    assert torch.allclose(kept, start, atol=1e-5)
    if not lora:
        assert not torch.allclose(moved, start, atol=1e-3)
    completions = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in completions] == [1, 1, 2, 2, 3, 3]


def test_a_run_that_was_cut_goes_on_exactly(tiny_model_dir, chatml_tokenizer, tmp_path):
    made = scores_objective(chatml_tokenizer, beta=0.05)
    whole = trainer(made, tiny_model_dir, tmp_path / "whole", steps=4)
    whole.train()
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole/checkpoints/checkpoint-2", cut / "checkpoints/checkpoint-2")
    again = trainer(made, tiny_model_dir, cut, steps=4)
    again.train(resume_from_checkpoint=str(cut / "checkpoints/checkpoint-2"))
    ends = [load_file(p / "checkpoints/checkpoint-4/model.safetensors") for p in (tmp_path / "whole", cut)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    start = load_file(tiny_model_dir / "model.safetensors")
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)


@pytest.mark.parametrize("estimator", ["group", "moves"])
def test_the_reward_rises(tiny_model_dir, chatml_tokenizer, tmp_path, estimator):
    made = scores_objective(chatml_tokenizer, count=120, num_generations=16, estimator=estimator)
    run = trainer(made, tiny_model_dir, tmp_path, steps=60, save_strategy="no")
    run.train()
    rewards = [row["reward"] for row in run.state.log_history if "reward" in row]
    assert sum(rewards[-20:]) / 20 > sum(rewards[:10]) / 10 + 0.05
