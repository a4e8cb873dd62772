import math

import numpy as np
import pytest

from rl_rerank.reward import Reward, Term, evaluate, total, weighted
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


def test_a_reward_is_any_callable_of_an_example_and_a_rollout():
    assert isinstance(Format(), Reward)
