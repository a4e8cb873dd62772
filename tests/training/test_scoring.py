"""Rows of a batch become values: alone, and put together to whole queries."""

import pytest
import torch

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.training.loop.scoring import score_rows, term_metrics
from rl_rerank.training.loop.training_prompts import Question, Questions
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample
from rl_rerank_rewards.erank import ERank
from rl_rerank_rewards.format import Format
from rl_rerank_rewards.ndcg import NDCG

GRADED = PointwiseGraded(documents=2)


def example(qid, docids="abc"):
    candidates = tuple(Candidate(d, f"text {d}") for d in docids)
    return RankingExample(qid, f"query {qid}", candidates, {"a": 1}, scores={"b": 2.0, "c": 2.0})


def asked(*queries):
    """Questions about a and b of each query; a query that is asked twice is two."""
    return [
        Question(example(qid), Prompt(qid, (docid,), ()), (), number)
        for number, qid in enumerate(queries)
        for docid in "ab"
    ]


def row(question, text, about):
    completion = Completion(text)
    return question, completion, GRADED.parse(about[question].prompt, completion, strict=True)


def test_a_query_reward_sees_the_rows_of_all_processes_and_gives_back_those_of_this_one():
    about = asked("q1", "q2")
    rows = [row(i, text, about) for i, text in zip([0, 0, 1, 1, 2, 2, 3, 3], "89237654", strict=True)]
    terms = [Term("erank", ERank()), Term("format", Format(ok=1.0))]
    # q1: a scores 8 and 9, ranks 2 and 1; b 2 and 3, below, against 2: 0 and -.01
    # q2: a scores 7 and 6, ranks 1 and 2; b 5 and 4, below: -.09 and -.04
    expected = [1 / 2, 1, 0, -0.01, 1, 1 / 2, -0.09, -0.04]
    for here in (slice(0, 8), slice(0, 2), slice(2, 6), slice(6, 8)):
        found = score_rows(terms, about, rows[here], lambda _: rows, num_generations=2)
        assert [value["erank"].value for value in found.values] == pytest.approx(expected[here])
        assert {value["format"].value for value in found.values} == {1.0}
        assert set(found.seconds) == {"erank", "format"}


def test_the_same_example_asked_twice_is_two_queries():
    about = asked("q1", "q1")
    rows = [row(i, text, about) for i, text in enumerate("1092")]
    found = score_rows([Term("erank", ERank())], about, rows, lambda r: r, num_generations=1)
    # 1 against 0, then 9 against 2: both times a is first and b below
    assert [value["erank"].value for value in found.values] == pytest.approx([1, -0.04, 1, 0])


def test_a_query_that_is_not_whole_stops_the_run():
    about = asked("q1")
    rows = [row(i, "5", about) for i in (0, 0, 1)]
    with pytest.raises(ValueError, match=r"qid 'q1': .* 2 prompts x 2 generations = 4 completions .* holds 3 of them"):
        score_rows([Term("erank", ERank())], about, rows, lambda r: r, num_generations=2)


def test_nothing_is_gathered_for_rewards_of_single_completions():
    def gather(_):
        raise AssertionError("nothing to put together")

    about = asked("q1")
    found = score_rows([Term("format", Format())], about, [row(0, "5", about)], gather, num_generations=2)
    assert found.values[0]["format"].value == 0.0


def test_the_share_of_constant_groups():
    # groups (1, 1), (0, 1), (.5, .5): two of three teach nothing
    found = term_metrics("ndcg", torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5, 0.5]), 2)
    assert found == pytest.approx(
        {"rewards/ndcg/min": 0.0, "rewards/ndcg/max": 1.0, "rewards/ndcg/constant_groups": 2 / 3}
    )


@pytest.mark.parametrize(
    ("paradigm", "prompts"),
    [(PointwiseGraded(documents=4), 4), (Pointwise(pairs=2), 4), (Pairwise(pairs=3), 3), (Listwise(), 1)],
)
def test_a_step_holds_whole_queries_or_is_refused_with_the_arithmetic(paradigm, prompts):
    terms = [Term("ndcg", NDCG()), Term("erank", ERank())]
    for step in range(1, 13):
        stage = GRPOStage(kind="grpo", prompts_per_step=step, num_generations=2, micro_batch=2)
        if step % prompts == 0:
            assert stage.whole_queries("grpo", terms, paradigm) == prompts
            continue
        arithmetic = rf"prompts_per_step={step} = {step // prompts} x {prompts} \+ {step % prompts} would split"
        with pytest.raises(ValueError, match=arithmetic):
            stage.whole_queries("grpo", terms, paradigm)
        assert stage.whole_queries("grpo", terms[:1], paradigm) is None


def test_only_examples_with_all_prompts_are_asked_about(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=200)
    examples = [example("q1"), example("q2", "ab"), example("q3")]
    found = Questions(examples, PointwiseGraded(documents=3), renderer, count=12, seed=1, per_query=3)
    assert {question.prompt.qid for question in found} == {"q1", "q3"}
    for block in range(0, 12, 3):
        assert len({question.query for question in found[block : block + 3]}) == 1
    assert len({question.query for question in found}) == 4
    with pytest.raises(ValueError, match="or fewer than the 3 prompts that a query needs"):
        Questions(examples[1:2], PointwiseGraded(documents=3), renderer, count=3, seed=1, per_query=3)
