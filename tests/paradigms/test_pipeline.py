"""Paradigms one after another."""

import random

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.ranking.driver import rerank, shuffled
from rl_rerank.types import Candidate, RankingExample

GRADES = {"d1": 0, "d2": 1, "d3": 3, "d4": 0, "d5": 2}
EXAMPLE = RankingExample("q", "query", tuple(Candidate(d, f"text {d}", rank=i) for i, d in enumerate(GRADES, start=1)))


def oracle(rates=GRADES, orders=GRADES):
    """Scores documents by `rates`, orders lists by `orders`."""

    def answer(prompt):
        best = sorted(range(1, len(prompt.docids) + 1), key=lambda i: -orders[prompt.docids[i - 1]])
        return " > ".join(f"[{i}]" for i in best)

    return Scripted(answer, lambda p, text: rates[p.docids[0]] if text == "yes" else 0.0)


def test_each_stage_reorders_the_top_of_the_order_that_the_last_one_left():
    # pointwise, by rates 1..5: d5 d4 d3 d2 d1; the list of its top 3, by grades d5 = 2, d4 = 0, d3 = 3: d3 d5 d4
    rates = {d: float(i) for i, d in enumerate(GRADES)}
    engine = oracle(rates)
    two = Pipeline([{"paradigm": "pointwise"}, {"paradigm": "listwise", "depth": 3, "params": {"window": 3}}])
    [ranking], rollouts = rerank([EXAMPLE], two, engine, shuffle_seed=4)
    assert ranking.docids == ("d3", "d5", "d4", "d2", "d1")
    assert rollouts[-1].prompt.docids == ("d5", "d4", "d3")
    # 5 prompts about one document each, 1 about a list
    assert (engine.batch_sizes, ranking.num_prompts, ranking.num_fallbacks) == ([5, 1], 6, 0)
    assert [r.prompt.paradigm for r in rollouts] == ["pointwise"] * 5 + ["listwise"]
    assert list(ranking.scores.values()) == [5, 4, 3, 2, 1]


def test_the_first_stage_of_a_pipeline_takes_the_top_of_the_retrieved_order_in_whatever_order_it_is_shown():
    shown = shuffled(EXAMPLE, 1)
    assert shown.docids[:2] != EXAMPLE.docids[:2]
    [ranking], rollouts = rerank([shown], Pipeline([{"paradigm": "pointwise", "depth": 2}]), oracle())
    assert {r.prompt.docids for r in rollouts} == {("d1",), ("d2",)}
    assert ranking.docids == ("d2", "d1", "d3", "d4", "d5")


def test_counters_add_up_and_two_stages_of_one_paradigm_have_parsers_of_their_own():
    listwise = {"paradigm": "listwise", "params": {"window": 5}}
    thinking = {"paradigm": "listwise", "depth": 2, "params": {"window": 2, "reasoning": True}}
    engine = Scripted(lambda p: "[5] > [4] > [3] > [2] > [1]")
    [ranking], rollouts = rerank([EXAMPLE], Pipeline([listwise, thinking]), engine)
    # the second asks for an <answer> block, and gets none
    assert ranking.docids == ("d5", "d4", "d3", "d2", "d1")
    assert [r.prompt.paradigm for r in rollouts] == ["listwise", "listwise#2"]
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks) == (2, 1, 1)


def test_documents_that_a_later_stage_cannot_score_stay_between_their_neighbours_of_the_stage_before(groups_in_order):
    # listwise: d3 d5 d2 d1 d4; groups (d3 d5) (d2 d1) (d4) score 2 8 | failed | 5: from d5 to d4 the line 8 7 6 5
    answers = {"d3": '{"[1]": 2, "[2]": 8}', "d2": "none", "d4": '{"[1]": 5}'}
    engine = Scripted(lambda p: answers[p.docids[0]] if p.paradigm == "groupwise" else "[3] > [5] > [2] > [1] > [4]")
    stages = [{"paradigm": "listwise", "params": {"window": 5}}, {"paradigm": "groupwise", "params": {"size": 2}}]
    [ranking], _ = rerank([EXAMPLE], Pipeline(stages), engine)
    assert ranking.docids == ("d5", "d2", "d1", "d4", "d3")


def test_a_pipeline_has_nothing_to_train_or_to_export():
    pipeline = Pipeline([{"paradigm": "pointwise"}, {"paradigm": "listwise"}])
    for ask in (
        lambda: pipeline.prompts(EXAMPLE, random.Random(0)),
        lambda: pipeline.prompt(EXAMPLE, EXAMPLE.docids),
        lambda: pipeline.target(EXAMPLE, None),
    ):
        with pytest.raises(ValueError, match=r"a pipeline \(pointwise, listwise\) has no prompt of its own"):
            ask()


@pytest.mark.parametrize(
    ("stages", "kind", "reason"),
    [
        ([], ValueError, "stages must be a list of at least one stage"),
        ([{"depth": 3}], ValueError, "stage 1 must be a mapping with a paradigm"),
        (
            [{"paradigm": "pointwise"}, {"paradigm": "listwise", "depth": 1}],
            ValueError,
            "stage 2: depth must be at least 2",
        ),
        ([{"paradigm": "pointwise", "dept": 3}], ValueError, "stage 1 has no setting 'dept'"),
        ([{"paradigm": "pipeline"}], ValueError, "stage 1 is a pipeline itself"),
        ([{"paradigm": "pointwize"}], LookupError, "no paradigm is named 'pointwize'"),
        ([{"paradigm": "listwise", "params": {"windw": 3}}], ValueError, "has no parameter 'windw'"),
    ],
)
def test_a_pipeline_that_cannot_run_is_refused_when_it_is_built(stages, kind, reason):
    with pytest.raises(kind, match=reason):
        Pipeline(stages)
