"""A served model as a reward: what it is asked, what its replies are worth, and that none is paid for twice."""

import pickle
import re

import pytest
from support import openai_stand_in
from support.openai_stand_in import message

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Breakdown, RewardError, Term, evaluate
from rl_rerank.reward.check import check
from rl_rerank.types import Candidate, Completion, RankingExample, Rollout
from rl_rerank_rewards.llm_judge import LLMJudge

LISTWISE = Listwise(reasoning=True)
EXAMPLE = RankingExample("q7", "glacier caves", tuple(Candidate(d, f"text of {d}") for d in "ab"), {"b": 1})


@pytest.fixture
def server():
    with openai_stand_in.serving() as stand_in:
        yield stand_in


@pytest.fixture
def judge(server, tmp_path):
    engine = {"model": "judge-1", "base_url": server.url, "max_attempts": 1}
    return LLMJudge(engine=engine, journal=str(tmp_path / "judge.sqlite"))


def group(*texts):
    prompt = LISTWISE.prompt(EXAMPLE, ("b", "a"))
    said = [Completion(text) for text in texts]
    return [Rollout(prompt, one, LISTWISE.parse(prompt, one, strict=True)) for one in said]


def test_completions_are_graded_by_what_the_server_says_of_them(server, judge):
    grades = {"first": "7", "second": "10"}

    def reply(body, number):
        thought = re.search(r"<?think.?(first|second)", body["messages"][-1]["content"])
        return message(f"Well. <answer>{grades[thought[1]]}</answer>")

    server.reply = reply
    rollouts = group(
        "<think>first</think><answer>[1] > [2]</answer>",
        "<think>bad</think><answer>[1]</answer>",
        "<think>second</think><answer>[2] > [1]</answer>",
    )
    found = evaluate(Term("llm_judge", judge), EXAMPLE, rollouts)
    assert found == [Breakdown(0.7), Breakdown(0.0), Breakdown(1.0)]  # the malformed one is not asked about
    assert len(server.bodies) == 2
    asked = server.bodies[0]["messages"][-1]["content"]
    assert asked.startswith("Query: glacier caves\n[1] text of b\n[2] text of a\n\nThe ranking model's answer:\n")
    # Its tags and identifiers are no longer ours: only the judge's own instruction holds an answer block.
    assert asked.count("<answer>") == asked.count("</answer>") == 1
    assert asked.endswith(
        "from 0 (worst) to 10 (best). Give your reasons in one or two sentences, and then the "
        "grade alone in <answer></answer>."
    )
    assert server.bodies[0]["model"] == "judge-1" and server.bodies[0]["temperature"] == 0


def test_an_answer_is_asked_for_once_also_by_another_process(server, judge):
    server.reply = lambda body, number: message("<answer>5</answer>")
    [rollout] = group("<think>so</think><answer>[1] > [2]</answer>")
    assert judge(EXAMPLE, rollout) == 0.5
    copied = pickle.loads(pickle.dumps(judge))
    assert copied == judge and copied(EXAMPLE, rollout) == 0.5
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "text", ["it is good", "<answer>11</answer>", "<answer>-1</answer>", "<answer>7 of 10</answer>"]
)
def test_a_reply_without_a_grade_fails_and_is_never_a_silent_zero(server, judge, text):
    server.reply = lambda body, number: message(text)
    rollouts = group("<think>so</think><answer>[1] > [2]</answer>")
    expected = rf"reward 'llm_judge' failed for qid 'q7' and the completion .*gives no grade from 0 to 10: '{text}'"
    with pytest.raises(RewardError, match=expected):
        evaluate(Term("llm_judge", judge), EXAMPLE, rollouts)
    assert evaluate(Term("llm_judge", judge, failed=0.3), EXAMPLE, rollouts) == [Breakdown(0.3, {"failed": 0.3})]


@pytest.mark.slow
def test_it_has_the_properties_that_it_claims(server, judge):
    server.reply = lambda body, number: message(f"<answer>{len(body['messages'][-1]['content']) % 11}</answer>")
    assert check(Term("llm_judge", judge), LISTWISE, queries=1, shuffles=2).failures == {}
