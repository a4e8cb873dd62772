"""Ranking losses: values by hand, gradients, and that neither the order of documents nor padding matters."""

import math

import pytest
import torch

from rl_rerank import registry
from rl_rerank.training.exact.plackett_luce import log_prob
from rl_rerank.training.losses.base import RankingLoss, better
from rl_rerank.training.losses.build import build_loss

NAMES = registry.names("loss")
LOSSES: dict[str, RankingLoss] = {name: build_loss("test", name, {}) for name in NAMES}
OF_PAIRS = ("hinge", "ranknet", "lambdarank", "first", "ranklist_style", "skip_ranknet", "anchored_hinge")


def softplus(x):
    return math.log1p(math.exp(x))


def value(name, scores, grades, params=None, **weights):
    scores, grades = torch.tensor([scores], dtype=torch.float64), torch.tensor([grades], dtype=torch.float64)
    mask = torch.ones_like(scores, dtype=torch.bool)
    return build_loss("test", name, params or {})(scores, grades, mask, **weights).item()


def test_losses_by_hand():
    # scores 2, 0, 1 with grades 0, 1, 2. Pairs (better, worse): (2, 1), (2, 0), (1, 0): s_j - s_i = -1, 1, 2
    scores, grades = [2.0, 0.0, 1.0], [0.0, 1.0, 2.0]
    each = [softplus(-1), softplus(1), softplus(2)]
    assert value("ranknet", scores, grades) == pytest.approx(sum(each) / 3)
    # max(0, 1 - d) with d = 1, -1, -2: 0, 2, 3
    assert value("hinge", scores, grades) == pytest.approx(5 / 3)
    assert value("hinge", scores, grades, {"margin": 0.5}) == pytest.approx((1.5 + 2.5) / 3)
    # ranks by grade 1, 2, 3 for documents 2, 1, 0: weights 1/3, 1/4, 1/5
    assert value("first", scores, grades) == pytest.approx((each[0] / 3 + each[1] / 4 + each[2] / 5) / 3)
    # ranks by score: document 0 first, 2 second, 1 third; D = 1, .63093, .5; ideal 2 + .63093 = 2.63093
    # |gain| x |discount|: (2, 1): 1 x .13093; (2, 0): 2 x .36907; (1, 0): 1 x .5
    expected = (0.13093 * each[0] + 0.73814 * each[1] + 0.5 * each[2]) / 2.63093
    assert value("lambdarank", scores, grades) == pytest.approx(expected, abs=1e-4)
    # the first place alone: D = 1, 0, 0 and the ideal is 2
    assert value("lambdarank", scores, grades, {"k": 1}) == pytest.approx((2 * each[1] + each[2]) / 2)
    # skip 1: pairs (2, 1) and (1, 0), skip 2: (2, 0), skip 3: none
    expected = (math.log(1 + math.exp(-1) + math.exp(2)) + math.log(1 + math.exp(1))) / 3
    assert value("ranklist_style", scores, grades) == pytest.approx(expected)
    assert value("ranklist_style", scores, grades, {"skips": 2, "margin": 1.0}) == pytest.approx(each[1] / 2)
    z = math.log(math.exp(2) + 1 + math.exp(1))
    assert value("softmax", scores, grades) == pytest.approx(1 / 3 * z + 2 / 3 * (z - 1))
    q = [math.exp(g) / (1 + math.exp(1) + math.exp(2)) for g in grades]
    assert value("listnet", scores, grades) == pytest.approx(q[0] * (z - 2) + q[1] * z + q[2] * (z - 1))
    # the order 2, 1, 0: (z - 1) + (log(e^0 + e^2) - 0) + 0
    assert value("listmle", scores, grades) == pytest.approx(z - 1 + softplus(2))
    assert value("plackett_luce", scores, grades, {"k": 1}) == pytest.approx(z - 1)
    # documents 1 and 2 are relevant, 0 is not; from grade 3 on none is
    assert value("bce", scores, grades) == pytest.approx((softplus(2) + softplus(0) + softplus(-1)) / 3)
    assert value("bce", scores, grades, {"relevant": 3}) == pytest.approx((softplus(2) + softplus(0) + softplus(1)) / 3)


