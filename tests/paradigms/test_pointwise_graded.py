import math
import random

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.base import check_engine
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import END, Candidate, Completion, Prompt, RankingExample

PROMPT = Prompt("q", ("a",), ())


def example(n=4):
    return RankingExample("q", "query", tuple(Candidate(f"d{i}", f"text {i}") for i in range(n)), {"d1": 1, "d2": 2})


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "score"),
    [
        ("7", "ok", "ok", 7),
        (" 10\n", "ok", "ok", 10),
        ("0", "ok", "ok", 0),
        ("11", "answer", "repaired", 10),
        ("07", "answer", "repaired", 7),
        ("7.5", "answer", "repaired", 7.5),
        ("7/10", "answer", "repaired", 7),
        ("**7**", "answer", "repaired", 7),
        ("7.", "answer", "repaired", 7),
        ("7\nThe passage answers it.", "answer", "repaired", 7),
        ("8: it answers the query", "answer", "repaired", 8),
        ("Relevance score: 7", "answer", "repaired", 7),
        ("My score is **7** of 10.", "answer", "repaired", 7),
        ("On a score of 0 to 10, it gets a score of 4.", "answer", "repaired", 4),
        ("First score: 3. Final score: 6", "answer", "repaired", 6),
        ("20 passages are provided.", "answer", "answer", None),
        ("2,000 people came", "answer", "answer", None),
        ("In 2024 the top 10 won", "answer", "answer", None),
        ("a score of 0 to 10", "answer", "answer", None),
        ("-3", "answer", "answer", None),
        ("\u0667", "answer", "answer", None),  # an Arabic 7 is no score
        ("9" * 5000, "answer", "answer", None),
        ("seven", "answer", "answer", None),
        ("", "answer", "answer", None),
    ],
)
def test_what_is_read_strictly_and_leniently(text, strict, lenient, score):
    assert PointwiseGraded().parse(PROMPT, Completion(text), strict=True).status == strict
    judgment = PointwiseGraded().parse(PROMPT, Completion(text), strict=False)
    assert (judgment.status, dict(judgment.scores)) == (lenient, {} if score is None else {"a": score})


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("<think>x</think><answer>7</answer>", "ok"),
        ("x 3</think><answer> 7 </answer>", "ok"),
        ("<think>x</think>7", "tags"),
        ("<think>x</think><answer>seven</answer>", "answer"),
        ("<think>x</think><answer>11</answer>", "answer"),
        ("<answer>7</answer>", "tags"),
    ],
)
def test_with_reasoning_the_score_stands_in_the_answer_block(text, status):
    assert PointwiseGraded(reasoning=True).parse(PROMPT, Completion(text), strict=True).status == status


def test_documents_are_ordered_by_score_and_equal_scores_keep_the_shown_order():
    scores = {"d0": "3", "d1": "10", "d2": "3", "d3": "no idea"}
    engine = Scripted(lambda p: scores[p.docids[0]])
    [ranking], _ = rerank([example()], PointwiseGraded(), engine)
    # d3 takes the median of 3, 10, 3
    assert ranking.docids == ("d1", "d0", "d2", "d3")
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks) == (4, 1, 1)
    assert engine.batch_sizes == [4]


def test_the_expected_score_is_the_mean_under_the_probabilities_of_all_scores():
    # d0: p(10) .6, p(0) .2, of .8 in all: 10 * .75 + 0 * .25 = 7.5
    # d1: p(8) .3, p(9) .1, of .4 in all: 8 * .75 + 9 * .25 = 8.25
    chances = {"d0": {10: 0.6, 0: 0.2}, "d1": {8: 0.3, 9: 0.1}}

    def score(prompt, continuation):
        assert continuation.endswith(END)
        return math.log(chances[prompt.docids[0]].get(int(continuation[:-1]), 1e-30))

    engine = Scripted(lambda p: "", score)
    [ranking], rollouts = rerank([example(2)], PointwiseGraded(rule="expected"), engine)
    assert ranking.docids == ("d1", "d0")
    assert ranking.scores == pytest.approx({"d0": 7.5, "d1": 8.25})
    assert list(rollouts[0].completion.continuations or ()) == [f"{s}{END}" for s in range(11)]


