"""A model that thinks where no reasoning was asked for, or that does not end its thought."""

import math
from dataclasses import replace

import pytest

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.types import Completion, Prompt, Status

# Paradigm, an answer, and a draft that alone would be read as another one.
PLAIN = [
    (Pointwise(), "no", "yes"),
    (PointwiseGraded(), "2", "9"),
    (PointwiseGraded(), "Score: 2", "Score: 9"),
    (Pairwise(), "B", "[A]"),
    (Setwise(), "B", "[A]"),
    (Setwise(labels="numbers"), "[2]", "[1]"),
    (FirstToken(), "B > A", "A > B"),
    (Listwise(), "[2] > [1]", "[1] > [2]"),
    (Groupwise(), '{"[1]": 2, "[2]": 7}', '{"[1]": 10, "[2]": 1}'),
]
REASONING = [
    (PointwiseGraded(reasoning=True), "2", "9"),
    (Pairwise(reasoning=True), "B", "A"),
    (Setwise(reasoning=True), "B", "A"),
    (Listwise(reasoning=True), "[2] > [1]", "[1] > [2]"),
    (Groupwise(reasoning=True), '{"[1]": 2, "[2]": 7}', '{"[1]": 10, "[2]": 1}'),
]


def prompt_of(paradigm):
    return Prompt("q", ("a", "b")[: 1 if "pointwise" in paradigm.name else 2], (), paradigm.name)


def read(paradigm, text, *, strict=False, finish="stop"):
    return paradigm.parse(prompt_of(paradigm), Completion(text, finish_reason=finish), strict=strict)


def kinds(judgment):
    return [issue.kind for issue in judgment.issues]


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\n{}\n</think>\n\n",
        "{}\n</think>\n",
        "<think>{}</think><think>{}</think> ",
        "<THINK>{}</Think>\n",
        "[THINK]{}[/THINK]",
        "<thinking>{}</thinking>\n",
        "<thought>\n{}\n</thought>\n",
        "{}</thought>",
        "<reasoning>{}</reasoning>",
        "<analysis type='short'>{}</analysis >",
        "<think>{}<think>a</think>{}</think>",
        "<think>{}<think/>",
        "<think />",
        "◁think▷{}◁/think▷",
        "<|begin_of_thought|>{}<|end_of_thought|>",
        "<|START_THINKING|>{}<|END_THINKING|>",
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    ],
)
@pytest.mark.parametrize(("paradigm", "answer", "draft"), PLAIN, ids=str)
def test_without_reasoning_the_answer_is_what_stands_behind_the_last_thought(paradigm, answer, draft, thought):
    text = thought.replace("{}", draft) + answer
    judgment = read(paradigm, text)
    assert judgment.scores == read(paradigm, answer).scores != read(paradigm, draft).scores
    assert judgment.status is Status.repaired and "thought_before_answer" in kinds(judgment)
    strict = read(paradigm, text, strict=True)
    assert not strict.scores and not strict.is_ok


@pytest.mark.parametrize(
    "text",
    [
        "<think>\n{}",
        "<think>hm</think> {} <think>",
        "[THINK]{}",
        "<think>a</think><think>{}",
        "<think>a<think>{}",
        "<thought>\n{}",
        "<|START_THINKING|>{}",
        "<|channel|>analysis<|message|>{}",
    ],
)
@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(("paradigm", "answer", "draft"), PLAIN, ids=str)
def test_without_reasoning_an_open_thought_is_no_answer(paradigm, answer, draft, text, finish):
    judgment = read(paradigm, text.replace("{}", answer), finish=finish)
    assert not judgment.scores and "open_thought" in kinds(judgment)


@pytest.mark.parametrize("text", ["<think>{}", "<think>a</think><think>{}", "<think>a</think>{}<think>b"])
@pytest.mark.parametrize(("paradigm", "answer", "draft"), REASONING, ids=str)
def test_with_reasoning_an_open_thought_is_no_answer(paradigm, answer, draft, text):
    block = f"<answer>{answer}</answer>"
    assert read(paradigm, f"<think>{draft}</think>{block}").is_ok
    judgment = read(paradigm, text.replace("{}", block))
    assert not judgment.scores and "open_thought" in kinds(judgment)


def test_a_score_is_weighted_by_the_tokens_behind_the_thought():
    paradigm = PointwiseGraded(rule="weighted")
    tokens = ["<think>", "9", "</think>", "\n", "2", "<end>"]
    ends, place = [], 0
    for token in [*tokens[:-1], ""]:
        place += len(token)
        ends.append(place)
    logprobs = tuple(math.log(p) for p in (0.9, 0.1, 0.9, 0.9, 0.5, 0.8))
    completion = Completion("".join(tokens[:-1]), tuple(range(6)), "stop", logprobs, tuple(ends))
    judgment = paradigm.parse(prompt_of(paradigm), completion, strict=False)
    assert judgment.scores["a"] == pytest.approx(2 * 0.5 * 0.8)  # the score's own token, and the end behind it
    # Without places it is not known which tokens are the score's.
    unplaced = paradigm.parse(prompt_of(paradigm), replace(completion, token_ends=None), strict=False)
    assert not unplaced.scores and "no_probability" in kinds(unplaced)
