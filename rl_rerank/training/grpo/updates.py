"""Division of a batch of completions into the micro-batches of its optimizer steps."""

from typing import Any

import torch
from accelerate import Accelerator
from trl.trainer.utils import split_tensor_dict


def split(batch: dict[str, Any], accelerator: Accelerator, micro_batches: int, updates: int) -> list[dict[str, Any]]:
    """Divide a process's batch into `micro_batches` equal parts, which are `updates` optimizer steps, in order.

    `num_items_in_batch` becomes the tokens of the micro-batch's own step over all processes, times `updates`: trl takes
    it as the tokens of the whole batch and divides by `updates`.
    """
    parts = split_tensor_dict(batch, micro_batches)
    if updates > 1:
        here = batch["completion_mask"].reshape(updates, -1).sum(1)
        everywhere = accelerator.gather(here)
        assert isinstance(everywhere, torch.Tensor)
        total = everywhere.view(-1, updates).sum(0) * updates
        for number, part in enumerate(parts):
            part["num_items_in_batch"] = total[number * updates // micro_batches]
    return parts
