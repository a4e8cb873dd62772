import json
from itertools import permutations

import pytest

from rl_rerank.engines import constraint_json
from rl_rerank.prompts.constraints import Beginning, Permutation, Score, Scores


def beginnings(texts):
    return {text[:end] for text in texts for end in range(len(text) + 1)}


def test_what_continues_to_a_permutation_is_exactly_what_begins_one():
    whole = {" > ".join(f"[{i}]" for i in order) for order in permutations(range(1, 4))}
    begun = beginnings(whole)
    for text in begun:
        assert Permutation(3).continues(text)
        assert Permutation(3).is_whole(text) == (text in whole)
        for char in Permutation.alphabet:
            assert Permutation(3).continues(text + char) == (text + char in begun)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_what_continues_to_the_beginning_of_a_permutation_ends_behind_its_last_identifier(k):
    whole = {" > ".join(f"[{i}]" for i in order) for order in permutations(range(1, 4), min(k, 3))}
    begun = beginnings(whole)
    for text in begun:
        assert Beginning(3, k).continues(text)
        assert Beginning(3, k).is_whole(text) == (text in whole)
        for char in Permutation.alphabet:
            assert Beginning(3, k).continues(text + char) == (text + char in begun)


@pytest.mark.parametrize("text", ["[1] > [1]", "[4]", "[0]", "[01]", "[1]>", "[1] > [2] > [3] > ", " [1]", "[1] >  "])
def test_what_cannot_become_a_permutation_does_not_continue(text):
    assert not Permutation(3).continues(text)


def test_a_score_is_whole_where_it_may_also_go_on():
    found = {
        text for text in ("", *map(str, range(120)), "00", "01", "1.0", " 1", "\u0661") if Score(11).continues(text)
    }
    assert found == {"", *map(str, range(12))}
    assert Score(11).is_whole("1") and not Score(11).is_whole("")


def test_two_digits_are_one_identifier():
    assert Permutation(12).continues("[1")
    assert Permutation(12).continues("[1] > [12")
    assert not Permutation(9).continues("[12")


def test_scores_continue_exactly_where_json_in_the_asked_form_can_follow():
    whole = {json.dumps({"[1]": a, "[2]": b}) for a in range(11) for b in range(11)}
    begun = beginnings(whole)
    for text in begun:
        assert Scores(2, 10).continues(text)
        assert Scores(2, 10).is_whole(text) == (text in whole)
        for char in Scores.alphabet:
            assert Scores(2, 10).continues(text + char) == (text + char in begun), text + char


@pytest.mark.parametrize("form", [Permutation(12), Beginning(12, 3), Score(10), Scores(3, 10)])
def test_a_request_carries_a_form_in_plain_values(form):
    assert constraint_json.read(json.loads(json.dumps(constraint_json.carried(form, 7)))) == (form, 7)


def test_without_a_form_a_request_carries_nothing():
    assert constraint_json.carried(None, 7) == {}
    assert constraint_json.read(None) is constraint_json.read({}) is None


@pytest.mark.parametrize(
    "asked",
    [
        *("Permutation", [], ["dataclass", 7, 3], [["Permutation"], 7, 3], ["Permutation", 7], ["Scores", 7, 3]),
        *(["Permutation", 7, 10**9], ["Permutation", -1, 3], ["Permutation", 7, 0], ["Permutation", 7, 2.5]),
        *(["Permutation", 7, True], ["Scores", 7, 3, "10"]),
    ],
)
def test_what_no_request_of_ours_carries_is_refused(asked):
    with pytest.raises(ValueError, match="rl_rerank_constraint"):
        constraint_json.read({constraint_json.KEY: asked})