def test_the_anchored_hinge_by_hand():
    # f = .5 for both, grades 1 and 0, five levels: anchors .3 and .1, width .1
    # hinge .1 - 0; bands (.2^2 - .01) + (.4^2 - .01) = .03 + .15 = .18, of which .7
    assert value("anchored_hinge", [0.0, 0.0], [1.0, 0.0]) == pytest.approx(0.1 + 0.7 * 0.18)
    # inside their bands and .1 apart or more: nothing is lost. The bands tile [0, 1].
    logit = lambda p: math.log(p / (1 - p))  # noqa: E731
    assert value("anchored_hinge", [logit(0.39), logit(0.01)], [1.0, 0.0]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="a document is graded 5, and levels=5 end below"):
        value("anchored_hinge", [0.0, 0.0], [5.0, 0.0])


def test_the_weights_of_first_over_twenty_documents():
    # Pairs that touch rank 1 carry 19.1% of the weight, those with a document of the first five 62%; uniformly it would
    # be 10% and 44.7%.
    ranks = range(1, 21)
    weights = {(i, j): 1 / (i + j) for i in ranks for j in ranks if i < j}
    total = sum(weights.values())
    assert sum(w for (i, _), w in weights.items() if i == 1) / total == pytest.approx(0.191, abs=5e-4)
    assert sum(w for (i, _), w in weights.items() if i <= 5) / total == pytest.approx(0.62, abs=2e-3)
    # With equal scores every pair loses log 2, so the loss is their mean weight times that.
    grades = [float(20 - r) for r in ranks]
    assert value("first", [0.0] * 20, grades) == pytest.approx(math.log(2) * total / 190)


def test_of_equal_grades_nothing_is_preferred_and_each_is_measured_against_what_is_not_better():
    scores = [0.3, -1.0, 2.0]
    for name in (*OF_PAIRS, "softmax"):
        assert value(name, scores, [0.0, 0.0, 0.0]) == 0
    # grades 1, 1, 0: both relevant ones against all, the last one against itself
    z = math.log(sum(math.exp(s) for s in scores))
    assert value("listmle", scores, [1.0, 1.0, 0.0]) == pytest.approx(2 * z - 0.3 + 1.0)
    # of two first places one is drawn: each relevant document counts half
    assert value("plackett_luce", scores, [1.0, 1.0, 0.0], {"k": 1}) == pytest.approx((2 * z - 0.3 + 1.0) / 2)


