"""Losses on a teacher's scores: values by hand and by plain numpy."""

import math

import numpy as np
import pytest
import torch

from rl_rerank.training.losses.build import build_loss

NAMES = ("mse", "margin_mse", "soft_ranknet", "list_kl")


def tensors(*rows):
    return (torch.tensor(row, dtype=torch.float64) for row in rows)


def value(name, scores, teacher, params=None, **weights):
    student, targets = tensors([scores], [teacher])
    mask = torch.ones_like(student, dtype=torch.bool)
    return build_loss("test", name, params or {})(student, targets, mask, **weights).item()


def test_soft_losses_by_hand():
    # s = 1, 0, -1 and t = 3, -1, -2: s - t = -2, 1, 1
    s, t = [1.0, 0.0, -1.0], [3.0, -1.0, -2.0]
    assert value("mse", s, t) == pytest.approx((4 + 1 + 1) / 3)
    # s - t / 2 = -.5, .5, 0
    assert value("mse", s, t, {"scale": 0.5}) == pytest.approx((0.25 + 0.25) / 3)
    # pairs (0, 1), (0, 2), (1, 2): s 1, 2, 1 and t 4, 5, 1: squares 9, 9, 0
    assert value("margin_mse", s, t) == pytest.approx(18 / 3)
    # half of t: 2, 2.5, .5: squares 1, .25, .25
    assert value("margin_mse", s, t, {"scale": 0.5}) == pytest.approx(1.5 / 3)
    # two documents one apart, the teacher sure by log 3: p = 3/4
    # -3/4 log(e / (1 + e)) - 1/4 log(1 / (1 + e)) = log(1 + e) - 3/4
    expected = math.log(1 + math.e) - 0.75
    assert value("soft_ranknet", [1.0, 0.0], [math.log(3), 0.0]) == pytest.approx(expected)
    # over a temperature of 2 log 3 is sqrt(3), p = 1 / (1 + 1 / sqrt(3)) = .6340
    expected = math.log(1 + math.e) - 0.6339746
    assert value("soft_ranknet", [1.0, 0.0], [math.log(3), 0.0], {"temperature": 2}) == pytest.approx(expected)
    # q = 3/4, 1/4 and p = 1/2, 1/2: 3/4 log(3/2) + 1/4 log(1/2)
    expected = 0.75 * math.log(1.5) - 0.25 * math.log(2)
    assert value("list_kl", [5.0, 5.0], [math.log(3), 0.0]) == pytest.approx(expected)
    # q = 3^2 / 10 and 1 / 10
    expected = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert value("list_kl", [5.0, 5.0], [math.log(3), 0.0], {"temperature": 0.5}) == pytest.approx(expected)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_soft_losses_by_numpy():
    draw = np.random.default_rng(3)
    s, t = draw.normal(size=7), 3 * draw.normal(size=7)
    t[2] = t[5]
    pairs = [(i, j) for i in range(7) for j in range(7) if i < j]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    margin = np.mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs])
    logistic = np.mean(
        [
            -sigmoid((t[i] - t[j]) / 2) * np.log(sigmoid(s[i] - s[j]))
            - sigmoid((t[j] - t[i]) / 2) * np.log(sigmoid(s[j] - s[i]))
            for i, j in pairs
        ]
    )
    q, p = softmax(t / 2), softmax(s)
    given = s.tolist(), t.tolist()
    assert value("mse", *given) == pytest.approx(np.mean((s - t) ** 2))
    assert value("margin_mse", *given) == pytest.approx(margin)
    # The mean over pairs of squared differences of x = s - t is twice its sample variance.
    assert value("margin_mse", *given) == pytest.approx(2 * np.var(s - t, ddof=1))
    assert value("soft_ranknet", *given, {"temperature": 2}) == pytest.approx(logistic)
    assert value("list_kl", *given, {"temperature": 2}) == pytest.approx(np.sum(q * np.log(q / p)))
    # listnet's cross-entropy is the same plus the teacher's entropy
    entropy = -np.sum(q * np.log(q))
    assert value("listnet", *given, {"temperature": 2}) == pytest.approx(np.sum(q * np.log(q / p)) + entropy)


def test_weights_of_documents_and_pairs_by_hand():
    s, t = [1.0, 0.0, -1.0], [3.0, -1.0, -2.0]
    items = torch.tensor([[2.0, 1.0, 0.5]], dtype=torch.float64)
    assert value("mse", s, t, item_weights=items) == pytest.approx((2 * 4 + 1 + 0.5) / 3)
    # a pair has the weights of both of its documents: 2, 1, .5
    assert value("margin_mse", s, t, item_weights=items) == pytest.approx((2 * 9 + 1 * 9 + 0) / 3)
    pairs = torch.zeros(1, 3, 3, dtype=torch.float64)
    pairs[0, 0, 1], pairs[0, 2, 0] = 0.5, 100.0  # the second is of a worse document and a better one
    assert value("margin_mse", s, t, pair_weights=pairs) == pytest.approx(0.5 * 9 / 3)
    # of equal scores a pair has the mean of its two weights
    pairs = torch.tensor([[[0.0, 1.0], [3.0, 0.0]]], dtype=torch.float64)
    assert value("margin_mse", [1.0, 0.0], [2.0, 2.0], pair_weights=pairs) == pytest.approx(2.0)
    q, p = softmax(np.array(t)), softmax(np.array(s))
    terms = q * np.log(q / p) - q + p
    assert value("list_kl", s, t, item_weights=items) == pytest.approx(np.sum(terms * items[0].numpy()))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_agrees_has_no_gradient_whatever_the_weights(name):
    targets = torch.tensor([[2.0, -3.0, 0.5, 0.5]], dtype=torch.float64)
    scores = targets.clone().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    items = torch.tensor([[0.2, 3.0, 1.0, 0.7]], dtype=torch.float64)
    loss = build_loss("test", name, {})(scores, targets, mask, item_weights=items)
    loss.sum().backward()
    assert scores.grad.abs().max().item() < 1e-12
    if name != "soft_ranknet":  # whose floor is the teacher's entropy
        assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_pointwise_loss_minds_an_offset_of_the_teacher(name):
    s, t = [0.3, -1.0, 2.0], [1.0, -4.0, 0.5]
    moved = [x + 7 for x in t]
    same = value(name, s, moved) == pytest.approx(value(name, s, t))
    assert same == (name != "mse")


@pytest.mark.parametrize("name", NAMES)
def test_far_scores_give_finite_losses_and_gradients_in_float32(name):
    scores = torch.tensor([[300.0, -300.0, 0.0, 0.0]], requires_grad=True)
    targets, mask = torch.tensor([[-200.0, 200.0, 50.0, 0.0]]), torch.tensor([[True, True, True, False]])
    loss = build_loss("test", name, {})(scores, targets, mask)
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and bool(scores.grad.isfinite().all())
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1] and scores.grad[0, 3] == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_document_alone_gives_no_pair_and_no_distribution(name):
    if name == "mse":
        assert value(name, [1.0], [3.0]) == pytest.approx(4.0)
    else:
        assert value(name, [1.0], [3.0]) == 0.0
