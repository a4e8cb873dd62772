import random
import re
import time
from dataclasses import replace

import pytest

from rl_rerank.paradigms.answers import find_answer, thought, written
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample, Status

PARADIGMS = [
    Pointwise(),
    Listwise(window=2),
    Listwise(window=2, reasoning=True),
    Groupwise(size=2),
    Groupwise(size=2, reasoning=True),
    PointwiseGraded(),
    PointwiseGraded(reasoning=True),
    Pairwise(),
    Pairwise(reasoning=True),
    Setwise(),
    Setwise(labels="numbers", reasoning=True),
    FirstToken(),
]
REASONING = [
    Listwise(window=2, reasoning=True, think_open=True),
    Groupwise(size=2, reasoning=True, think_open=True),
    PointwiseGraded(reasoning=True, think_open=True),
]
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "[1]",
    "[2]",
    " > ",
    "yes",
    "no",
    "A",
    "[B]",
    "Passage ",
    "{",
    "}",
    '"',
    ": ",
    "7",
    "\x00",
]


def kinds(answer):
    return [issue.kind for issue in answer.issues]


@pytest.mark.parametrize(
    ("text", "found", "issues"),
    [
        ("<think>a</think><answer>x</answer>", "x", []),
        ("a</think>\n<answer>\nx\n</answer>\n", "\nx\n", []),
        ("<answer>quoted</answer></think><answer>x</answer>", "x", []),
        ("</think><answer></answer>", "", []),
        ("</think>a<answer>x</answer>b", "x", ["text_outside_answer"]),
        ("</think><answer>x</answer><answer>y</answer>", "y", ["several_answer_blocks"]),
        ("</think><answer>x</answer></answer>", "x", ["text_outside_answer"]),
        ("</think><answer>x</answer><answer>", "x", ["text_outside_answer"]),
        ("<answer>x</answer>", "x", ["no_think_end"]),
        ("</think>x", "x", ["no_answer_block"]),
        ("</think>x<answer>y", "y", ["no_answer_block"]),
        ("</think><Answer>x</ANSWER>", "x", ["inexact_answer_tags"]),
        ("</think> ", None, ["no_answer_block"]),
        ("x", None, ["no_think_end", "no_answer_block"]),
        ("", None, ["no_think_end", "no_answer_block"]),
    ],
)
def test_the_answer_with_reasoning(text, found, issues):
    lenient = find_answer(Completion(text), reasoning=True, strict=False)
    assert (lenient.text, kinds(lenient)) == (found, issues)
    assert find_answer(Completion(text), reasoning=True, strict=True).text == (None if issues else found)


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_a_completion_that_was_cut_is_malformed_in_strict_mode(paradigm):
    docids = ("a", "b")[: 1 if "pointwise" in paradigm.name else 2]
    example = RankingExample("q", "query", tuple(Candidate(d, "text") for d in docids), {"a": 1})
    prompt = paradigm.prompt(example, docids)
    cut = Completion(paradigm.target(example, prompt), finish_reason="length")
    judgment = paradigm.parse(prompt, cut, strict=True)
    assert judgment.status in (Status.tags, Status.answer) and not judgment.scores
    assert "truncated" in {issue.kind for issue in judgment.issues}
    assert paradigm.parse(prompt, cut, strict=False).status == Status.repaired


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_no_text_is_too_odd_to_be_parsed(paradigm):
    rng = random.Random(11)
    docids = ("a", "b")[: 1 if "pointwise" in paradigm.name else 2]
    prompt = Prompt("q", docids, ())
    for _ in range(3000):
        completion = Completion("".join(rng.choices(PIECES, k=rng.randint(0, 12))))
        strict = paradigm.parse(prompt, completion, strict=True)
        lenient = paradigm.parse(prompt, completion, strict=False)
        assert strict.status != Status.repaired
        assert (strict.status == Status.ok) == (lenient.status == Status.ok)
        assert set(strict.scores) == (set(docids) if strict.is_ok else set())
        assert set(lenient.scores) in (set(), set(docids))
        assert all(len(issue.place) <= 80 for issue in (*strict.issues, *lenient.issues))


@pytest.mark.parametrize(
    "text", ["</think>" + "<answer>" * 20_000, "</answer>" * 20_000, "[1] > " * 20_000, "1 " * 50_000, "[ " * 50_000]
)
@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_long_texts_are_parsed_in_a_moment(paradigm, text):
    docids = ("a", "b")[: 1 if "pointwise" in paradigm.name else 2]
    before = time.process_time()
    paradigm.parse(Prompt("q", docids, ()), Completion(text), strict=False)
    assert time.process_time() - before < 2  # a backtracking expression takes a minute


