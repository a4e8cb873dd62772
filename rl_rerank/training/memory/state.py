"""The memory of weights, gradients, the optimizer's states and the head, by strategy; in bytes. Free of torch.

AdamW has two float32 numbers a weight. `loop.precision` says where float32 weights are. Numbers of bytes a weight, for
N weights of which M are trained, on p processes:

                      weights            gradients      masters and AdamW    buffers
    local             4 N (LoRA: see below)     4 M            8 M
    ddp               the same           8 M            8 M                  (DDP's buckets are a copy of the gradients)
    ZeRO-1            b N                b M            12 M / p             bucket and copy
    ZeRO-2            b N                b M / p        12 M / p             bucket and copy
    ZeRO-3            b N / p            b M / p        12 M / p             bucket and copy, gathered weights

b is 2 in DeepSpeed's bf16 mode, else 4; then ZeRO-3 has no masters, as its weights are float32. With LoRA outside of
DeepSpeed, frozen weights have the type of `model.dtype`. zero3-offload keeps all but buffers in the CPU's memory.
"""

from __future__ import annotations

from typing import NamedTuple

from rl_rerank.training.memory.setup import Setup

BUCKET = 500_000_000
"""Elements of the buffer in which DeepSpeed collects gradients (reduce_bucket_size)."""
GATHERED = 1_050_000_000
"""Most weights that ZeRO-3 has whole at once: stage3_max_live_parameters, and those it fetches ahead."""
COALESCED = 50_000_000
"""Weights that ZeRO-3 fetches in one operation (stage3_prefetch_bucket_size), and then copies to their places."""
SUB_GROUP = 1_000_000_000
"""Weights that ZeRO-3 steps at once (sub_group_size)."""
TILE = 32 * 2**20
"""Bytes of logits that the head has at once."""


class Parameters(NamedTuple):
    """Numbers of weights."""

    total: int
    trained: int
    head: int
    """Of the output head."""
    trains_head: bool
    embedding: int
    """Of the input embedding, which may be the head's."""


class State(NamedTuple):
    """Bytes that stay over a step, and `step`, which the optimizer's step has beside them."""

    weights: float
    reference: float
    teacher: float
    gradients: float
    optimizer: float
    gathered: float
    bucket: float
    """In which DeepSpeed collects gradients: allocated at once, but on a CPU used as it fills. ZeRO-3 keeps it from the
    start to the end, ZeRO-1 and 2 allocate it in each backward."""
    bucket_copy: float
    """DeepSpeed copies a bucket before it reduces it, ZeRO-3 in the order of processes."""
    step: float


def state(setup: Setup, parameters: Parameters, of_teacher: int = 0) -> State:
    """Compute the memory of a process that does not depend on the tokens of a micro-batch.

    Args:
        of_teacher: weights of the teacher.
    """
    total, trained, _, _, _ = parameters
    if not setup.zero:
        frozen = 4 if setup.model.dtype == "float32" else 2
        return State(
            weights=frozen * (total - trained) + 4 * trained,
            reference=4 * total if setup.has_reference else 0,
            teacher=frozen * of_teacher,
            gradients=(8 if setup.strategy == "ddp" else 4) * trained,
            optimizer=8 * trained,
            gathered=0,
            bucket=0,
            bucket_copy=0,
            step=0,
        )
    size, share = 2 if setup.is_bf16_mode else 4, setup.processes
    is_whole, is_away = setup.zero < 3, setup.strategy == "zero3-offload"
    # Adam's two, and masters where the weights themselves are not the ones that are stepped.
    optimizer = 12 if is_whole or size == 2 else 8
    gradients = size * trained / (1 if setup.zero == 1 else share)
    stepped = trained / share if is_whole else min(trained / share, SUB_GROUP)
    return State(
        weights=0 if is_away else size * total / (1 if is_whole else share),
        reference=size * total / (1 if is_whole else share) if setup.has_reference else 0,
        teacher=size * of_teacher / (1 if is_whole else share),
        gradients=0 if is_away else gradients,
        optimizer=0 if is_away else optimizer * trained / share,
        gathered=0 if is_whole else size * (min(total, GATHERED) + min(total, COALESCED)),
        bucket=size * BUCKET,
        bucket_copy=size * BUCKET,
        step=0 if is_away else 4 * stepped,
    )


def head(setup: Setup, parameters: Parameters) -> float:
    """Compute what the head takes at the end of the forward.

    The head is fused with the loss: logits come and go in tiles, which are in float32 beside their gradients, and the
    gradient of the head's weight is summed in float32.
    """
    return 2 * TILE + (4 * parameters.head if parameters.trains_head else 0)


def embedding(setup: Setup, parameters: Parameters) -> float:
    """Compute the gradient of the embedding, which is dense, at the end of the backward."""
    return (2 if setup.is_bf16_mode else 4) * parameters.embedding if setup.lora is None else 0
