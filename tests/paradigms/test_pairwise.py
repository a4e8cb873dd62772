import math
import random

import pytest

from rl_rerank.engines.oracle import Oracle
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Completion, RankingExample

Answers = dict[tuple[str, ...], str]


def example(grades):
    """Documents d1.. in this order, with these grades."""
    candidates = tuple(Candidate(f"d{i}", f"grade {g}") for i, g in enumerate(grades, start=1))
    return RankingExample("q", "query", candidates, {f"d{i}": g for i, g in enumerate(grades, start=1)})


def scored(table):
    """An engine whose log-probabilities of A and B have this difference for the documents that are shown."""
    return Scripted(lambda p: "", lambda p, letter: table[p.docids] if letter == "A" else 0.0)


def test_both_orders_of_every_pair_are_asked_in_one_round():
    ex = example([0, 2, 1])
    [ranking], rollouts = rerank([ex], Pairwise(), engine := Oracle([ex], Pairwise().target))
    assert engine.batch_sizes == [6]
    assert [rollout.prompt.docids for rollout in rollouts] == [
        ("d1", "d2"),
        ("d2", "d1"),
        ("d1", "d3"),
        ("d3", "d1"),
        ("d2", "d3"),
        ("d3", "d2"),
    ]
    # d2 wins twice, d3 once, d1 never
    assert dict(ranking.scores) == {"d2": 2.0, "d3": 1.0, "d1": 0.0}
    assert (ranking.num_prompts, ranking.num_ties) == (6, 0)


def test_a_disagreement_is_half_a_win_for_both():
    # d1-d2: A both times, so a tie; d3 beats d1; d2 beats d3: d1 .5, d2 1.5, d3 1
    answers: Answers = {("d1", "d2"): "A", ("d2", "d1"): "A", ("d1", "d3"): "B", ("d3", "d1"): "A"}
    answers |= {("d2", "d3"): "A", ("d3", "d2"): "B"}
    [ranking], _ = rerank([example([0, 0, 0])], Pairwise(), Scripted(lambda p: answers[p.docids]))
    assert dict(ranking.scores) == {"d2": 1.5, "d3": 1.0, "d1": 0.5}
    assert ranking.num_ties == 1


@pytest.mark.parametrize("method", ["allpairs", "heapsort", "sliding"])
def test_a_model_that_always_says_a_decides_nothing(method):
    ex = example([0, 1, 2, 0, 1])
    [ranking], _ = rerank([ex], Pairwise(method), Scripted(lambda p: "A"))
    assert ranking.docids == ex.docids
    assert ranking.num_ties == ranking.num_prompts / 2
    assert (ranking.num_malformed, ranking.num_fallbacks) == (0, 0)


def test_an_unusable_answer_is_half_a_win_and_a_fallback_but_no_tie():
    answers: Answers = {("d1", "d2"): "I cannot say", ("d2", "d1"): "A"}
    [ranking], _ = rerank([example([0, 1])], Pairwise(), Scripted(lambda p: answers[p.docids]))
    assert ranking.docids == ("d1", "d2")
    assert (ranking.num_malformed, ranking.num_fallbacks, ranking.num_ties) == (1, 1, 0)


def test_scores_are_compared_in_both_orders():
    # of d1 and d2 the first wins, which is a tie; d3 beats both in either order
    table = {("d1", "d2"): 1.0, ("d2", "d1"): 2.0, ("d1", "d3"): -1.0, ("d3", "d1"): 3.0}
    table |= {("d2", "d3"): -0.1, ("d3", "d2"): 0.1}
    [ranking], _ = rerank([example([0, 0, 0])], Pairwise(mode="scoring"), scored(table))
    # d3 2, d1 and d2 1/2 each: equal scores keep the shown order, and the ranks become the scores
    assert dict(ranking.scores) == {"d3": 3.0, "d1": 2.0, "d2": 1.0}
    assert ranking.num_ties == 1