def test_the_thought_names_shared_words_and_is_short():
    candidates = (Candidate("a", "about ice"), Candidate("b", "glacier caves form in ice", "Caves"))
    example = RankingExample("q", "how are glacier caves formed?", candidates, {"b": 1})
    assert thought(example, ("a", "b")) == (
        "The query is about how are glacier caves formed. Passage 2 mentions glacier, caves."
    )
    assert thought(example, ("a", "b"), "xyz".__getitem__).endswith("Passage z mentions glacier, caves.")
    for docid, said in (("a", "shares no word with the query"), ("b", "mentions glacier, caves")):
        assert thought(example, (docid,)) == f"The passage {said}."
    long = RankingExample("q", " ".join(f"word{i}" for i in range(50)), candidates, {"a": 1, "b": 1})
    assert len(thought(long, ("a", "b")).split()) <= 30


def test_the_thought_names_the_highest_grades_and_equal_ones_as_shown():
    candidates = (Candidate("a", "sum of numbers"), Candidate("b", "cosine weighted sum"), Candidate("c", "nothing"))
    example = RankingExample("q", "weighted cosine sum", candidates, {"a": 1, "b": 10, "c": 3})
    said = "The query is about weighted cosine sum. "
    assert (
        thought(example, "acb")
        == said + "Passage 3 mentions weighted, cosine, sum. Passage 2 answers it in other words."
    )
    alike = replace(example, qrels={"a": 2, "b": 2, "c": 2})
    assert thought(alike, "cab") == said + "Passage 1 answers it in other words. Passage 2 mentions sum."


@pytest.mark.parametrize(
    "paradigm",
    [Listwise(reasoning=True), Groupwise(reasoning=True), Setwise(reasoning=True), Pairwise(reasoning=True)],
    ids=str,
)
def test_the_first_passage_that_a_target_names_is_the_best_of_its_answer(paradigm):
    for seed in range(20):
        rng = random.Random(seed)
        docids = "ab" if paradigm.name == "pairwise" else "abcd"
        grades = dict(zip(docids, rng.sample(range(1, 11), len(docids)), strict=True))
        example = RankingExample("q", "ice", tuple(Candidate(d, "about ice") for d in docids), grades)
        prompt = paradigm.prompt(example, docids)
        target = paradigm.target(example, prompt)
        best = max(docids, key=grades.__getitem__)
        name = str(docids.index(best) + 1) if paradigm.name in ("listwise", "groupwise") else "ABCD"[docids.index(best)]
        assert re.findall(r"Passage (\w+)", target)[0] == name
        scores = paradigm.parse(prompt, Completion(target), strict=True).scores
        assert max(scores, key=scores.__getitem__) == best


def test_a_query_without_words_gives_no_broken_sentence():
    example = RankingExample("q", "?!", (Candidate("a", "ice"), Candidate("b", "fire")), {"b": 1})
    assert thought(example, ("a", "b")) == "Passage 2 answers it in other words."


@pytest.mark.parametrize("paradigm", REASONING, ids=str)
def test_where_the_prompt_opens_the_reasoning_the_target_begins_inside_it(paradigm):
    docids = ("a", "b")[: 1 if "pointwise" in paradigm.name else 2]
    example = RankingExample("q", "query", tuple(Candidate(d, "text") for d in docids), {"a": 1})
    prompt = paradigm.prompt(example, docids)
    target = paradigm.target(example, prompt)
    assert "<think>" not in target and target.count("</think>") == 1
    assert "<think>" + target == replace(paradigm, think_open=False).target(example, prompt)
    assert paradigm.parse(prompt, Completion(target), strict=True).is_ok


@pytest.mark.parametrize("paradigm", REASONING, ids=str)
def test_reasoning_that_was_cut_has_no_answer_whatever_it_quotes(paradigm):
    docids = ("a", "b")[: 1 if "pointwise" in paradigm.name else 2]
    example = RankingExample("q", "query", tuple(Candidate(d, "text") for d in docids), {"a": 1})
    prompt = paradigm.prompt(example, docids)
    block = paradigm.target(example, prompt).partition("</think>")[2]
    for text in (f"The form is {block}. Now", f"<think>The form is {block}. Now"):
        cut = Completion(text, finish_reason="length")
        for strict in (True, False):
            judgment = paradigm.parse(prompt, cut, strict=strict)
            assert judgment.status == Status.tags and not judgment.scores
            assert kinds(judgment)[:2] == ["truncated", "no_think_end"]
    ended = Completion(f"The form is clear. {block}")  # ended by the model, which only forgot the tag
    assert paradigm.parse(prompt, ended, strict=True).status == Status.tags
    assert paradigm.parse(prompt, ended, strict=False).status == Status.repaired


def test_the_written_form_is_read_back():
    for reasoning in (False, True):
        text = written("[1]", reasoning=reasoning, thought="because")
        assert find_answer(Completion(text), reasoning=reasoning, strict=True).text == "[1]"
