"""How many prompts a ranking takes: closed forms, and simulations that share no code with the strategies."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from rl_rerank.engines.oracle import Oracle
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.paradigms.windows import windows
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample

pytestmark = pytest.mark.slow


def example(grades, qid="q"):
    qrels = {f"d{i}": grade for i, grade in enumerate(grades)}
    return RankingExample(qid, "query", tuple(Candidate(docid, "text") for docid in qrels), qrels)


def shuffles(n, count):
    """Examples whose grades are 0 .. n - 1 in random order."""
    return [example(random.Random(seed).sample(range(n), n), qid=str(seed)) for seed in range(count)]


def ranked(paradigm, examples):
    return rerank(examples, paradigm, Oracle(examples, paradigm.target))[0]


def counts(paradigm, examples):
    return [ranking.num_prompts for ranking in ranked(paradigm, examples)]


def heapsort_calls(grades, k, c):
    """As in the reference implementation: the root is swapped behind a heap that shrinks."""
    calls = 0

    def heapify(heap, size, i):
        nonlocal calls
        children = [j for j in range(c * i + 1, c * i + c + 1) if j < size]
        if not children:
            return
        calls += 1
        largest = max([i, *children], key=heap.__getitem__)
        if largest != i:
            heap[i], heap[largest] = heap[largest], heap[i]
            heapify(heap, size, largest)

    heap, n = list(grades), len(grades)
    for i in range(n // c, -1, -1):
        heapify(heap, n, i)
    for extracted, end in enumerate(range(n - 1, 0, -1), start=1):
        heap[0], heap[end] = heap[end], heap[0]
        if extracted == k:
            break
        heapify(heap, end, 0)
    return calls


def bubblesort_calls(grades, k, c):
    """Passes of windows of c + 1 from the back; what was asked is noted and not asked again."""
    order, asked = list(grades), set()
    for top in range(min(k, len(order) - 1)):
        end = len(order)
        while end > top + 1:
            start = max(top, end - c - 1)
            asked.add(tuple(sorted(order[start:end])))
            best = order.index(max(order[start:end]))
            order[start], order[best] = order[best], order[start]
            end = start + 1 if start > top else top
    return len(asked)


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_all_pairs_take_n_times_n_minus_1_prompts(n):
    for paradigm in (Pairwise(), Pairwise(mode="scoring", aggregation="sym_sum")):
        assert counts(paradigm, shuffles(n, 2)) == [n * (n - 1)] * 2


@pytest.mark.parametrize(("n", "k"), [(100, 10), (100, 1), (20, 10), (5, 10), (2, 1), (1, 1)])
def test_sliding_takes_two_prompts_a_pair_and_stops_at_the_settled_top(n, k):
    # 100 documents, 10 passes: 2 (99 + 98 + ... + 90) = 1,890; one pass: 198
    expected = 2 * sum(n - 1 - p for p in range(min(k, n)))
    assert counts(Pairwise("sliding", k=k), shuffles(n, 1)) == [expected]
    assert n != 100 or expected == {10: 1890, 1: 198}[k]


@pytest.mark.parametrize(("n", "k"), [(100, 10), (100, None), (37, 5), (2, 10)])
def test_pairwise_heapsort_stays_within_its_bound(n, k):
    # Building compares at most twice a level over all heights, which sum to less than n; each of the k - 1 further
    # extractions at most twice a level; each comparison is two prompts.
    most = 4 * (n + ((k or n) - 1) * int(math.log2(n)))
    found = counts(Pairwise("heapsort", k=k), shuffles(n, 5))
    assert max(found) <= most
    assert min(found) >= 2 * (n - 1)  # everything but the root has lost once


@pytest.mark.parametrize(
    ("n", "window", "stride", "spans"),
    [
        (100, 20, 10, [(80, 100), (70, 90), (60, 80), (50, 70), (40, 60), (30, 50), (20, 40), (10, 30), (0, 20)]),
        (95, 20, 10, [(75, 95), (65, 85), (55, 75), (45, 65), (35, 55), (25, 45), (15, 35), (5, 25), (0, 15)]),
        (30, 20, 10, [(10, 30), (0, 20)]),
        (25, 20, 10, [(5, 25), (0, 15)]),
        (20, 20, 10, [(0, 20)]),
        (10, 20, 10, [(0, 10)]),
    ],
)
def test_the_windows_of_the_published_loop(n, window, stride, spans):
    assert windows(n, window, stride) == spans
    for paradigm in (Listwise(window=window, stride=stride), FirstToken(window=window, stride=stride)):
        assert counts(paradigm, shuffles(n, 1)) == [len(spans)]
    assert counts(FirstToken(window=window, stride=stride, passes=3), shuffles(n, 1)) == [3 * len(spans)]


def test_ten_documents_a_window_take_19_windows_of_100():
    assert counts(Listwise(window=10, stride=5), shuffles(100, 1)) == [19]


@pytest.mark.parametrize(("children", "mean"), [(19, 23.3), (9, 31.4), (3, 81.8)])
def test_setwise_heapsort_takes_the_published_number_of_calls(children, mean):
    # 100 documents in random order, k = 10. Over 2,000 orders the standard deviation of a count is about 1; over 60 the
    # mean is within 4 / sqrt(60) = .5.
    found = counts(Setwise(children=children), shuffles(100, 60))
    assert statistics.mean(found) == pytest.approx(mean, abs=0.5)
    assert children != 19 or max(found) <= 25


@pytest.mark.parametrize("children", [1, 2, 3, 9, 19])
@pytest.mark.parametrize("n", [1, 2, 3, 11, 40])
def test_setwise_counts_equal_those_of_a_simulation(n, children):
    for ex in shuffles(n, 4):
        grades = list(ex.qrels.values())
        assert counts(Setwise(children=children), [ex]) == [heapsort_calls(grades, 10, children)]
        assert counts(Setwise("bubblesort", children=children), [ex]) == [bubblesort_calls(grades, 10, children)]


def test_every_permutation_of_a_set_is_a_prompt():
    [ex] = shuffles(30, 1)
    assert counts(Setwise(permutations=5), [ex]) == [5 * heapsort_calls(list(ex.qrels.values()), 10, 3)]


@pytest.mark.parametrize(
    "paradigm",
    [
        Pointwise(),
        Groupwise(),
        Listwise(window=20, stride=10),
        FirstToken(window=20, stride=10),
        FirstToken(window=10, stride=5, passes=2),
        Pairwise(),
        Pairwise(mode="scoring"),
        Pairwise(mode="scoring", aggregation="sym_sum"),
        Pairwise("heapsort"),
        Pairwise("sliding"),
        Setwise(),
        Setwise(mode="scoring", permutations=3),
        Setwise("bubblesort"),
        Setwise(children=19, labels="numbers", reasoning=True),
    ],
    ids=str,
)
def test_an_oracle_without_errors_recovers_the_ideal_top_ten(paradigm):
    rng = random.Random(5)
    asked = [example(rng.choices((0, 1, 2, 3), (12, 4, 2, 2), k=45), qid=str(i)) for i in range(4)]
    for ex, ranking in zip(asked, ranked(paradigm, asked), strict=True):
        assert ndcg(ranking.docids, ex.qrels, k=10) == pytest.approx(1.0)
        assert (ranking.num_malformed, ranking.num_fallbacks) == (0, 0)
