"""The terms by hand. Their measures are in tests/test_metrics.py."""

import math
import pickle

import pytest
from support.rollouts import GRADED, GROUPWISE, LISTWISE, SETWISE, answer, example, malformed, scored

from rl_rerank import registry
from rl_rerank.metrics import by_place
from rl_rerank.types import Completion, Judgment, Prompt, Rollout, Status
from rl_rerank_rewards.alignment import Alignment
from rl_rerank_rewards.anchor_band import AnchorBand
from rl_rerank_rewards.average_overlap import AverageOverlap
from rl_rerank_rewards.average_precision import AveragePrecision
from rl_rerank_rewards.improvement import Improvement
from rl_rerank_rewards.kendall_tau import KendallTau
from rl_rerank_rewards.list_length import ListLength
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.overlong import Overlong
from rl_rerank_rewards.pairwise_agreement import PairwiseAgreement
from rl_rerank_rewards.rbo import RBO
from rl_rerank_rewards.recall import Recall
from rl_rerank_rewards.reciprocal_power import ReciprocalPower
from rl_rerank_rewards.reciprocal_rank import ReciprocalRank
from rl_rerank_rewards.reference_score import ReferenceScore
from rl_rerank_rewards.setwise_label import SetwiseLabel
from rl_rerank_rewards.total_recall import TotalRecall
from rl_rerank_rewards.valid_ids import ValidIds

ORDERED = scored(by_place("abcd"))
GRADES = example({"b": 2, "d": 1, "elsewhere": 3}, "abcd", order=tuple("bdac"))
OVERLAPS = 0 + 0.5 * 1 / 2 + 0.25 * 2 / 3 + 0.125 * 1
"""a b c d and b d a c share 0 of 1, 1 of 2, 2 of 3, 4 of 4; weighted by powers of one half."""


@pytest.mark.parametrize(
    ("reward", "value"),
    [
        (NDCG(gain="exponential"), (3 / math.log2(3) + 1 / math.log2(5)) / (3 + 1 / math.log2(3))),
        (Recall(), 0.5),  # the first two of four hold b of b, d
        (ReciprocalRank(), 1 / 2),
        (ReciprocalRank(k=1), 0.0),
        (AveragePrecision(), (1 / 2 + 2 / 4) / 2),
        (ReciprocalPower(), (1 / 8 + 1 / 64) / (1 + 1 / 8)),
        (AverageOverlap(), (0 + 1 / 2 + 2 / 3 + 1) / 4),
        (RBO(p=0.5), 0.5 * OVERLAPS),
        (RBO(p=0.5, extrapolate=True), 0.5 * OVERLAPS + 0.5**4),
        (KendallTau(), 0.0),  # right: a-c, b-c, b-d; wrong: a-b, a-d, c-d
        (PairwiseAgreement(), 2 / 5),  # b-c and b-d of a-b, a-d, b-c, b-d, c-d
        (TotalRecall(), (0 + 1 / 2 + 1 + 3 / 2) / (2 * 4 - 2)),
        (TotalRecall(measure="wss"), 0 - 0.05),  # the second of two is on rank 4 of 4
        (Improvement(), 0.0),
    ],
    ids=str,
)
def test_the_order_abcd_by_hand(reward, value):
    assert reward(GRADES, ORDERED) == pytest.approx(value)
    assert reward(GRADES, malformed("abcd")) == reward.malformed


def test_recall_has_a_cutoff_that_teaches_something_in_small_groups():
    best, worst = scored(by_place("bdac")), scored(by_place("acdb"))
    assert (Recall()(GRADES, best), Recall()(GRADES, worst)) == (1.0, 0.0)
    assert (Recall(k=10)(GRADES, best), Recall(k=10)(GRADES, worst)) == (1.0, 1.0)


def test_an_order_is_compared_with_the_grades_where_the_example_has_none():
    tied = example({"b": 1, "d": 1}, "abcd")
    best = [AverageOverlap()(tied, scored(by_place(order))) for order in ("bdac", "bdca", "dbac")]
    # depth 1 holds one of two: 1/2; depth 2 both: 1; depth 3 both and one of two: 2.5/3; all: 1
    assert best == pytest.approx([(0.5 + 1 + 2.5 / 3 + 1) / 4] * 3)
    assert AverageOverlap()(tied, scored(by_place("abcd"))) < best[0]


def test_improvement_is_a_share_of_what_was_left():
    # shown a b c d: (2 * .63093 + .43068) / 2.63093 = .64332; b a c d: (2 + .43068) / 2.63093 = .92388
    better = Rollout(ORDERED.prompt, Completion(""), Judgment(Status.ok, by_place("bacd")))
    assert Improvement()(GRADES, better) == pytest.approx((0.92388 - 0.64332) / (1 - 0.64332), abs=1e-4)
    perfect = Prompt("q", tuple("bdac"), ())
    assert Improvement()(GRADES, Rollout(perfect, Completion(""), Judgment(Status.ok, by_place("bdca")))) == 1.0
    assert Improvement()(GRADES, Rollout(perfect, Completion(""), Judgment(Status.ok, by_place("dbac")))) == -1.0
    assert Improvement()(example({}), ORDERED) == 0.0


