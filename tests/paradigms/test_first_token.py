import random

import pytest

from rl_rerank.engines.oracle import Oracle
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.driver import rerank
from rl_rerank.training.exact.lists import reading
from rl_rerank.types import Candidate, Completion, RankingExample


def example(grades):
    """Documents d1.. in this order, with these grades."""
    candidates = tuple(Candidate(f"d{i}", f"grade {g}") for i, g in enumerate(grades, start=1))
    return RankingExample("q", "query", candidates, {f"d{i}": g for i, g in enumerate(grades, start=1)})


def test_letters_are_scored_and_nothing_is_generated():
    def generate(prompt):
        raise AssertionError("first_token was asked to write")

    logprobs = {"A": -3.0, "B": -1.0, "C": -2.0, "D": -0.5}
    ex = example([0, 0, 0])
    [ranking], [rollout] = rerank([ex], FirstToken(window=4), Scripted(generate, lambda p, letter: logprobs[letter]))
    # D is likely, and shown to nobody: three documents have the letters A to C
    assert ranking.docids == ("d2", "d3", "d1")
    assert dict(rollout.judgment.scores) == {"d1": -3.0, "d2": -1.0, "d3": -2.0}


@pytest.mark.parametrize(("passes", "order"), [(1, "4132"), (2, "4312"), (3, "4321")])
def test_windows_slide_from_the_back_as_often_as_asked(passes, order):
    # grades [1 3 2 4], windows of two: a pass carries the best to the front
    # pass 1: 1 3 (4 2) -> 1 (4 3) 2 -> (4 1) 3 2; pass 2: 4 1 (3 2) -> 4 (3 1) 2; pass 3: 4 3 (2 1)
    ex = example([1, 3, 2, 4])
    paradigm = FirstToken(window=2, stride=1, passes=passes)
    [ranking], _ = rerank([ex], paradigm, engine := Oracle([ex], paradigm.target))
    assert "".join(str(ex.qrels[docid]) for docid in ranking.docids) == order
    assert engine.batch_sizes == [1] * 3 * passes


def test_the_prompt_shows_letters_and_the_target_begins_with_the_best_one():
    ex = example([0, 2, 1])
    prompt = FirstToken().prompt(ex, ex.docids)
    text = "".join(segment.text for message in prompt.messages for segment in message.segments)
    assert text.endswith(
        "Query: query\n[A] grade 0\n[B] grade 2\n[C] grade 1\nAnswer with all letters, most relevant first, like B > A."
    )
    assert FirstToken().target(ex, prompt) == "B > C > A"


def test_a_written_answer_is_read_as_an_order():
    ex = example([0, 2, 1, 0, 1])
    paradigm = FirstToken(window=5)
    [prompt] = paradigm.prompts(ex, random.Random(3))
    judgment = paradigm.parse(prompt, Completion(paradigm.target(ex, prompt)), strict=True)
    assert judgment.is_ok and next(iter(judgment.scores)) == "d2"
    assert len(paradigm.target(ex, prompt)) < paradigm.max_completion_tokens
    assert paradigm.prompts(example([1, 1]), random.Random(0)) == []


def test_a_letter_is_one_token_where_an_answer_begins(any_tokenizer):
    renderer = Renderer(any_tokenizer, max_prompt_tokens=400)
    ids = [renderer.continuation_ids(letter) for letter in FirstToken(window=26).continuations]
    assert all(len(letter) == 1 for letter in ids) and len(set(ids)) == 26
    ex = example([0, 1])
    prompt = renderer(FirstToken().prompt(ex, ex.docids))
    if prompt.text.endswith("\n"):  # elsewhere a space may join the letter
        assert tuple(any_tokenizer.encode(prompt.text + "B", add_special_tokens=False)) == (*prompt.token_ids, *ids[1])


def test_letters_in_brackets_are_scored_behind_the_opening_one():
    logprobs = {"[A": -3.0, "[B": -1.0, "[C": -2.0, "[D": -0.5}
    ex = example([0, 2, 1])
    paradigm = FirstToken(window=4, labels="bracketed")
    [ranking], _ = rerank([ex], paradigm, Scripted(lambda p: "", lambda p, text: logprobs[text]))
    assert ranking.docids == ("d2", "d3", "d1")
    prompt = paradigm.prompt(ex, ex.docids)
    text = "".join(segment.text for message in prompt.messages for segment in message.segments)
    assert text.endswith("[C] grade 1\nAnswer with all letters, most relevant first, like [B] > [A].")
    assert (answer := paradigm.target(ex, prompt)) == "[B] > [C] > [A]"
    assert len(answer) < FirstToken(window=3, labels="bracketed").max_completion_tokens
    assert paradigm.parse(prompt, Completion(answer), strict=True).ids == (2, 3, 1)
    assert not paradigm.parse(prompt, Completion("B > C > A"), strict=True).is_ok
    assert paradigm.parse(prompt, Completion("B > C > A"), strict=False).ids == (2, 3, 1)


def test_a_letter_is_one_token_behind_a_bracket(any_tokenizer):
    renderer = Renderer(any_tokenizer, max_prompt_tokens=400)
    paradigm = FirstToken(window=26, labels="bracketed")
    read = reading(paradigm, renderer)
    assert len(read.opening) == 1 and len(set(read.ids)) == 26
    # Answers are tokenised alike: what is trained is what is scored.
    ex = example([0, 1])
    answer = renderer.continuation_ids(paradigm.target(ex, paradigm.prompt(ex, ex.docids)))
    assert answer[:2] == (*read.opening, read.ids[1])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"window": 27}, "window must be at most 26"),
        ({"stride": 21}, "stride must be from 1 to window=20"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"labels": "numbers"}, "labels must be one of letters, bracketed; got 'numbers'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        FirstToken(**params)
