"""policy=choice: the decisions between answers, and the exact gradient."""

import pytest
import torch
from support.choice_objective import choice_objective
from support.policies import policy
from transformers import AutoModelForCausalLM

from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.answer_tree import decisions
from rl_rerank_rewards.exact_match import ExactMatch
from rl_rerank_rewards.pooled_reciprocal_rank import PooledReciprocalRank
from rl_rerank_rewards.setwise_label import SetwiseLabel

pytestmark = pytest.mark.slow


class Close:
    """How near a score is to the grade."""

    def __call__(self, example, rollout):
        [docid] = rollout.prompt.docids
        if not rollout.judgment.is_ok:
            return -1.0
        return -abs(rollout.judgment.scores[docid] / 5 - example.qrels.get(docid, 0)) / 2


PARADIGMS = [
    (Pointwise(), ExactMatch()),
    (PointwiseGraded(), Close()),
    (Setwise(children=3, labels="numbers"), SetwiseLabel()),
    (Setwise(children=2), SetwiseLabel()),
    (Pairwise(), SetwiseLabel()),
]


def test_decisions_part_where_answers_do(any_tokenizer):
    renderer = Renderer(any_tokenizer, max_prompt_tokens=300)
    ids, end = renderer.continuation_ids, renderer.end_id
    found = decisions(("yes", "no"), renderer)
    assert (found.beginnings, found.paths) == (((),), (((0, 0),), ((0, 1),)))
    assert found.options == ((ids("yes")[0], ids("no")[0]),)
    # Every answer is what its decisions and the tokens between them, of which there is no choice, spell.
    answers = tuple(map(str, range(11)))
    found = decisions(answers, renderer)
    endings = [(*ids(text), end) for text in answers]
    for ending, path in zip(endings, found.paths, strict=True):
        for decision, option in path:
            beginning = (*found.beginnings[decision], found.options[decision][option])
            assert ending[: len(beginning)] == beginning
        left = [
            e
            for e in endings
            if all(e[: len(found.beginnings[d]) + 1] == (*found.beginnings[d], found.options[d][o]) for d, o in path)
        ]
        assert left == [ending]
    with pytest.raises(ValueError, match="the answer 'yes' has the same tokens as another one"):
        decisions(("yes", "yes"), renderer)


def log_prob(model, objective, number, text):
    """Of an answer, token by token over what may come next."""
    renderer, prompt = objective.collate.renderer, objective.questions[number]
    endings = [(*renderer.continuation_ids(t), renderer.end_id) for t in objective.paradigm.choices(prompt.prompt)]
    mine = (*renderer.continuation_ids(text), renderer.end_id)
    total = torch.zeros(())
    for length in range(len(mine)):
        logits = model(torch.tensor([[*prompt.token_ids, *mine[:length]]])).logits[0, -1]
        allowed = list(range(len(logits)))
        if objective.settings.restrict_to_answers:
            allowed = sorted({e[length] for e in endings if len(e) > length and e[:length] == mine[:length]})
        total = total + logits[allowed].log_softmax(0)[allowed.index(mine[length])]
    return total


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("paradigm", "reward"), PARADIGMS)
def test_the_gradient_is_that_of_the_sum_over_all_answers(tiny_model_dir, chatml_tokenizer, paradigm, reward, held):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float64)
    made = choice_objective(chatml_tokenizer, paradigm, reward, restrict_to_answers=held)
    batch = made.collate([{"index": 0}, {"index": 3}])
    # In float64 throughout, against which the trainer's float32 would be the larger error.
    policy = _in_double(made, model, batch)
    made.outcome(batch, policy, None, step=1).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    expected = torch.zeros(())
    for row, number in enumerate((0, 3)):
        texts = made.paradigm.choices(made.questions[number].prompt)
        logs = torch.stack([log_prob(model, made, number, text) for text in texts])
        if not held:  # and anything else
            assert 0.9 < 1 - logs.exp().sum().item() < 1
            logs = torch.cat([(1 - logs.exp().sum()).log().reshape(1), logs])
        assert torch.allclose(policy[row, : len(logs)], logs, atol=1e-9)
        assert logs.exp().sum().item() == pytest.approx(1)
        rewards = torch.tensor([0.7 * r["r"] for r in made._rewards(number)], dtype=torch.float64)
        expected = expected - (logs.exp() * rewards).sum() / 2
    expected.backward()
    # A random model hardly ever gives an answer by itself, so that its gradients are small.
    largest = max(gradient.abs().max().item() for gradient in found.values())
    assert largest > (1e-4 if held else 1e-12)
    for name, p in model.named_parameters():
        assert (found[name] - p.grad).abs().max().item() < 1e-6 * (1 if held else largest), name


