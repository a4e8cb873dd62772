"""The memory of a training process at the moments that need most of it, against a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rl_rerank.config import STRATEGIES
from rl_rerank.training.memory import activations, architecture, cards, state
from rl_rerank.training.memory.cards import Hardware
from rl_rerank.training.memory.setup import Colocated, Setup

GIB = 2**30
CONTEXT = 1.5
"""GiB of a process's CUDA context, of cuBLAS and of NCCL."""
FRAGMENTED = 0.05
"""Share of a card that PyTorch's allocator may have and not use."""
ASLEEP = 2.0
"""GiB that vLLM keeps while it sleeps, such as CUDA graphs."""
WORKSPACE = 2.0
"""GiB that vLLM needs besides weights, keys and values."""
ROUND = 256
"""Token budgets are multiples of it."""
ATTEMPTS = 6
"""Counts of activations in the search for the largest budget."""

TRAINING, STEP, ROLLOUT = "forward and backward", "optimizer step", "rollout"


@dataclass(frozen=True)
class Estimate:
    """GiB of a process.

    Example: `Estimate({"optimizer step": {"weights": 1.8, "optimizer": 10.6}}, 79.1)`.
    """

    moments: Mapping[str, Mapping[str, float]]
    """Moment of a step -> component -> GiB."""
    card: float

    def total(self, moment: str) -> float:
        """The sum of a moment's components."""
        return sum(self.moments[moment].values())

    @property
    def binding(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=self.total)

    @property
    def peak(self) -> float:
        """The most at any moment."""
        return self.total(self.binding)

    @property
    def fits(self) -> bool:
        return self.peak <= self.card


def here() -> Hardware:
    """The GPUs of this machine, or its CPU."""
    if not torch.cuda.is_available():
        return cards.parse(cards.CPU)
    found = torch.cuda.get_device_properties(0)
    return Hardware(torch.cuda.device_count(), found.name, found.total_memory / GIB)


def estimate(setup: Setup, hardware: Hardware, tokens: int) -> Estimate:
    """Estimate a process with micro-batches of this many tokens.

    Raises:
        LookupError: if the model's architecture or the launcher's strategy is not known.
    """
    if setup.strategy not in ("local", *STRATEGIES):
        raise LookupError(f"memory is not estimated for launcher.strategy={setup.strategy!r}, a file of your own")
    parameters = activations.parameters(setup)
    fixed = state.state(setup, parameters, 0 if setup.teacher is None else activations.weights(setup.teacher))
    # On a CPU a buffer takes what is written to it, which is the gradients.
    bucket, copied = fixed.bucket, fixed.bucket_copy
    if not hardware.is_cuda:
        bucket, copied = (min(size, 4 * parameters.trained) for size in (bucket, copied))
    lasts = hardware.is_cuda or setup.zero == 3
    lasting = {
        "weights": fixed.weights,
        "reference model": fixed.reference,
        "teacher": fixed.teacher,
        "gradients": fixed.gradients,
        "optimizer": fixed.optimizer,
        "DeepSpeed's buffers": fixed.gathered + (bucket if lasts else 0) + (copied if hardware.is_cuda else 0),
    }
    found = activations.count(setup, tokens)
    head = state.head(setup, parameters)
    # Either the head or the layers need more beside what is kept, or the embedding when the layers are done; on a CPU
    # with the buffers that gradients fill while activations go.
    end = state.embedding(setup, parameters)
    if not hardware.is_cuda:
        end += copied + (0 if lasts else bucket)
    peak = max(found.kept + head, found.forward, found.backward, end)
    of_head = max(peak - max(found.forward, found.backward), 0)
    training = {**lasting, "activations": peak - of_head, "head": of_head}
    moments = {TRAINING: training, STEP: {**lasting, "gradients in float32": fixed.step}}
    if setup.vllm is not None:
        moments[ROLLOUT] = lasting
    return Estimate(
        {moment: {**_gib(parts), **_beside(setup, hardware, moment)} for moment, parts in moments.items()}, hardware.gib
    )


