"""The logistic function, for one log-odds and for arrays of them."""

from typing import overload

import numpy as np
from numpy.typing import NDArray


@overload
def sigmoid(x: float) -> float: ...
@overload
def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]: ...
def sigmoid(x: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """Compute 1 / (1 + exp(-x)) elementwise, from 0 at -inf to 1 at inf; no x overflows."""
    found = np.exp(-np.logaddexp(0.0, np.negative(x)))
    return found if isinstance(x, np.ndarray) else float(found)