def _in_double(made, model, batch):
    from unittest import mock

    # Training reads float32; here every digit counts.
    with mock.patch.object(torch.Tensor, "float", lambda self: self):
        return policy(made, model, batch)


def test_the_loss_has_the_divergence_and_the_entropy_of_the_policy(chatml_tokenizer):
    made = choice_objective(chatml_tokenizer, Pointwise(), ExactMatch(), beta=0.5, entropy=0.25)
    batch = made.collate([{"index": 0}, {"index": 1}])
    p, q = torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    policy = p.log().requires_grad_()
    found = made.outcome(batch, policy, q.log(), step=1)
    # KL .25 log .5 + .75 log 1.5 = .13081 and 0; H .56234 and .69315. The rewards are centred, so they add 0.
    assert found.metrics["kl"] == pytest.approx(0.13081 / 2, abs=1e-5)
    assert found.metrics["entropy"] == pytest.approx((0.56234 + 0.69315) / 2, abs=1e-5)
    expected = 0.5 * found.metrics["kl"] - 0.25 * found.metrics["entropy"]
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)
    assert {row["completion"] for row in found.rows} <= {"yes", "no"}


def test_a_free_model_is_paid_for_the_form_too(chatml_tokenizer):
    made = choice_objective(chatml_tokenizer, Pointwise(), ExactMatch(), restrict_to_answers=False, entropy=0.1)
    number = next(n for n in range(6) if made._rewards(n)[1]["r"] == 1)
    assert [row["r"] for row in made._rewards(number)] == [0.0, 1.0, 0.0]
    policy = torch.tensor([[0.75, 0.2, 0.05]]).log().requires_grad_()
    found = made.outcome(made.collate([{"index": number}]), policy, None, step=1)
    assert found.metrics["reward"] == pytest.approx(0.7 * 0.2)
    assert found.metrics["entropy"] == pytest.approx(0.68744, abs=1e-5)  # .75 log .75 + .2 log .2 + .05 log .05
    assert found.loss.item() == pytest.approx(-0.068744, abs=1e-6)
    assert [row["completion"] for row in found.rows] == [""]


def test_scaled_rewards_are_those_of_an_endless_group(chatml_tokenizer):
    # p .25 for the right answer of weight .7: A = R - .175 over sqrt(.25 x .75) x .7 = .30311
    logits = torch.tensor([[0.0, torch.tensor(3.0).log().item()]], requires_grad=True)
    made = choice_objective(chatml_tokenizer, Pointwise(), ExactMatch(), scale=True)
    [number] = [n for n in range(6) if made._rewards(n)[0]["r"] == 1][:1]
    found = made.outcome(made.collate([{"index": number}]), logits.log_softmax(1), None, step=1)
    found.loss.backward()
    # dE/dlogit = p (A - mean A) = .25 x .525 / .30311 = .43302
    assert logits.grad[0].tolist() == pytest.approx([-0.43302, 0.43302], abs=1e-3)
    assert found.metrics["reward"] == pytest.approx(0.175)
    assert found.metrics["rewards/r/mean"] == pytest.approx(0.25)


def test_prompts_of_fewer_answers_are_not_changed_by_those_of_more(tiny_model_dir, chatml_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    made = choice_objective(chatml_tokenizer, Setwise(children=3), SetwiseLabel())
    counts = [len(question.prompt.docids) for question in made.questions]
    few, many = counts.index(min(counts)), counts.index(max(counts))
    assert counts[few] < counts[many]
    alone = policy(made, model, made.collate([{"index": few}]))
    both = policy(made, model, made.collate([{"index": few}, {"index": many}]))
    assert torch.allclose(both[0, : counts[few]], alone[0], atol=1e-5)
    assert made.collate([{"index": few}, {"index": many}])["mask"].sum(1).tolist() == [counts[few], counts[many]]


def test_what_a_choice_cannot_be_made_of_is_refused(chatml_tokenizer):
    with pytest.raises(ValueError, match="prompts of the paradigm 'setwise' do not have few answers"):
        choice_objective(chatml_tokenizer, Setwise(reasoning=True), SetwiseLabel())
    with pytest.raises(ValueError, match="the reward 'r' compares completions, and none are sampled"):
        choice_objective(chatml_tokenizer, PointwiseGraded(), PooledReciprocalRank())
