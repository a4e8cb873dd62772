import pytest

from rl_rerank.engines.base import Capability
from rl_rerank.engines.scripted import Scripted
from rl_rerank.types import Prompt, Sampling

PROMPTS = [Prompt("q1", ("a",), ()), Prompt("q2", ("b",), ())]


def test_answers_come_from_the_function_once_a_generation():
    engine = Scripted(lambda prompt: prompt.qid)
    answers = engine.generate(PROMPTS, Sampling(max_tokens=4, num_generations=2))
    assert [[c.text for c in completions] for completions in answers] == [["q1", "q1"], ["q2", "q2"]]
    assert engine.batch_sizes == [2]


def test_continuations_are_scored_by_the_function():
    engine = Scripted(lambda p: "", lambda prompt, text: -float(len(prompt.qid + text)))
    assert engine.capabilities == {Capability.score}
    first, _ = engine.score(PROMPTS, ("yes", "no"))
    assert first.continuations == {"yes": -5.0, "no": -4.0}
    assert (first.text, first.finish_reason) == ("", "score")


def test_without_a_score_function_it_cannot_score():
    engine = Scripted(lambda p: "")
    assert engine.capabilities == frozenset()
    with pytest.raises(ValueError, match="given no score function"):
        engine.score(PROMPTS, ("yes",))
