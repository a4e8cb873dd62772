"""The weight of a fusion that is chosen on development queries."""

import pytest

from rl_rerank.evaluation.fusion_weight import WEIGHTS, choose
from rl_rerank.evaluation.measures import evaluate
from rl_rerank.evaluation.records import Metrics, RunRow
from rl_rerank.evaluation.table import table, weight_sentences
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.ranking.fusion import fuse
from rl_rerank.types import Candidate, Ranking, RankingExample

QRELS = {"q1": {"a": 1}, "q2": {"a": 1}}


def rankings(*scores: dict[str, float]) -> dict[str, Ranking]:
    candidates = tuple(Candidate(docid, docid) for docid in "abc")
    return {
        f"q{n}": rank_by_scores(
            RankingExample(f"q{n}", "query", candidates), s, num_prompts=0, num_malformed=0, num_fallbacks=0
        )
        for n, s in enumerate(scores, start=1)
    }


def test_the_best_weight_by_hand():
    # q1: the first has a in front by 1, the second b by 2. With sums a wins from w * 1 > (1 - w) * 2, w > 2/3.
    # q2: the first has b in front by 4, the second a by 1: a wins while w * 4 < (1 - w) * 1, w < .2.
    # Both orders of a pair: reciprocal rank 1 or 1/2. w < .2: (1/2 + 1)/2; .2 < w < 2/3: 1/2; w > 2/3: (1 + 1/2)/2.
    first = rankings({"a": 1.0, "b": 0.0, "c": -9.0}, {"a": 0.0, "b": 4.0, "c": -9.0})
    second = rankings({"a": 0.0, "b": 2.0, "c": -9.0}, {"a": 1.0, "b": 0.0, "c": -9.0})
    chosen = choose(first, second, QRELS, method="sum", measure="RR@10", runs=["x", "y"])
    expected = [0.75 if w < 0.2 or w > 2 / 3 else 0.5 for w in WEIGHTS]
    assert [v for w, v in zip(WEIGHTS, chosen.values, strict=True) if w != 0.2] == pytest.approx(
        [v for w, v in zip(WEIGHTS, expected, strict=True) if w != 0.2]
    )
    # .70 is .20 from the middle, .15 is .35 away
    assert (chosen.weight, chosen.num_queries, chosen.runs) == (0.7, 2, ["x", "y"])


def test_values_are_the_evaluators_and_unanswered_queries_count_0():
    first = rankings({"a": 0.3, "b": 0.9, "c": 0.5}, {"a": 2.0, "b": 1.0, "c": 7.0})
    second = rankings({"a": 5.0, "b": 1.0, "c": 4.0}, {"a": 3.0, "b": 9.0, "c": 1.0})
    qrels = {**QRELS, "q3": {"a": 1}}
    chosen = choose(first, second, qrels, method="zscore", measure="nDCG@10", runs=["x", "y"])
    for weight, value in zip(WEIGHTS, chosen.values, strict=True):
        run = {qid: dict(fuse(first[qid], second[qid], "zscore", weight).scores) for qid in first}
        assert value == evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"]
    assert max(chosen.values) == chosen.values[WEIGHTS.index(chosen.weight)] < 1
    assert chosen.num_queries == 3


def test_the_table_says_what_was_chosen_and_by_what_but_a_page_shows_no_values_of_few_queries():
    few = choose(rankings({"a": 1.0}), rankings({"b": 1.0}), QRELS, method="rrf", measure="RR@10", runs=["x", "y"])
    row = RunRow(run="fused", label="MiniLM + BM25", mean={"RR@10": 0.5})
    metrics = Metrics(measures=["RR@10"], rows=[row], weights={"fused": few})
    [sentence] = weight_sentences(metrics, is_page=False)
    assert sentence.startswith(
        f"MiniLM + BM25: weight {few.weight:.2f} (rrf), chosen on 2 development queries of x and y. RR@10 on dev by "
    )
    assert f"0.00: {few.values[0]:.4f}, 0.05: {few.values[1]:.4f}, " in sentence
    assert f"- {sentence}" in table(metrics).splitlines()
    [shown] = weight_sentences(metrics, is_page=True)
    assert shown.endswith("of x and y. 2 queries: too few to compare.")
    assert Metrics.from_json(metrics.to_json()).weights["fused"].weight == few.weight
    assert "weights" not in Metrics(measures=["RR@10"], rows=[row]).to_json()
