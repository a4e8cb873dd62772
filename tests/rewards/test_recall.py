import pickle

import pytest

from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.recall import Recall

EXAMPLE = RankingExample("q", "query", (), {"b": 2, "c": 1, "d": 0, "elsewhere": 3})


def rollout(scores, status=Status.ok):
    return Rollout(Prompt("q", tuple("abcd"), ()), Completion(""), Judgment(status, scores))


@pytest.mark.parametrize(
    ("scores", "value"),
    [
        ({"b": 4.0, "c": 3.0, "a": 2.0, "d": 1.0}, 1.0),  # the gold order: both relevant ones of the window
        ({"b": 4.0, "a": 3.0, "c": 2.0, "d": 1.0}, 0.5),
        ({"a": 4.0, "d": 3.0, "c": 2.0, "b": 1.0}, 0.0),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, 0.5),  # mean gain 2/4 on two ranks: 1 of 2
        ({"b": 2.0, "a": 1.0, "c": 1.0, "d": 1.0}, 2 / 3),  # 1 and, on the second rank, 1/3: 4/3 of 2
    ],
)
def test_recall_at_two_by_hand(scores, value):
    assert Recall(k=2)(EXAMPLE, rollout(scores)) == pytest.approx(value)


def test_what_is_not_well_formed_earns_the_configured_value():
    assert Recall(k=2, malformed=-0.5)(EXAMPLE, rollout({}, Status.ids)) == -0.5


@pytest.mark.parametrize("k", [4, 5])
def test_a_cutoff_that_every_order_meets_pays_every_order_the_same(k):
    for scores in ({"b": 4.0, "c": 3.0, "a": 2.0, "d": 1.0}, {"a": 4.0, "d": 3.0, "c": 2.0, "b": 1.0}):
        assert Recall(k=k)(EXAMPLE, rollout(scores)) == 1.0


def test_it_survives_pickling():
    assert pickle.loads(pickle.dumps(Recall(k=2))) == Recall(k=2)
