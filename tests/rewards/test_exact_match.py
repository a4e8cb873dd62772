import pickle
import random

import pytest

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.types import Candidate, Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.exact_match import ExactMatch

EXAMPLE = RankingExample("q", "query", tuple(Candidate(d, f"text {d}") for d in "abc"), {"a": 2, "b": 1})


def said(docid, text, **completion):
    prompt = Prompt("q", (docid,), ())
    answer = Completion(text, **completion)
    return Rollout(prompt, answer, Pointwise().parse(prompt, answer, strict=True))


@pytest.mark.parametrize(
    ("docid", "text", "relevant", "value"),
    [
        ("a", "yes", 1, 1.0),
        ("a", "no", 1, 0.0),
        ("b", "yes", 1, 1.0),
        ("b", "yes", 2, 0.0),  # grade 1 is below 2
        ("c", "no", 1, 1.0),  # unjudged is not relevant
        ("c", "yes", 1, 0.0),
        ("a", "Yes", 1, -0.5),
        ("a", "", 1, -0.5),
    ],
)
def test_the_right_answer_earns_one(docid, text, relevant, value):
    assert ExactMatch(relevant=relevant, malformed=-0.5)(EXAMPLE, said(docid, text)) == value


def test_a_scored_answer_is_the_likelier_one():
    likelier_yes = {"yes": -0.6, "no": -0.9}
    assert ExactMatch()(EXAMPLE, said("a", "", continuations=likelier_yes, finish_reason="score")) == 1.0
    assert ExactMatch()(EXAMPLE, said("c", "", continuations=likelier_yes, finish_reason="score")) == 0.0


def test_the_gold_answer_earns_the_most():
    paradigm = Pointwise()
    for seed in range(10):
        for prompt in paradigm.prompts(EXAMPLE, random.Random(seed)):
            completion = Completion(paradigm.target(EXAMPLE, prompt))
            gold = Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=True))
            assert ExactMatch()(EXAMPLE, gold) == 1.0


def test_a_prompt_of_several_documents_is_refused():
    rollout = Rollout(Prompt("q", ("a", "b"), ()), Completion("yes"), Judgment(Status.ok, {"a": 1.0}))
    with pytest.raises(ValueError, match="exact_match judges one document a prompt; got 2"):
        ExactMatch()(EXAMPLE, rollout)


def test_it_survives_pickling():
    assert pickle.loads(pickle.dumps(ExactMatch(relevant=2))) == ExactMatch(relevant=2)