@pytest.mark.parametrize(
    ("reward", "value"),
    [
        (Alignment(smoothing=0), 1 - 0.05767),
        (Alignment(smoothing=0, base=math.e), 1 - 0.03997),
        # KL of (.5 .25 .25 0) to (.4 .3 .2 .1) = .5 ln 1.25 + .25 ln(5/6) + .25 ln 1.25 = .12178
        (Alignment(smoothing=0, divergence="kl"), math.exp(-0.12178)),
    ],
    ids=str,
)
def test_alignment_by_hand(reward, value):
    gold = example({"a": 2, "b": 1, "c": 1}, "abcd")
    assert reward(gold, scored({"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})) == pytest.approx(value, abs=1e-5)


def test_alignment_is_with_the_examples_scores_where_it_has_some():
    gold = example({"a": 2}, "ab", scores={"a": 3.0, "b": 1.0})
    assert Alignment()(gold, scored({"a": 9.0, "b": 3.0})) == pytest.approx(1.0)
    partly = example({"a": 2}, "ab", scores={"a": 3.0})
    with pytest.raises(ValueError, match="qid 'q' has no reference score for the document 'b'"):
        Alignment()(partly, scored({"a": 9.0, "b": 3.0}))


def test_the_reference_score_by_hand():
    gold = example({}, scores={"a": 4.0, "b": 0.0})
    assert ReferenceScore()(gold, answer(GRADED, "7", "a")) == pytest.approx(-0.09)
    assert ReferenceScore()(gold, scored({"a": 7.0, "b": 1.0})) == pytest.approx(-(0.09 + 0.01) / 2)
    assert ReferenceScore()(gold, answer(GRADED, "none", "a")) == -1.0


@pytest.mark.parametrize(
    ("grade", "score", "loss"),
    [
        (0, 0, 0.0),  # the band of grade 0 is 0 to .2
        (0, 2, 0.0),
        (0, 3, 0.2**2 - 0.01),  # .3 is .2 from .1
        (2, 4, 0.0),
        (2, 6, 0.0),
        (2, 10, 0.5**2 - 0.01),
        (4, 0, 0.9**2 - 0.01),
        (4, 8, 0.0),
    ],
)
def test_the_anchors_bands_tile_the_scale(grade, score, loss):
    assert AnchorBand()(example({"a": grade}), answer(GRADED, str(score), "a")) == pytest.approx(-loss)


def test_a_groups_distances_from_its_anchors_are_averaged():
    # grades 4 0 2 with scores 10 0 8: 1 is .1 from .9, 0 is .1 from .1, .8 is .3 from .5: (0 + 0 + .09 - .01) / 3
    gold = example({"a": 4, "c": 2}, "abc")
    text = '{"[1]": 10, "[2]": 0, "[3]": 8}'
    assert AnchorBand()(gold, answer(GROUPWISE, text, "abc")) == pytest.approx(-0.08 / 3)
    assert AnchorBand()(gold, answer(GROUPWISE, "none", "abc")) == -1.0


def test_a_grade_without_an_anchor_is_refused():
    with pytest.raises(ValueError, match="grades 'a' 5, and levels=5 end at 4"):
        AnchorBand()(example({"a": 5}), answer(GRADED, "5", "a"))


@pytest.mark.parametrize(("text", "value"), [("[2]", 1.0), ("[4]", 0.0), ("[9]", -0.5), ("none", -0.5)])
def test_the_setwise_label_is_of_the_highest_grade(text, value):
    assert SetwiseLabel(malformed=-0.5)(GRADES, answer(SETWISE, text, "abcd")) == value


@pytest.mark.parametrize(
    ("ids", "in_range", "length"),
    [
        ("[1] > [2] > [3] > [4]", 1.0, 1.0),
        ("[1] > [2] > [5] > [0]", 0.5, 1.0),
        ("[1] > [1] > [1]", 1.0, 1 - 3 / 4),
        ("nothing", 0.0, -1.0),
    ],
)
def test_identifiers_and_their_number(ids, in_range, length):
    rollout = answer(LISTWISE, ids, "abcd")
    assert (ValidIds()(GRADES, rollout), ListLength()(GRADES, rollout)) == (in_range, length)


@pytest.mark.parametrize(
    ("tokens", "reason", "value"),
    [(74, "stop", 0.0), (75, "stop", 0.0), (80, "stop", -0.2), (100, "stop", -1.0), (10, "length", -1.0)],
)
def test_overlong_completions_cost_more_and_more(tokens, reason, value):
    completion = Completion("...", tuple(range(tokens)), reason)
    rollout = Rollout(Prompt("q", ("a",), ()), completion, Judgment(Status.ok))
    assert Overlong(max_tokens=100, buffer=25)(GRADES, rollout) == pytest.approx(value)


@pytest.mark.parametrize("name", sorted(registry.names("reward")))
def test_every_reward_tells_its_paradigms_and_its_source_and_survives_pickling(name):
    reward = registry.build("reward", name, {"model": "folder"} if name == "reward_model" else {})
    assert pickle.loads(pickle.dumps(reward)) == reward
    doc = type(reward).__doc__
    named = doc.split("Paradigms: ")[1].split(".\n")[0]
    assert named in ("all", ", ".join(type(reward).paradigms))
    assert set(type(reward).paradigms) <= set(registry.names("paradigm"))
    assert "Source: " in doc or name == "format"
