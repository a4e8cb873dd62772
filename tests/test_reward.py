import math

import numpy as np
import pytest

from rl_rerank.reward import Reward, Term, score, total
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.format import Format

EXAMPLE = RankingExample("q7", "query", ())
ROLLOUT = Rollout(Prompt("q7", ("a", "b"), ()), Completion("[1] > [2]"), Judgment(Status.ok, {"a": 2.0, "b": 1.0}))


def test_values_are_unweighted_and_the_total_is_the_weighted_sum():
    terms = [Term("half", lambda e, r: 0.5, 2.0), Term("minus", lambda e, r: -1, 0.25)]
    values = score(terms, EXAMPLE, ROLLOUT)
    assert values == {"half": 0.5, "minus": -1.0}
    assert total(terms, values) == 0.75  # 2 * 0.5 - 0.25 * 1


def test_a_numpy_number_is_a_number():
    assert score([Term("n", lambda e, r: np.float32(0.5))], EXAMPLE, ROLLOUT) == {"n": 0.5}


@pytest.mark.parametrize("value", [None, "1", math.nan, math.inf, 1j, [1.0]])
def test_what_is_not_a_finite_number_is_an_error_that_names_the_reward_the_query_and_the_text(value):
    with pytest.raises(ValueError, match=r"reward 'odd' returned .* for qid 'q7' and the completion '\[1\] > \[2\]'"):
        score([Term("odd", lambda e, r: value)], EXAMPLE, ROLLOUT)


def test_a_reward_is_any_callable_of_an_example_and_a_rollout():
    assert isinstance(Format(), Reward)
