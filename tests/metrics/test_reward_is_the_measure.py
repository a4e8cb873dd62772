"""A reward is the evaluator's measure of the same name, on the documents that the prompt shows."""

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rollouts import example, scored

from rl_rerank.evaluation.measures import evaluate
from rl_rerank.metrics import by_place
from rl_rerank.metrics.ties import tied_groups
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Completion, Prompt, Rollout
from rl_rerank_rewards.average_precision import AveragePrecision
from rl_rerank_rewards.multiview import MultiView
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.recall import Recall
from rl_rerank_rewards.reciprocal_rank import ReciprocalRank
from rl_rerank_rewards.total_recall import TotalRecall

DOCIDS = "abcdefghijklmnopqrstuvwxyz"
SHARED = {
    "nDCG@10": NDCG(),
    "nDCG@1": NDCG(k=1),
    "nDCG@3": NDCG(k=3),
    "nDCG(dcg='exp-log2')@3": NDCG(k=3, gain="exponential"),
    "R@1": Recall(k=1),
    "R@4": Recall(k=4),
    "RR": ReciprocalRank(),
    "RR@2": ReciprocalRank(k=2),
    "AP": AveragePrecision(),
    "NormArea": TotalRecall(),
}
PLACED = ("nDCG@10", "nDCG@1", "nDCG(dcg='exp-log2')@3", "R@4", "RR", "RR@2")
"""Those that give an exact gradient the value of every place."""
WORK_SAVED = {f"WSS@{percent}": TotalRecall("wss", recall=percent / 100) for percent in (95, 100, 50, 10)}
"""Equal scores are not averaged here: the relevant documents stand last."""


@st.composite
def windows(draw, most, *, ties):
    """Grades, of which some are outside of the window; the window as it is shown; its scores."""
    grades = draw(st.dictionaries(st.sampled_from(DOCIDS[: most + 2]), st.integers(-1, 3)))
    window = draw(st.permutations(DOCIDS[: most + 2]))[: draw(st.integers(2, most))]
    if ties:
        return grades, window, {docid: float(draw(st.integers(0, 2))) for docid in window}
    return grades, window, {docid: float(place) for place, docid in enumerate(draw(st.permutations(window)))}


def measured(grades, scores, measures):
    """Measure -> the evaluator's values of the window, one for each order of equal scores."""
    judged = {docid: grade for docid, grade in grades.items() if docid in scores}
    if not judged:
        return {measure: [0.0] for measure in measures}
    orders = itertools.product(*map(itertools.permutations, tied_groups(scores)))
    run = {str(n): by_place([*itertools.chain(*order)]) for n, order in enumerate(orders)}
    found = evaluate(run, dict.fromkeys(run, judged), list(measures)).per_query.values()
    return {measure: [row[measure] for row in found] for measure in measures}


def agree(grades, scores):
    values = measured(grades, scores, [*SHARED, *WORK_SAVED])
    gold, rollout = example(grades, DOCIDS), scored(scores)
    for measure, reward in SHARED.items():
        assert reward(gold, rollout) == pytest.approx(statistics.fmean(values[measure]), abs=1e-9), measure
    for measure, reward in WORK_SAVED.items():
        assert reward(gold, rollout) == pytest.approx(min(values[measure]), abs=1e-9), measure


@settings(deadline=None)
@given(windows(24, ties=False))
def test_of_an_order_it_is_the_value(drawn):
    grades, _, scores = drawn
    agree(grades, scores)


@settings(deadline=None)
@given(windows(5, ties=True))
def test_of_ties_it_is_the_mean_over_their_orders_and_of_work_saved_the_least(drawn):
    grades, _, scores = drawn
    agree(grades, scores)


@settings(deadline=None)
@given(windows(24, ties=False))
def test_the_terms_of_a_group_are_the_values(drawn):
    grades, window, scores = drawn
    values = measured(grades, scores, ["nDCG@10", "nDCG@3", "R@10", "R@4"])
    answer = Completion(
        " > ".join(f"[{window.index(docid) + 1}]" for docid in sorted(scores, key=lambda d: -scores[d]))
    )
    prompt = Prompt("q", tuple(window), (), "listwise")
    rollout = Rollout(prompt, answer, Listwise(window=None).parse(prompt, answer, strict=True))
    assert rollout.judgment.is_ok
    for k, recall_k in ((10, 10), (3, 4)):
        [found] = MultiView(k=k, recall_k=recall_k).explain_group(example(grades, DOCIDS), [rollout])
        assert found.parts["ndcg"] == pytest.approx(values[f"nDCG@{k}"][0], abs=1e-9)
        assert found.parts["recall"] == pytest.approx(values[f"R@{recall_k}"][0], abs=1e-9)


@settings(deadline=None)
@given(windows(24, ties=False))
def test_the_gains_and_weights_of_places_give_the_values(drawn):
    grades, window, scores = drawn
    order = sorted(scores, key=lambda docid: -scores[docid])
    values = measured(grades, scores, PLACED)
    for measure in PLACED:
        parts = SHARED[measure].position_based(example(grades, DOCIDS), window)
        gains = dict(zip(window, parts.gains, strict=True))
        terms = [gains[docid] * weight for docid, weight in zip(order, parts.weights, strict=False)]
        value = next((term for term in terms if term), 0.0) if parts.first else sum(terms)
        assert value == pytest.approx(values[measure][0], abs=1e-9), measure
