import math

import numpy as np
import pytest

from rl_rerank.reward.base import Breakdown, Reward, RewardError, Term, calls, evaluate, total, weighted
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.format import Format

EXAMPLE = RankingExample("q7", "query", ())
ROLLOUT = Rollout(Prompt("q7", ("a", "b"), ()), Completion("[1] > [2]"), Judgment(Status.ok, {"a": 2.0, "b": 1.0}))


def test_values_are_unweighted_and_the_total_is_the_weighted_sum():
    terms = [Term("half", lambda e, r: 0.5, 2.0), Term("minus", lambda e, r: -1, 0.25)]
    found = weighted(terms, EXAMPLE, ROLLOUT)
    assert found.parts == {"half": 0.5, "minus": -1.0}
    assert found.value == total(terms, found.parts) == 0.75  # 2 * 0.5 - 0.25 * 1


def test_a_numpy_number_is_a_number():
    [found] = evaluate(Term("n", lambda e, r: np.float32(0.5)), EXAMPLE, [ROLLOUT])
    assert found.value == 0.5


@pytest.mark.parametrize("value", [None, "1", math.nan, math.inf, 1j, [1.0]])
def test_what_is_not_a_finite_number_is_an_error_that_names_the_reward_the_query_and_the_text(value):
    with pytest.raises(ValueError, match=r"reward 'odd' returned .* for qid 'q7' and the completion '\[1\] > \[2\]'"):
        evaluate(Term("odd", lambda e, r: value), EXAMPLE, [ROLLOUT])


def test_an_exception_is_an_error_that_names_the_reward_the_query_and_the_text():
    with pytest.raises(ValueError, match=r"reward 'odd' failed for qid 'q7' .* '\[1\] > \[2\]': KeyError: 'x'"):
        evaluate(Term("odd", lambda e, r: {}["x"]), EXAMPLE, [ROLLOUT])


class Short:
    def score_all(self, example, rollouts):
        return [0.0] * (len(rollouts) - 1)


def test_a_query_reward_gives_a_value_for_every_completion():
    with pytest.raises(ValueError, match="reward 'short' returned 1 values for qid 'q7' and its 2 completions"):
        evaluate(Term("short", Short()), EXAMPLE, [ROLLOUT, ROLLOUT])


def said(text, prompt=ROLLOUT.prompt):
    return Rollout(prompt, Completion(text), Judgment(Status.ok))


class Group:
    """Worth the length of the text, of a prompt's completions at a time; "bad" is an error, "none" has no value."""

    def __init__(self):
        self.sizes = []

    def __call__(self, example, rollout):
        return self.explain_group(example, [rollout])[0].value

    def explain_group(self, example, rollouts):
        self.sizes.append(len(rollouts))
        texts = [rollout.completion.text for rollout in rollouts]
        if "bad" in texts:
            raise KeyError("bad")
        return [Breakdown(float(len(text)), {"long": 1.0}) for text in texts if text != "none"]


def test_completions_of_a_prompt_are_given_together_where_the_reward_takes_them_so():
    reward, other = Group(), Prompt("q7", ("b",), ())
    found = evaluate(Term("group", reward), EXAMPLE, [said("a"), said("bc"), said("def", other), said("gh")])
    assert reward.sizes == [2, 1, 1]
    assert found == [Breakdown(value, {"long": 1.0}) for value in (1.0, 2.0, 3.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bad", "reward 'group' failed for qid 'q7' and the completion 'bad': KeyError: 'bad'"),
        ("none", "reward 'group' returned 0 values for qid 'q7' and the completion 'none'"),
    ],
)
def test_the_completion_of_a_group_that_fails_is_named_or_worth_what_is_configured(text, message):
    rollouts = [said("a"), said(text), said("bc")]
    with pytest.raises(RewardError, match=message):
        evaluate(Term("group", Group()), EXAMPLE, rollouts)
    found = evaluate(Term("group", Group(), failed=-2.0), EXAMPLE, rollouts)
    assert [value.value for value in found] == [1.0, -2.0, 2.0]
    assert [dict(value.parts) for value in found] == [{"long": 1.0}, {"failed": -2.0}, {"long": 1.0}]


def test_a_failure_that_is_worth_something_is_told(caplog):
    [found] = evaluate(Term("odd", lambda e, r: math.nan, failed=0.0), EXAMPLE, [ROLLOUT])
    assert found == Breakdown(0.0, {"failed": 0.0})
    assert "reward 'odd' returned nan for qid 'q7'" in caplog.text
    assert caplog.text.strip().endswith("it counts as 0.0")


def test_all_completions_of_a_query_fail_together():
    found = evaluate(Term("short", Short(), failed=-1.0), EXAMPLE, [ROLLOUT, ROLLOUT])
    assert [value.value for value in found] == [-1.0, -1.0]


def test_a_reward_is_called_with_what_it_looks_at():
    rollouts = [said("a"), said("b"), said("c", Prompt("q7", ("b",), ()))]
    assert [len(some) for some in calls(Term("alone", Format()), rollouts)] == [1, 1, 1]
    assert [len(some) for some in calls(Term("group", Group()), rollouts)] == [2, 1]
    assert [len(some) for some in calls(Term("query", Short()), rollouts)] == [3]


def test_a_reward_is_any_callable_of_an_example_and_a_rollout():
    assert isinstance(Format(), Reward)
