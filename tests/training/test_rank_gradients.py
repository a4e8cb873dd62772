"""Gradients of what orders earn, against sums over all orders of up to five documents."""

import math

import pytest
import torch
from support.orders import all_orders, draw, everyone, scores_of

from rl_rerank.metrics import ndcg
from rl_rerank.reward.position_based import PositionBased
from rl_rerank.training.exact.plackett_luce import log_prob, place
from rl_rerank.training.exact.rank_gradients import Gains, earned, group_advantages, moves, pl_rank

GRADES = {2: [0, 1], 3: [0, 2, 1], 4: [1, 0, 0, 2], 5: [0, 1, 0, 2, 1]}


def worth(orders, grades, k=10):
    """[1, G], nDCG@k of each order."""
    names = [str(d) for d in range(len(grades))]
    qrels = dict(zip(names, grades, strict=True))
    return torch.tensor([[ndcg([names[d] for d in o], qrels, k=k) for o in orders[0].tolist()]], dtype=torch.float64)


def reciprocal(orders, grades, k=10):
    """[1, G], 1 / the place of the first relevant document of each order, 0 behind place k."""
    first = torch.tensor(grades)[orders].gt(0).int().argmax(2) + 1.0
    return (1 / first).double() * (first <= k)


def gains(grades, k=10, first=False):
    """nDCG@k or the reciprocal rank as sums over places."""
    places = range(1, len(grades) + 1)
    if first:
        weights = [1 / r if r <= k else 0.0 for r in places]
        values = [float(g > 0) for g in grades]
    else:
        ideal = sum(g / math.log2(r + 1) for r, g in zip(places, sorted(grades, reverse=True)[:k], strict=False))
        weights = [1 / math.log2(r + 1) if r <= k else 0.0 for r in places]
        values = [g / ideal for g in grades]
    return Gains.of([PositionBased(tuple(values), tuple(weights), first)], len(grades), scores_of(1))


def enumerated_gradient(scores, value):
    """Of the sum over all orders of p(order) value(order), by the scores."""
    given = scores.clone().requires_grad_()
    orders = all_orders(scores.size(1))
    (log_prob(given, orders, everyone(given)).exp() * value(orders)).sum().backward()
    return given.grad


def over_all(estimate, scores, k):
    """An estimate from one order, in expectation over all orders."""
    weights = log_prob(scores, all_orders(scores.size(1)), everyone(scores)).exp()[0]
    one_by_one = all_orders(scores.size(1)).transpose(0, 1)
    found = [estimate(place(scores, order.unsqueeze(0), everyone(scores), k)) for order in one_by_one]
    return sum(p * g for p, g in zip(weights, found, strict=True))


