"""Plackett-Luce against sums over all orders of up to five documents."""

import math

import pytest
import torch
from support.orders import all_orders, draw, everyone, scores_of

from rl_rerank.training.exact.plackett_luce import entropy, kl, log_prob, place


def test_log_probabilities_by_hand():
    # scores log 1, log 2, log 3; the order 2, 0, 1: 3/6 * 1/3 * 2/2 = 1/6; its first place alone 1/2
    scores = torch.tensor([[math.log(1), math.log(2), math.log(3)]])
    orders = torch.tensor([[[2, 0, 1]]])
    assert log_prob(scores, orders, everyone(scores)).item() == pytest.approx(math.log(1 / 6))
    assert log_prob(scores, orders, everyone(scores), k=1).item() == pytest.approx(math.log(1 / 2))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_probabilities_of_all_orders_and_of_all_beginnings_sum_to_one(n):
    scores, orders = scores_of(n), all_orders(n)
    assert log_prob(scores, orders, everyone(scores)).exp().sum().item() == pytest.approx(1)
    for k in range(1, n + 1):  # (n - k)! orders share a beginning
        beginnings = log_prob(scores, orders, everyone(scores), k).exp().sum().item() / math.factorial(n - k)
        assert beginnings == pytest.approx(1)


def test_orders_are_drawn_as_often_as_they_are_likely():
    scores = scores_of(4)
    drawn = draw(scores, 50_000)[0]
    code = lambda order: (order * torch.tensor([64, 16, 4, 1])).sum(-1)  # noqa: E731
    counts = torch.bincount(code(drawn), minlength=256)
    for order, expected in zip(
        all_orders(4)[0], log_prob(scores, all_orders(4), everyone(scores)).exp()[0].tolist(), strict=True
    ):
        found = counts[code(order)].item() / 50_000
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / 50_000)


def test_what_is_drawn_depends_on_the_lists_own_generator_alone():
    scores = torch.cat([scores_of(4, 1), scores_of(4, 2)])
    alone = draw(scores[1:], 8, seed=1)
    assert torch.equal(draw(scores, 8, seed=0)[1:], alone)


@pytest.mark.parametrize("k", [None, 2])
def test_entropy_and_divergence_are_those_of_the_sums_over_all_orders(k):
    n, scores, other, orders = 4, scores_of(4), scores_of(4, 9), all_orders(4)
    p, q = (log_prob(s, orders, everyone(s), k) for s in (scores, other))
    weights = log_prob(scores, orders, everyone(scores)).exp()
    placed, reference = (place(s, orders, everyone(s), k) for s in (scores, other))
    assert (weights * entropy(placed)).sum().item() == pytest.approx(-(weights * p).sum().item())
    assert (weights * kl(placed, reference)).sum().item() == pytest.approx((weights * (p - q)).sum().item())
    assert bool((kl(placed, reference) >= 0).all())
    assert kl(placed, placed).abs().max().item() < 1e-12
    assert n == placed.scores.size(2)


def test_the_gradient_of_a_log_probability_is_that_of_differences():
    orders = torch.tensor([[[2, 0, 3, 1], [1, 2, 0, 3]]])
    mask = torch.tensor([[True, True, True, True]])
    given = scores_of(4).requires_grad_()
    for k in (None, 2):
        assert torch.autograd.gradcheck(lambda s, k=k: log_prob(s, orders, mask, k), given)
        assert torch.autograd.gradcheck(lambda s, k=k: entropy(place(s, orders, mask, k)), given)


def test_documents_in_another_order_change_nothing():
    scores, orders, turn = scores_of(5), draw(scores_of(5), 6), torch.tensor([3, 0, 4, 1, 2])
    back = turn.argsort()
    moved = back[orders]  # the same documents under their new numbers
    mask = everyone(scores)
    assert torch.allclose(log_prob(scores[:, turn], moved, mask), log_prob(scores, orders, mask))


@pytest.mark.parametrize("k", [None, 2])
def test_masked_documents_change_nothing(k):
    scores, mask = scores_of(3), torch.tensor([[True, False, True, True, False]])
    padded = torch.tensor([[scores[0, 0], 50.0, scores[0, 1], scores[0, 2], float("nan")]], dtype=torch.float64)
    padded = padded.nan_to_num(-3.0).requires_grad_()
    given = scores.clone().requires_grad_()
    alone, among = draw(given, 20), draw(padded, 20, mask=mask)
    assert torch.equal(among[:, :, :3], torch.tensor([0, 2, 3])[alone])
    placed, plain = place(padded, among, mask, k), place(given, alone, everyone(given), k)
    for found, expected in (
        (placed.log_probs.sum(2), plain.log_probs.sum(2)),
        (entropy(placed), entropy(plain)),
        (kl(placed, place(padded * 0.5, among, mask, k)), kl(plain, place(given * 0.5, alone, everyone(given), k))),
    ):
        assert torch.allclose(found, expected)
    (placed.log_probs.sum() + entropy(placed).sum()).backward()
    (plain.log_probs.sum() + entropy(plain).sum()).backward()
    assert torch.allclose(padded.grad[mask], given.grad[0])
    assert padded.grad[~mask].tolist() == [0.0, 0.0]