def test_sym_sum_by_hand():
    # sigmoid(log 3) = 3/4, sigmoid(log 9) = 9/10, sigmoid(0) = 1/2
    log3, log9 = 1.0986122886681098, 2.1972245773362196
    table = {("d1", "d2"): log3, ("d2", "d1"): log9, ("d1", "d3"): 0.0, ("d3", "d1"): log3}
    table |= {("d2", "d3"): log9, ("d3", "d2"): 0.0}
    # s1 = p12 + (1 - p21) + p13 + (1 - p31) = .75 + .1 + .5 + .25 = 1.6
    # s2 = p21 + (1 - p12) + p23 + (1 - p32) = .9 + .25 + .9 + .5  = 2.55
    # s3 = p31 + (1 - p13) + p32 + (1 - p23) = .75 + .5 + .5 + .1  = 1.85
    [ranking], _ = rerank([example([0, 0, 0])], Pairwise(mode="scoring", aggregation="sym_sum"), scored(table))
    assert dict(ranking.scores) == pytest.approx({"d2": 2.55, "d3": 1.85, "d1": 1.6})
    assert list(ranking.docids) == ["d2", "d3", "d1"]
    assert ranking.num_ties == 3  # whichever of d1 and d2 is first wins; the other two pairs have an order with 1/2


def test_all_pairs_do_not_depend_on_the_order_that_is_shown_and_sliding_does():
    ex = example([i % 3 for i in range(12)])
    found = {}
    for paradigm in (Pairwise(mode="scoring", aggregation="sym_sum"), Pairwise("sliding", k=3)):
        engine = Oracle([ex], paradigm.target, noise=1.0, fresh=True)
        found[paradigm.method] = {rerank([ex], paradigm, engine, shuffle_seed=seed)[0][0].docids for seed in range(5)}
    assert len(found["allpairs"]) == 1
    assert len(found["sliding"]) > 1


def test_one_sliding_pass_carries_the_best_to_the_front_and_leaves_the_rest_as_shown():
    # [1 3 2 4]: (2 4) swap, (3 4) swap, (1 4) swap: d4 first; below k the shown order stays
    ex = example([1, 3, 2, 4])
    [ranking], rollouts = rerank([ex], Pairwise("sliding", k=1), engine := Oracle([ex], Pairwise().target))
    assert ranking.docids == ("d4", "d1", "d2", "d3")
    assert engine.batch_sizes == [2, 2, 2]
    assert [r.prompt.docids for r in rollouts[::2]] == [("d4", "d3"), ("d4", "d2"), ("d4", "d1")]


@pytest.mark.parametrize("method", ["heapsort", "sliding"])
def test_without_k_all_ranks_are_settled(method):
    rng = random.Random(1)
    ex = example(rng.sample(range(15), 15))
    [ranking], _ = rerank([ex], Pairwise(method, k=None), Oracle([ex], Pairwise().target))
    assert [ex.qrels[docid] for docid in ranking.docids] == list(range(14, -1, -1))


def test_training_pairs_differ_in_grade_and_either_comes_first():
    ex = example([0, 2, 2, 1, -1])
    firsts = 0
    for seed in range(400):
        prompts = Pairwise(pairs=2).prompts(ex, random.Random(seed))
        assert len({frozenset(prompt.docids) for prompt in prompts}) == 2
        for prompt in prompts:
            first, second = (max(ex.qrels[docid], 0) for docid in prompt.docids)
            assert first != second
            target = Pairwise().target(ex, prompt)
            assert target == ("A" if first > second else "B")
            firsts += target == "A"
    # 800 prompts: 400 +- 4 * sqrt(800 / 4) = 400 +- 57
    assert abs(firsts - 400) < 57
    # d2 and d3 over d4 and each of the three over d1 and d5, whose grades gain nothing: 2 + 3 * 2 pairs
    assert len(Pairwise(pairs=99).prompts(ex, random.Random(0))) == 8
    assert Pairwise().prompts(example([0, 0, -1]), random.Random(0)) == []


