"""Whatever a model writes: parsing never raises, and never invents or loses a document."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_rerank import registry
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.types import Candidate, Completion, RankingExample, Status

PARADIGMS = [
    # A pipeline has no parser of its own.
    *(registry.build("paradigm", name, {}) for name in registry.names("paradigm") if name != "pipeline"),
    Listwise(reasoning=True),
    Listwise(window=None, complete=False),
    Groupwise(reasoning=True, think_open=True),
    PointwiseGraded(reasoning=True),
    PointwiseGraded(rule="weighted"),
    PointwiseGraded(rule="weighted", reasoning=True),
]
EXAMPLE = RankingExample("q", "query", tuple(Candidate(f"d{i}", "text") for i in range(4)), {"d1": 2, "d2": 1})

# Any code point, lone surrogates too; and pieces of answers, so that much of what is made nearly reads.
CHARACTERS = st.text(st.characters(exclude_categories=()), max_size=12)
WORDS = (
    '<think> </think> <answer> </answer> [1] [2] [3] [4] [0] [99999999999] > yes No A B { } " : , "[1]":7 "[2]":1e999'
)
ODD = (
    "7",
    "10",
    "-3",
    "2.5",
    "/10",
    "score: ",
    " > ",
    "\n",
    "\uff3b1\uff3d",
    "\u0661",
    "NaN",
    "null",
    "[" * 50,
    "9" * 50,
)
PIECES = st.sampled_from([*WORDS.split(), *ODD])
TEXTS = st.lists(CHARACTERS | PIECES, max_size=20).map("".join)


@st.composite
def completions(draw):
    """A completion whose tokens, where they are given, tile its text in pieces of any size."""
    text = draw(TEXTS)
    reason = draw(st.sampled_from(["stop", "length"]))
    cuts = draw(st.none() | st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    if cuts is None:
        return Completion(text, finish_reason=reason)
    ends = (*cuts, len(text), len(text))
    logprobs = draw(st.none() | st.just(tuple(-0.1 * i for i in range(len(ends)))))
    return Completion(text, tuple(range(len(ends))), reason, logprobs, draw(st.none() | st.just(ends)))


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(completion=completions(), seed=st.integers(0, 9))
def test_parsing_never_raises_and_never_invents_or_loses_a_document(paradigm, completion, seed):
    [prompt, *_] = paradigm.prompts(EXAMPLE, random.Random(seed))
    strict = paradigm.parse(prompt, completion, strict=True)
    lenient = paradigm.parse(prompt, completion, strict=False)
    assert strict.status != Status.repaired
    assert bool(strict.scores) == strict.is_ok and not (strict.is_ok and strict.issues)
    assert bool(lenient.scores) == (lenient.status in (Status.ok, Status.repaired))
    for judgment in (strict, lenient):
        assert set(judgment.scores) in (set(), set(prompt.docids))
        assert all(math.isfinite(score) for score in judgment.scores.values())
        assert judgment.is_ok or judgment.issues
        assert all(len(issue.place) <= 80 for issue in judgment.issues)


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(before=CHARACTERS, after=CHARACTERS, seed=st.integers(0, 9))
def test_what_stands_around_an_answer_changes_its_status_but_not_its_documents(paradigm, before, after, seed):
    [prompt, *_] = paradigm.prompts(EXAMPLE, random.Random(seed))
    target = paradigm.target(EXAMPLE, prompt)
    judgment = paradigm.parse(prompt, Completion(f"{before}{target}{after}"), strict=False)
    assert set(judgment.scores) in (set(), set(prompt.docids))
    if not (before.strip() or after.strip()):
        assert paradigm.parse(prompt, Completion(f"{before}{target}{after}"), strict=True).is_ok
