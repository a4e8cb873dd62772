"""Log-probabilities that overflowed: an issue of the answer in every paradigm, and never a score."""

import math

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import END, Candidate, Completion, Prompt, RankingExample

EXAMPLE = RankingExample("q", "x", tuple(Candidate(f"d{i}", f"text {i}", rank=i + 1) for i in range(5)), {})
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
SCORING = [
    Pointwise(),
    PointwiseGraded(rule="expected"),
    FirstToken(window=3),
    Setwise(mode="scoring", children=2),
    Setwise(mode="scoring", labels="numbers"),
    Pairwise(mode="scoring"),
    Pairwise(mode="scoring", aggregation="sym_sum"),
    Pairwise(mode="scoring", method="heapsort"),
    Pipeline(stages=[{"paradigm": "pointwise"}, {"paradigm": "first_token", "depth": 3}]),
]


@BAD
@pytest.mark.parametrize("paradigm", SCORING, ids=str)
def test_answers_that_are_not_finite_are_counted_and_give_no_score(paradigm, bad, caplog):
    def score(prompt, continuation):
        """One answer is lost wherever d1 or d3 is shown."""
        is_lost = {"d1", "d3"} & {*prompt.docids}
        first = continuation in (paradigm.continuations[:1] or ("yes", "A"))
        return bad if is_lost and first else -float(continuation.startswith(("no", "B")))

    [ranking], rollouts = rerank([EXAMPLE], paradigm, Scripted(lambda _: "", score))
    lost = [r for r in rollouts if {"d1", "d3"} & {*r.prompt.docids}]
    assert lost and all(kinds(r.judgment) == ["not_finite"] for r in lost)
    assert ranking.num_malformed == ranking.num_fallbacks == len(lost)
    assert {*ranking.docids} == {*EXAMPLE.docids}
    values = [*ranking.scores.values(), *(ranking.raw_scores or {}).values()]
    assert all(map(math.isfinite, values))
    [warning] = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    assert f"{len(lost)} of {len(rollouts)} answers" in warning and "model.dtype=float16" in warning


def kinds(judgment):
    return [issue.kind for issue in judgment.issues]


@BAD
@pytest.mark.parametrize("strict", [True, False])
def test_a_score_whose_probability_is_not_finite_is_none(bad, strict):
    paradigm = PointwiseGraded(rule="weighted")
    prompt = paradigm.prompt(EXAMPLE, ["d0"])
    completion = Completion("7", (7, 2), "stop", (bad, -0.1), (1, 1))
    judgment = paradigm.parse(prompt, completion, strict=strict)
    assert not judgment.scores and kinds(judgment) == ["not_finite"]


@pytest.mark.parametrize(
    ("paradigm", "text"),
    [(Listwise(), "[2] > [1]"), (Groupwise(), '{"[1]": 1, "[2]": 2}'), (Setwise(), "B"), (FirstToken(), "B > A")],
    ids=str,
)
def test_a_text_written_under_nan_is_no_answer(paradigm, text):
    prompt = Prompt("q", ("d0", "d1"), (), paradigm.name)
    assert paradigm.parse(prompt, Completion(text, (1, 2), "stop", (-1.0, -2.0)), strict=True).is_ok
    for strict in (True, False):
        for lost in ((-1.0, math.nan), (math.inf, -math.inf)):
            judgment = paradigm.parse(prompt, Completion(text, (1, 2), "stop", lost), strict=strict)
            assert not judgment.scores and kinds(judgment) == ["not_finite"]


def test_letters_without_a_document_may_have_no_probability():
    paradigm = FirstToken(window=4)
    values = {"A": -1.0, "B": -2.0, "C": -math.inf, "D": -math.inf}
    completion = Completion("", finish_reason="score", continuations=values)
    judgment = paradigm.parse(paradigm.prompt(EXAMPLE, ["d0", "d1"]), completion, strict=False)
    assert judgment.scores == {"d0": -1.0, "d1": -2.0}


def test_the_lost_answer_is_named():
    paradigm = PointwiseGraded(rule="expected", max_score=1)
    values = {f"0{END}": -1.0, f"1{END}": math.nan}
    prompt = paradigm.prompt(EXAMPLE, ["d0"])
    [issue] = paradigm.parse(prompt, Completion("", continuations=values), strict=False).issues
    assert "nan" in issue.place and "'1" in issue.place