@pytest.mark.parametrize("reasoning", [False, True])
def test_the_target_is_read_back_and_is_short_enough(reasoning):
    ex = example([0, 1])
    paradigm = Pairwise(reasoning=reasoning)
    prompt = paradigm.prompt(ex, ("d1", "d2"))
    text = paradigm.target(ex, prompt)
    assert dict(paradigm.parse(prompt, Completion(text), strict=True).scores) == {"d1": 0.0, "d2": 1.0}
    assert len(text) < paradigm.max_completion_tokens
    assert not reasoning or "Passage B" in text


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "quicksort"}, "method must be one of allpairs, heapsort, sliding; got 'quicksort'"),
        ({"mode": "guessing"}, "mode must be one of generation, scoring"),
        ({"mode": "scoring", "reasoning": True}, "leaves no room for reasoning=true"),
        ({"aggregation": "sym_sum"}, "needs the probabilities of all pairs, so method=allpairs and mode=scoring"),
        ({"aggregation": "bradley_terry", "method": "sliding", "mode": "scoring"}, "got method=sliding"),
        ({"decision": "mean"}, "decision=mean takes a mean of probabilities, so it needs mode=scoring"),
        ({"decision": "both"}, "decision must be one of agreement, mean"),
        ({"k": 0}, "k must be at least 1, or null"),
        ({"pairs": 0}, "pairs must be at least 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Pairwise(**params)


def test_a_prompt_compares_two():
    with pytest.raises(ValueError, match="a prompt compares 2 documents; got 1"):
        Pairwise().prompt(example([1, 0]), ["d1"])


def biased(grades, bias):
    """An engine that sees the grades, and that prefers whatever is shown first by this much."""
    return scored({(a, b): grades[a] + bias - grades[b] for a in grades for b in grades})


@pytest.mark.parametrize("method", ["allpairs", "heapsort", "sliding"])
def test_the_mean_of_both_orders_cancels_a_preference_for_the_first_one(method):
    # Grades are 1 apart and the preference is 10, so the first document wins every prompt: only ties by agreement.
    ex = example(random.Random(2).sample(range(9), 9))
    agreed, mean = (
        rerank([ex], Pairwise(method, "scoring", decision, k=None), biased(ex.qrels, 10.0))[0][0]
        for decision in ("agreement", "mean")
    )
    assert agreed.docids == ex.docids
    assert [ex.qrels[docid] for docid in mean.docids] == list(range(8, -1, -1))
    assert agreed.num_ties == agreed.num_prompts / 2 and mean.num_ties == mean.num_prompts / 2


def test_one_order_alone_is_worse_where_the_first_one_is_preferred():
    # What both orders are for: p_ij alone, without 1 - p_ji, hardly tells grades apart from places.
    ex = example([0, 2, 1, 3])
    table = {(a, b): ex.qrels[a] - ex.qrels[b] + 10.0 for a in ex.docids for b in ex.docids if a != b}
    [ranking], _ = rerank([ex], Pairwise(mode="scoring", aggregation="sym_sum"), scored(table))
    assert ranking.docids == ("d4", "d2", "d3", "d1")
    wins = {a: sum(table[a, b] > 0 for b in ex.docids if ex.docids.index(a) < ex.docids.index(b)) for a in ex.docids}
    assert sorted(wins, key=lambda a: -wins[a]) == list(ex.docids)


def test_strengths_from_probabilities_by_hand():
    # Of two documents without a prior p = sigmoid(s1 - s2), so s1 - s2 = logit of the mean of both orders:
    # (3/4 + 1 - 9/10) / 2 = .425. A prior of half a vote for and against each pulls both towards 0: with s and -s,
    # 2 * .425 + .5 = 2 sigmoid(2 s) + sigmoid(s), as in tests/synth/test_bradley_terry.py.
    log3, log9 = 1.0986122886681098, 2.1972245773362196
    table = {("d1", "d2"): log3, ("d2", "d1"): log9}
    paradigm = Pairwise(mode="scoring", aggregation="bradley_terry")
    [ranking], _ = rerank([example([0, 0])], paradigm, scored(table))
    assert ranking.raw_scores is not None
    s = ranking.raw_scores["d1"]
    assert ranking.raw_scores["d2"] == pytest.approx(-s) and s < 0
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert 2 * sigmoid(2 * s) + sigmoid(s) == pytest.approx(2 * 0.425 + 0.5)
    assert rerank([example([])], paradigm, scored({}))[0][0].docids == ()


def test_strengths_do_not_depend_on_the_order_that_is_shown():
    ex = example([i % 3 for i in range(9)])
    paradigm = Pairwise(mode="scoring", aggregation="bradley_terry")
    engine = Oracle([ex], paradigm.target, noise=1.0, fresh=True)
    found = [rerank([ex], paradigm, engine, shuffle_seed=seed)[0][0].raw_scores for seed in range(3)]
    assert found[0] is not None
    assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])
