import pickle

import pytest

from rl_rerank.paradigms.order_scores import OrderScores

SCORES = {"c": 3.0, "a": 2.0, "b": 1.0}


@pytest.mark.parametrize("looked", [False, True])
def test_scores_of_an_order_are_a_mapping_like_a_dict(looked):
    scores = OrderScores(("a", "b", "c"), (3, 1, 2))
    if looked:
        assert scores["a"] == 2.0
    copied = pickle.loads(pickle.dumps(scores))
    assert len(scores) == 3 and "d" not in scores
    assert scores == SCORES == copied and [*scores] == [*SCORES]
    assert scores != {**SCORES, "b": 4.0}
    assert repr(copied) == repr(SCORES)


def test_no_documents_are_no_scores():
    assert not OrderScores((), ())