def test_one_does_not_absorb_ten(any_tokenizer):
    # A model that always writes "10": the tokens 1, 0, end with probability 1 each. p("1") alone would be 1.
    renderer = Renderer(any_tokenizer, max_prompt_tokens=400)
    written = renderer.continuation_ids(f"10{END}")

    def logprob(ids):
        return 0.0 if written[: len(ids)] == ids else -30.0

    continuations = PointwiseGraded(rule="expected").continuations
    ids = [renderer.continuation_ids(text) for text in continuations]
    assert all(a == b or a != b[: len(a)] for a in ids for b in ids)  # none begins another: no two can both come true
    assert all(i[-1] == renderer.end_id for i in ids)
    assert logprob(renderer.continuation_ids("1")) == 0.0
    scored = Completion(
        "", finish_reason="score", continuations={t: logprob(i) for t, i in zip(continuations, ids, strict=True)}
    )
    judgment = PointwiseGraded(rule="expected").parse(PROMPT, scored, strict=False)
    assert judgment.scores["a"] == pytest.approx(10, abs=1e-9)


def test_the_probabilities_of_all_scores_are_of_events_that_exclude_each_other(tiny_model_dir, chatml_tokenizer):
    from rl_rerank.engines.local.hf import HFEngine

    engine = HFEngine(tiny_model_dir, Renderer(chatml_tokenizer, max_prompt_tokens=400))
    prompt = PointwiseGraded().prompt(example(), ["d0"])
    [scored] = engine.score([prompt], (*PointwiseGraded(rule="expected").continuations, "1"))
    chances = {text: math.exp(value) for text, value in (scored.continuations or {}).items()}
    one = chances.pop("1")
    assert chances[f"1{END}"] + chances[f"10{END}"] < one
    assert sum(chances.values()) < 1
    expected = sum(s * chances[f"{s}{END}"] for s in range(11)) / sum(chances.values())
    [ranking], _ = rerank([example(1)], PointwiseGraded(rule="expected"), engine)
    assert ranking.scores["d0"] == pytest.approx(expected, rel=1e-4)


def test_the_weighted_score_counts_what_ends_the_number():
    weighted = PointwiseGraded(rule="weighted")
    # "10" as the tokens 1, 0, end: 10 * .5 * .8 * .9 = 3.6; "1" as 1, end: 1 * .5 * .2 = .1
    for text, chances, expected in (("10", [0.5, 0.8, 0.9], 3.6), ("1", [0.5, 0.2], 0.1), ("0", [0.9, 0.9], 0.0)):
        logprobs = tuple(math.log(p) for p in chances)
        ends = (*range(1, len(text) + 1), len(text))
        for token_ends in (None, ends):
            completion = Completion(text, tuple(range(len(chances))), "stop", logprobs, token_ends)
            judgment = weighted.parse(PROMPT, completion, strict=False)
            assert (judgment.status, judgment.scores) == ("ok", {"a": pytest.approx(expected)})
            strict = weighted.parse(PROMPT, completion, strict=True)
            assert strict.scores == {"a": float(text)}  # a reward sees the number