def largest(setup: Setup, hardware: Hardware) -> int:
    """Find the most tokens of a micro-batch that fit, a multiple of 256, up to 1% of the card; 0 if not even 256 do.

    Raises:
        LookupError: if the model's architecture or the launcher's strategy is not known.
    """
    low, high = ROUND, max(setup.largest, 2 * ROUND)
    least = estimate(setup, hardware, low)
    if not least.fits:
        return 0
    free = {low: hardware.gib - least.total(TRAINING)}
    for _ in range(ATTEMPTS):
        # Memory is a convex function of the tokens, and nearly linear: the root of a secant is close.
        free[high] = hardware.gib - estimate(setup, hardware, high).total(TRAINING)
        if 0 <= free[high] < hardware.gib / 100:
            break
        fitting, failing = [t for t in free if free[t] >= 0], [t for t in free if free[t] < 0]
        low, *others = sorted(fitting, reverse=True)
        other = min(failing) if failing else others[0]
        root = low + free[low] * (other - low) / (free[low] - free[other])
        # Not the root itself, of which rounding decides whether it fits.
        high = max(int(root * 0.997) // ROUND * ROUND, ROUND)
        if high in free:
            break
    return max(tokens for tokens in free if free[tokens] >= 0) // ROUND * ROUND


def refusal(setup: Setup, hardware: Hardware) -> str | None:
    """Say why the stage cannot run on the hardware; None if it can.

    Raises:
        LookupError: if the model's architecture is not known.
    """
    tokens = max(setup.required, ROUND)
    found = estimate(setup, hardware, tokens)
    if not found.fits:
        parts = found.moments[found.binding]
        name = max(parts, key=lambda part: parts[part])
        advice = ""
        if found.binding == TRAINING:
            fitting = largest(setup, hardware)
            advice = f"; a micro-batch has up to {tokens:,} tokens and {fitting:,} would fit"
        return (
            f"a process needs {found.peak:.1f} GiB in {found.binding} and has {hardware.gib:.1f}: most of it, "
            f"{parts[name]:.1f} GiB, is for {name}{advice}"
        )
    return None if setup.vllm is None else _cannot_start(setup, setup.vllm, hardware)


def _cannot_start(setup: Setup, vllm: Colocated, hardware: Hardware) -> str | None:
    """vLLM divides its share of the card into weights, its workspace, and keys and values of one sequence at least."""
    config = architecture.find(setup.model).config
    parameters = activations.parameters(setup)
    merged = parameters.total - (0 if setup.lora is None else parameters.trained)  # adapters are added to the weights
    weights = 2 * merged / vllm.tensor_parallel / GIB
    heads = max(config.num_key_value_heads // vllm.tensor_parallel, 1)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * 2 * config.num_hidden_layers * heads * size * vllm.context / GIB
    share = vllm.utilisation * hardware.gib
    if weights + cache + WORKSPACE <= share:
        return None
    return (
        f"vLLM has {share:.1f} GiB, {vllm.utilisation:g} of the card, and needs {weights + cache + WORKSPACE:.1f}: "
        f"{weights:.1f} for weights on {vllm.tensor_parallel} GPUs, {cache:.1f} for a sequence of {vllm.context:,} "
        f"tokens and {WORKSPACE:g} to work in; raise trl.vllm_gpu_memory_utilization, with "
        "trl.vllm_enable_sleep_mode=true, or trl.vllm_tensor_parallel_size"
    )


def _beside(setup: Setup, hardware: Hardware, moment: str) -> dict[str, float]:
    if not hardware.is_cuda:
        return {}
    found = {}
    if setup.vllm is not None:
        share = setup.vllm.utilisation * hardware.gib
        found["vLLM"] = ASLEEP if setup.vllm.sleeps and moment != ROLLOUT else share
    return {**found, "CUDA and fragments": CONTEXT + FRAGMENTED * hardware.gib}


def _gib(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: size / GIB for name, size in parts.items() if size}