@pytest.mark.parametrize("estimate", [pl_rank, moves])
@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 2), (4, 1), (4, 3), (5, 5), (5, 2)])
@pytest.mark.parametrize("first", [False, True])
def test_the_expectation_of_an_estimate_is_the_gradient(estimate, n, k, first):
    scores, grades = scores_of(n), GRADES[n]
    value = reciprocal if first else worth
    exact = enumerated_gradient(scores, lambda orders: value(orders, grades, k))
    found = over_all(lambda placed: estimate(gains(grades, k, first), placed), scores, k)
    assert torch.allclose(found, exact, atol=1e-12)
    placed = place(scores, all_orders(n), everyone(scores), k)
    assert torch.allclose(earned(gains(grades, k, first), placed).sum(2), value(all_orders(n), grades, k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_score_function_of_the_first_places_is_exact_for_measures_that_look_no_deeper(k):
    scores, orders = scores_of(4), all_orders(4)
    exact = enumerated_gradient(scores, lambda orders: worth(orders, GRADES[4], k))
    given = scores.clone().requires_grad_()
    weights = log_prob(scores, orders, everyone(scores)).exp()
    (log_prob(given, orders, everyone(given), k) * weights * worth(orders, GRADES[4], k)).sum().backward()
    assert torch.allclose(given.grad, exact)


def score_function(scores, orders, n, advantages):
    given = scores.clone().requires_grad_()
    (log_prob(given, orders, everyone(given)) * advantages(worth(orders, GRADES[n]))).mean(1).sum().backward()
    return given.grad


ESTIMATES = {
    "no baseline": lambda s, o, n: score_function(s, o, n, lambda rewards: rewards),
    "group": lambda s, o, n: score_function(s, o, n, lambda r: group_advantages(r, scale=False)),
    "pl_rank": lambda s, o, n: pl_rank(gains(GRADES[n]), place(s, o, everyone(s))),
    "moves": lambda s, o, n: moves(gains(GRADES[n]), place(s, o, everyone(s))),
}


def error(n, name, num_orders, repeats):
    """Root of the mean squared error of an estimate of the gradient of expected nDCG, over `repeats` draws."""
    scores = scores_of(n)
    exact = enumerated_gradient(scores, lambda orders: worth(orders, GRADES[n]))
    # All repeats at once, as lists of their own.
    drawn = draw(scores.expand(repeats, -1), num_orders, seed=1000).split(1)
    errors = [ESTIMATES[name](scores, orders, n) - exact for orders in drawn]
    return torch.stack(errors).pow(2).sum((1, 2)).mean().sqrt().item()


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("name", ["group", "pl_rank", "moves"])
def test_the_error_falls_as_one_over_the_root_of_the_samples(n, name):
    few, many = error(n, name, 20, 150), error(n, name, 320, 150)
    # 16 times the orders leave a quarter of the error; 150 draws tell each root mean square to about a twentieth.
    assert 3.3 < few / many < 4.8


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("num_orders", [4, 32])
def test_estimates_by_their_variance_at_equal_samples(n, num_orders):
    found = {name: error(n, name, num_orders, 100) for name in ESTIMATES}
    assert found["pl_rank"] < 0.8 * found["no baseline"]
    assert found["group"] < 0.8 * found["pl_rank"]
    assert found["moves"] < 0.3 * found["group"]


def test_two_documents_leave_nothing_to_chance():
    # p(relevant first) = sigmoid(s_1 - s_0) = sigmoid(.7) = .66819; nDCG is 1 or 1 / log2(3) = .63093
    # gradient by s_1: (1 - .63093) * .66819 * .33181 = .08183
    scores = torch.tensor([[0.0, 0.7]], dtype=torch.float64)
    found = moves(gains([0, 1]), place(scores, draw(scores, 2), everyone(scores)))
    assert found[0].tolist() == pytest.approx([-0.08183, 0.08183], abs=1e-5)


@pytest.mark.parametrize("estimate", [pl_rank, moves])
@pytest.mark.parametrize("first", [False, True])
def test_documents_in_another_order_and_masked_ones_change_nothing(estimate, first):
    scores, orders, turn = scores_of(5), draw(scores_of(5), 6), torch.tensor([3, 0, 4, 1, 2])
    grades = GRADES[5]
    plain = estimate(gains(grades, 3, first), place(scores, orders, everyone(scores), 3))
    moved = place(scores[:, turn], turn.argsort()[orders], everyone(scores), 3)
    assert torch.allclose(estimate(gains([grades[i] for i in turn], 3, first), moved), plain[:, turn])

    mask = torch.tensor([[True, False, True, True, True, True, False]])
    padded = torch.full((1, 7), 50.0, dtype=torch.float64).masked_scatter(mask, scores)
    among = torch.cat([torch.arange(7)[mask[0]][orders], torch.tensor([1, 6]).expand(1, 6, 2)], dim=2)
    one = gains(grades, 3, first)
    documents = torch.full((1, 7), 9.0, dtype=torch.float64).masked_scatter(mask, one.documents)
    weights = torch.cat([one.weights, torch.tensor([[3.0, 4.0]])], dim=1)
    found = estimate(Gains(documents, weights, first), place(padded, among, mask, 3))
    assert torch.allclose(found[mask], plain[0])
    assert found[~mask].tolist() == [0.0, 0.0]


def test_advantages_by_hand():
    # Rewards 1, 0, .5, .5: less the means of the others 1/3, 2/3, 1/2, 1/2. Their standard deviation is sqrt(1/6).
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.3, 0.3, 0.3, 0.3]])
    found = group_advantages(rewards, scale=False)
    assert found[0].tolist() == pytest.approx([2 / 3, -2 / 3, 0, 0])
    assert found[1].tolist() == [0.0] * 4
    assert group_advantages(rewards, scale=True)[0, 0].item() == pytest.approx(2 / 3 / (math.sqrt(1 / 6) + 1e-4))
