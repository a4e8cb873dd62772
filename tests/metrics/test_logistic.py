"""The logistic function at its ends, for numbers and for arrays."""

import math

import numpy as np
import pytest

from rl_rerank.metrics.logistic import sigmoid


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.0, 0.5), (1.0, 1 / (1 + math.exp(-1))), (-3.0, 1 / (1 + math.exp(3))), (-math.inf, 0.0), (math.inf, 1.0)],
)
def test_one_number(x: float, expected: float):
    assert isinstance(sigmoid(x), float) and sigmoid(x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_no_number_overflows():
    assert sigmoid(np.array([-1e308, -800.0, 0.0, 800.0, 1e308])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert sigmoid(-40.0) == pytest.approx(math.exp(-40), rel=1e-12)  # no difference of nearly equal numbers