@pytest.mark.parametrize(
    ("tokens", "counted"),
    [
        (["x", "</think>", "<answer>", "1", "0", "</", "answer>", ""], [3, 4, 5]),
        (["x", "</think>", "<answer>", "10", "</answer>", ""], [3, 4]),
        (["x", "</think><answer>", "10</", "answer>", ""], [2]),
        (["x</think><answer>1", "0</answer>", ""], [0, 1]),
        (["10 x", "</think>", "<answer>", " 10", "\n", "</answer>", ""], [3, 4]),
    ],
)
def test_with_reasoning_the_weighted_score_finds_its_tokens(tokens, counted):
    # token i has the probability 1 / (i + 2)
    text = "".join(tokens)
    ends = tuple(len("".join(tokens[: i + 1])) for i in range(len(tokens)))
    logprobs = tuple(-math.log(i + 2) for i in range(len(tokens)))
    completion = Completion(text, tuple(range(len(tokens))), "stop", logprobs, ends)
    judgment = PointwiseGraded(rule="weighted", reasoning=True).parse(PROMPT, completion, strict=False)
    expected = 10 * math.prod(1 / (i + 2) for i in counted)
    assert (judgment.status, judgment.scores) == ("ok", {"a": pytest.approx(expected)})


@pytest.mark.parametrize(
    ("text", "logprobs"),
    [("7", None), ("7/10", (-0.1, -0.1, -0.1, -0.1)), ("x</think><answer>7</answer>", (-0.1, -0.1))],
)
def test_a_weighted_score_without_its_probability_is_counted_and_not_guessed(text, logprobs):
    paradigm = PointwiseGraded(rule="weighted", reasoning="think" in text)
    judgment = paradigm.parse(PROMPT, Completion(text, logprobs=logprobs), strict=False)
    assert (judgment.status, judgment.scores) == ("answer", {})
    assert judgment.issues[-1].kind == "no_probability"


def test_an_engine_that_cannot_do_what_a_rule_needs_is_refused():
    for paradigm in (PointwiseGraded(), Listwise(), PointwiseGraded(rule="weighted"), Pointwise()):
        check_engine(paradigm, "Full", {"score", "logprobs"})
    check_engine(PointwiseGraded(), "Bare", ())
    with pytest.raises(
        ValueError, match=r"'pointwise_graded' weights answers by the log-prob.*engine Bare does not give"
    ):
        check_engine(PointwiseGraded(rule="weighted"), "Bare", {"score"})
    with pytest.raises(ValueError, match=r"'pointwise' scores 'yes' and 'no' at.*engine Bare cannot do"):
        check_engine(Pointwise(), "Bare", {"logprobs"})
    engine = Scripted(lambda p: "7")
    with pytest.raises(ValueError, match=r"scores '0.*Scripted cannot do"):
        rerank([example()], PointwiseGraded(rule="expected"), engine)
    assert engine.batch_sizes == []


def test_training_prompts_are_of_at_least_two_grades_and_their_targets_are_read_back():
    for reasoning in (False, True):
        paradigm = PointwiseGraded(documents=3, reasoning=reasoning)
        for seed in range(20):
            prompts = paradigm.prompts(example(30), random.Random(seed))
            assert len({p.docids for p in prompts}) == 3
            targets = [Completion(paradigm.target(example(30), p)) for p in prompts]
            read = [paradigm.parse(p, t, strict=True) for p, t in zip(prompts, targets, strict=True)]
            # grades 0, 1, 2 of at most 2: 0, 5, 10
            expected = [{p.docids[0]: {"d1": 5.0, "d2": 10.0}.get(p.docids[0], 0.0)} for p in prompts]
            assert [r.scores for r in read] == expected
            assert len({score for r in read for score in r.scores.values()}) > 1
    assert PointwiseGraded().prompts(RankingExample("q", "query", example().candidates), random.Random(0)) == []


def test_the_longest_answer_has_room():
    assert PointwiseGraded().max_completion_tokens == len("10") + 1
    tags = len("<think></think><answer></answer>")
    assert PointwiseGraded(reasoning=True, think_tokens=9).max_completion_tokens == tags + len("10") + 1 + 9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "mean"}, "rule must be one of plain, weighted, expected; got 'mean'"),
        ({"rule": "expected", "reasoning": True}, "use rule=weighted, or reasoning=false"),
        ({"max_score": 0}, "max_score must be at least 1; got 0"),
        ({"documents": 1}, "documents must be at least 2, for two grades; got 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        PointwiseGraded(**params)
