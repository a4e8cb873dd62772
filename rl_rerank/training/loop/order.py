"""The order in which supervised rows are learned.

The order is fixed before training begins and depends on the seed alone. The trainer then takes rows one after another,
in a single pass, so the order does not depend on the state of a random generator, which a resumed run would have to
restore in the middle of a pass, nor on the number of processes.
"""

from collections.abc import Sequence

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices


def by_length(lengths: Sequence[int], *, steps: int, rows: int, seed: int) -> list[int]:
    """Number the rows of all steps: passes in random order, in which the rows of a step have similar lengths.

    Args:
        lengths: of each row; estimates will do.
        rows: rows of a step.

    Returns:
        `steps` * `rows` indices into `lengths`.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = []
    while len(found) < steps * rows:
        found += get_length_grouped_indices(list(lengths), rows, generator=generator)
    return found[: steps * rows]
