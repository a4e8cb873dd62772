import random

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample

PROMPT = Prompt("q", ("a",), ())


def example():
    return RankingExample("q", "query", tuple(Candidate(f"d{i}", f"text {i}") for i in range(4)), {"d1": 1, "d2": 2})


def test_documents_are_ordered_by_the_difference_of_log_probabilities():
    # yes - no: d0 -1 - -2 = 1, d1 -3 - -1 = -2, d2 0 - -4 = 4, d3 -1 - -1 = 0
    yes = {"d0": -1.0, "d1": -3.0, "d2": 0.0, "d3": -1.0}
    no = {"d0": -2.0, "d1": -1.0, "d2": -4.0, "d3": -1.0}
    engine = Scripted(lambda p: "", lambda p, c: (yes if c == "yes" else no)[p.docids[0]])
    [ranking], _ = rerank([example()], Pointwise(), engine, shuffle_seed=1)
    assert ranking.docids == ("d2", "d0", "d3", "d1")
    assert ranking.scores == {"d2": 4.0, "d0": 1.0, "d3": 0.0, "d1": -2.0}


def test_an_engine_that_cannot_score_is_refused_before_the_first_call():
    engine = Scripted(lambda p: "yes")
    with pytest.raises(ValueError, match=r"scores 'yes' and 'no'.*Scripted cannot do"):
        rerank([example()], Pointwise(), engine)
    assert engine.batch_sizes == []


@pytest.mark.parametrize(
    ("text", "reason", "strict", "lenient"),
    [
        ("yes", "stop", "ok", {"a": 1.0}),
        ("no", "stop", "ok", {"a": 0.0}),
        (" yes\n", "stop", "ok", {"a": 1.0}),
        ("Yes.", "stop", "answer", {"a": 1.0}),
        ("no, because", "stop", "answer", {"a": 0.0}),
        ("yes", "length", "answer", {"a": 1.0}),
        ("maybe", "stop", "answer", {}),
        ("", "stop", "answer", {}),
    ],
)
def test_what_is_read_strictly_and_leniently(text, reason, strict, lenient):
    completion = Completion(text, finish_reason=reason)
    assert Pointwise().parse(PROMPT, completion, strict=True).status == strict
    assert dict(Pointwise().parse(PROMPT, completion, strict=False).scores) == lenient


def test_training_prompts_are_balanced_and_in_random_order():
    firsts = 0
    for seed in range(400):
        prompts = Pointwise().prompts(example(), random.Random(seed))
        targets = [Pointwise().target(example(), p) for p in prompts]
        assert sorted(targets) == ["no", "yes"]
        firsts += targets[0] == "yes"
    # the positive comes first in half of them: 200 +- 4 * sqrt(400 / 4) = 200 +- 40
    assert abs(firsts - 200) < 40


def test_an_example_without_a_negative_gives_no_training_prompt():
    ex = RankingExample("q", "query", (Candidate("d", "text"),), {"d": 1})
    assert Pointwise().prompts(ex, random.Random(0)) == []
