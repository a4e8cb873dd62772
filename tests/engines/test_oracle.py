import math

import pytest

from rl_rerank.engines.oracle import Oracle
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample, Sampling

EXAMPLE = RankingExample("q", "query", tuple(Candidate(d, "text") for d in "abc"), {"a": 0, "b": 2, "c": 1})
SAMPLING = Sampling(max_tokens=9)


def errors(fresh, shown):
    """Score minus grade of each document, as first_token reads them."""
    paradigm = FirstToken()
    engine = Oracle([EXAMPLE], paradigm.target, noise=1.0, fresh=fresh)
    prompt = paradigm.prompt(EXAMPLE, shown)
    [completion] = engine.score([prompt], paradigm.continuations)
    scores = paradigm.parse(prompt, completion, strict=True).scores
    return {docid: scores[docid] - EXAMPLE.qrels[docid] for docid in shown}


def test_without_errors_it_answers_what_the_labels_call_for():
    paradigm = Listwise()
    prompt = paradigm.prompt(EXAMPLE, "abc")
    engine = Oracle([EXAMPLE], paradigm.target)
    [answers] = engine.generate([prompt], Sampling(max_tokens=9, num_generations=2))
    assert [answer.text for answer in answers] == ["[2] > [3] > [1]"] * 2
    assert engine.batch_sizes == [1]


@pytest.mark.parametrize(
    "paradigm",
    [Listwise(constrained=True), Listwise(constrained=True, top=2), Groupwise(constrained=True)],
    ids=["listwise", "listwise-top", "groupwise"],
)
def test_its_answers_have_the_form_that_a_constraint_enforces(paradigm):
    engine = Oracle([EXAMPLE], paradigm.target, noise=0.3, fresh=True, seed=4)
    [ranking], [rollout] = rerank([EXAMPLE], paradigm, engine)
    assert rollout.prompt.constraint.is_whole(rollout.completion.text)
    assert (ranking.docids[0], ranking.num_malformed) == ("b", 0)


def test_a_document_alone_is_relevant_above_one_half():
    paradigm = Pointwise()
    prompts = [paradigm.prompt(EXAMPLE, [docid]) for docid in "abc"]
    completions = Oracle([EXAMPLE], paradigm.target).score(prompts, paradigm.continuations)
    scores = [paradigm.parse(p, c, strict=True).scores[p.docids[0]] for p, c in zip(prompts, completions, strict=True)]
    # grade - (1 - grade)
    assert scores == [-1.0, 3.0, 1.0]


def test_a_document_has_one_error_or_a_fresh_one_in_every_prompt():
    one = errors(False, "abc")
    assert errors(False, "cab") == {docid: one[docid] for docid in "cab"}
    assert all(not math.isclose(errors(True, "abc")[docid], errors(True, "cab")[docid]) for docid in "abc")
    assert errors(True, "abc") == errors(True, "abc")


def test_errors_have_the_asked_spread_and_belong_to_the_seed():
    many = RankingExample("q", "query", tuple(Candidate(str(i), "text") for i in range(26)), {})
    paradigm = FirstToken(window=26)
    prompt = paradigm.prompt(many, many.docids)

    def seen(seed):
        engine = Oracle([many], paradigm.target, noise=2.0, seed=seed)
        [completion] = engine.score([prompt], paradigm.continuations)
        return list(paradigm.parse(prompt, completion, strict=True).scores.values())

    drawn = [value for seed in range(40) for value in seen(seed)]
    # 1,040 draws: the mean is within 4 * 2 / sqrt(1040) = .25 of 0, the variance within 4 * 4 * sqrt(2 / 1040) = .7
    assert abs(sum(drawn) / len(drawn)) < 0.25
    assert abs(sum(value**2 for value in drawn) / len(drawn) - 4) < 0.7
    assert seen(1) == seen(1) != seen(2)