def test_listmle_is_the_likelihood_of_the_order_and_an_lse_of_each_document_over_those_behind():
    scores = torch.randn(1, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grades, mask = torch.arange(20.0, 0, -1).unsqueeze(0), torch.ones(1, 20, dtype=torch.bool)
    found = LOSSES["listmle"](scores, grades, mask)
    order = torch.arange(20).view(1, 1, 20)
    assert found.item() == pytest.approx(-log_prob(scores, order, mask).item())
    lse = sum(math.log(1 + sum(math.exp(b - a) for b in scores[0].tolist()[i + 1 :])) for i, a in enumerate(scores[0]))
    assert found.item() == pytest.approx(lse)
    for k in (1, 7):
        first = build_loss("test", "plackett_luce", {"k": k})(scores, grades, mask)
        assert first.item() == pytest.approx(-log_prob(scores, order, mask, k).item())


def lists(seed=0):
    """Two lists of 4 and 6 documents with ties, padded to 6 with numbers that must not matter."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    grades = torch.randint(0, 4, (2, 6), generator=draw).double()
    grades[:, 0], grades[:, 1] = 3.0, 0.0
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    scores[0, 4:], grades[0, 4:] = torch.tensor([1e4, -1e4], dtype=torch.float64), 4.0
    return scores, grades, mask


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_differences(name):
    scores, grades, mask = lists()
    if name == "lambdarank":  # its weights depend on the scores' ranks, which small differences do not change
        assert len(set(scores[1].tolist())) == 6
    inside = scores.clamp(-3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, grades, mask), inside)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_weights", [False, True])
def test_documents_in_another_order_and_padding_change_nothing(name, with_weights):
    scores, grades, mask = lists()
    draw = torch.Generator().manual_seed(5)
    items, pairs = (torch.rand(size, generator=draw, dtype=torch.float64) for size in ((2, 6), (2, 6, 6)))
    weights = {"item_weights": items} if with_weights else {}
    if with_weights and LOSSES[name].of_pairs:
        weights["pair_weights"] = pairs
    given = scores.clone().requires_grad_()
    found = LOSSES[name](given, grades, mask, **weights)
    found.sum().backward()
    assert bool(found.isfinite().all()) and bool((found > 0).all())
    assert given.grad[0, 4:].tolist() == [0.0, 0.0]

    short = {k: v[:1, :4, :4] if v.dim() == 3 else v[:1, :4] for k, v in weights.items()}
    alone = LOSSES[name](scores[:1, :4], grades[:1, :4], mask[:1, :4], **short)
    assert alone.item() == pytest.approx(found[0].item())

    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = {k: v[:, turn][:, :, turn] if v.dim() == 3 else v[:, turn] for k, v in weights.items()}
    again = scores[:, turn].clone().requires_grad_()
    moved = LOSSES[name](again, grades[:, turn], mask[:, turn], **turned)
    moved.sum().backward()
    assert torch.allclose(moved, found)
    assert torch.allclose(again.grad, given.grad[:, turn])


@pytest.mark.parametrize("name", NAMES)
def test_weights_scale_the_part_of_a_document_or_of_a_pair(name):
    scores, grades, mask = lists()
    double = torch.full_like(scores, 2.0)
    # a pair has the weights of both of its documents
    factor = 4 if LOSSES[name].of_pairs else 2
    if name != "ranklist_style":  # there a weight stands inside a logarithm
        found = LOSSES[name](scores, grades, mask, item_weights=double)
        assert torch.allclose(found, factor * LOSSES[name](scores, grades, mask))
    none = LOSSES[name](scores, grades, mask, item_weights=torch.zeros_like(scores))
    assert none.tolist() == [0.0, 0.0]
    pairs = torch.zeros(2, 6, 6, dtype=torch.float64)
    if not LOSSES[name].of_pairs:
        with pytest.raises(ValueError, match=f"the loss {type(LOSSES[name]).__name__} is not made of pairs"):
            LOSSES[name](scores, grades, mask, pair_weights=pairs)
        return
    # A loss with the weights of one pair alone depends on its two documents alone.
    i, j = better(grades, mask)[1].nonzero()[0].tolist()
    pairs[1, i, j] = 1.0
    given = scores.clone().requires_grad_()
    LOSSES[name](given, grades, mask, pair_weights=pairs).sum().backward()
    assert set(given.grad[1].nonzero().flatten().tolist()) <= {i, j}


@pytest.mark.parametrize("name", NAMES)
def test_descending_a_loss_orders_the_documents_by_grade(name):
    grades, mask = torch.tensor([[0.0, 2.0, 1.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    scores = torch.tensor([[0.5, -0.5, 0.0, 0.2]], requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        LOSSES[name](scores, grades, mask).sum().backward()
        optimizer.step()
    found = scores[0].tolist()
    assert min(found[1], found[2]) > max(found[0], found[3])
    if name != "bce":  # which knows relevant and not
        assert found[1] > found[2]


@pytest.mark.parametrize(
    ("name", "params", "fragment"),
    [
        ("ranknett", {}, "stages.sft.loss: no loss is named 'ranknett'; installed: anchored_hinge, bce, "),
        (
            "hinge",
            {"margins": 1},
            "stages.sft.loss_params: loss 'hinge' has no parameter 'margins'; it has: margin. Did you mean 'margin'?",
        ),
        ("hinge", {"margin": -1}, "loss_params: margin must be a number of at least 0; got -1"),
        ("hinge", {"margin": math.nan}, "loss_params: margin must be a number of at least 0; got nan"),
        ("mse", {"scale": math.inf}, "loss_params: scale must be a number of at least 0; got inf"),
        ("plackett_luce", {"k": 0}, "loss_params: k must be a whole number of at least 1; got 0"),
        ("plackett_luce", {"k": None}, "loss_params: loss 'plackett_luce': k must be of type int; got None"),
        ("listnet", {"temperature": 0}, "loss_params: temperature must be a number above 0; got 0"),
        ("ranknet", {"k": 1}, "loss 'ranknet' has no parameter 'k'; it has: none"),
    ],
)
def test_what_a_loss_does_not_have_is_told(name, params, fragment):
    with pytest.raises((ValueError, LookupError)) as caught:
        build_loss("stages.sft", name, params)
    assert fragment in str(caught.value)


def test_no_cutoff_is_a_value_too():
    build_loss("stages.sft", "lambdarank", {"k": None})


def test_pairs_by_skips_by_hand():
    # scores 2, 0, 1 with grades 0, 1, 2: skip 1 has the pairs (2, 1) and (1, 0), skip 2 (2, 0)
    scores, grades = [2.0, 0.0, 1.0], [0.0, 1.0, 2.0]
    each = [softplus(-1), softplus(1), softplus(2)]
    neighbours = (each[0] + each[2]) / 2
    assert value("skip_ranknet", scores, grades, {"skips": 1}) == pytest.approx(neighbours)
    assert value("skip_ranknet", scores, grades, {"skips": 2}) == pytest.approx((neighbours + each[1]) / 2)
    # only (2, 0) has grades more than 1 apart
    assert value("skip_ranknet", scores, grades, {"skips": 2, "margin": 1.0}) == pytest.approx(each[1] / 2)
    # equal grades make no pair, and are one level
    assert value("skip_ranknet", [2.0, 0.0, 1.0], [1.0, 1.0, 1.0]) == 0.0
    tied = value("skip_ranknet", [0.0, 3.0, 1.0], [0.0, 0.0, 2.0], {"skips": 1})
    assert tied == pytest.approx((softplus(-1) + softplus(2)) / 2)


def test_a_list_of_twenty_by_neighbours_all_pairs_and_one_smooth_maximum():
    torch.manual_seed(0)
    n, scores = 20, torch.randn(20, dtype=torch.float64)
    grades = list(range(n, 0, -1))
    each = {(i, j): softplus((scores[j] - scores[i]).item()) for i in range(n) for j in range(i + 1, n)}
    # Of skips 1 to 19 the mean of means: every skip counts alike, whatever its number of pairs.
    by_skip = [sum(each[i, i + k] for i in range(n - k)) / (n - k) for k in range(1, n)]
    given = scores.tolist()
    assert value("skip_ranknet", given, grades, {"skips": 19}) == pytest.approx(sum(by_skip) / 19)
    assert value("skip_ranknet", given, grades, {"skips": 1}) == pytest.approx(by_skip[0])
    # log(1 + sum exp) is below the sum of log(1 + exp), and near it where all terms are small.
    wide = [20.0 * g for g in grades]
    assert 0 < value("ranklist_style", given, grades, {"skips": 1}) < 19 * by_skip[0]
    lse, mean = (value(name, wide, grades, {"skips": 1}) for name in ("ranklist_style", "skip_ranknet"))
    assert lse == pytest.approx(19 * mean, rel=1e-6)
    # At a low temperature it is the worst violation.
    worst = max(given[i + 1] - given[i] for i in range(n - 1))
    cold = value("ranklist_style", given, grades, {"skips": 1, "temperature": 0.001})
    assert cold == pytest.approx(worst, abs=0.004)


def test_skips_and_temperature_take_their_course():
    grows = build_loss("test", "skip_ranknet", {"skips": 4, "first_skips": 1})
    # Four numbers of skips, a quarter of the training each.
    assert [grows.at(step / 8).skips for step in range(9)] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert build_loss("test", "skip_ranknet", {"skips": 4}).at(0.0).skips == 4
    cools = build_loss("test", "ranklist_style", {"temperature": 4.0, "last_temperature": 0.25})
    # 4 x (1 / 16)^share
    assert [cools.at(share).temperature for share in (0.0, 0.5, 1.0)] == pytest.approx([4.0, 1.0, 0.25])
    assert cools.at(0.5).skips == 3
    both = build_loss("test", "ranklist_style", {"skips": 2, "first_skips": 1, "last_temperature": 0.5})
    assert both.at(0.0) == build_loss("test", "ranklist_style", {"skips": 1})
    assert both.at(1.0) == build_loss("test", "ranklist_style", {"skips": 2, "temperature": 0.5})
    for name in NAMES:  # all others stay what they are
        assert LOSSES[name].at(0.3) == LOSSES[name]


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("skip_ranknet", {"skips": 2, "first_skips": 3}, "first_skips must be at most skips=2; got 3"),
        ("ranklist_style", {"last_temperature": 0}, "last_temperature must be a number above 0; got 0"),
        ("ranklist_style", {"first_skips": 0}, "first_skips must be a whole number of at least 1; got 0"),
    ],
)
def test_courses_that_mean_nothing_are_refused(name, params, says):
    with pytest.raises(ValueError, match=says):
        build_loss("test", name, params)
