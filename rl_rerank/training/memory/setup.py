"""What decides the memory of a training process. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rl_rerank.config import LoraConfig, ModelConfig


@dataclass(frozen=True, slots=True)
class Colocated:
    """A vLLM engine in every training process."""

    utilisation: float
    """Its share of the card."""
    tensor_parallel: int
    sleeps: bool
    """Whether it gives its memory back while weights are trained."""
    context: int
    """Tokens of the longest prompt with its completion."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How one training process holds and trains a model."""

    model: ModelConfig
    strategy: str
    """local, ddp, zero1, zero2, zero3 or zero3-offload."""
    processes: int
    lora: LoraConfig | None
    bf16: bool
    """Whether arithmetic is in bfloat16."""
    checkpointing: bool
    """Whether layers are computed again in the backward."""
    has_reference: bool
    """Whether a second copy of the model, for the KL, stands beside the trained one."""
    tokens: int
    """The most tokens of a micro-batch that cannot be made smaller."""
    budget: int | Literal["auto"] | None = None
    """Token budget of a micro-batch of parts of up to `tokens` tokens; None: every micro-batch is one such part."""
    is_rare: bool = False
    """Whether few parts come near `tokens`, so that with a budget a longest one that does not fit refuses nothing."""
    vllm: Colocated | None = None
    teacher: ModelConfig | None = None
    """The model of a teacher that stands beside the trained one; None if there is none."""

    @property
    def zero(self) -> int:
        """ZeRO's stage; 0 without DeepSpeed."""
        return int(self.strategy[4]) if self.strategy.startswith("zero") else 0

    @property
    def is_bf16_mode(self) -> bool:
        """Whether DeepSpeed's bf16 mode keeps bfloat16 weights beside float32 masters; see `loop.precision`."""
        return self.zero > 0 and self.bf16 and self.model.dtype == "bfloat16"

    @property
    def autocasts(self) -> bool:
        """Whether float32 weights are cast to bfloat16 where they are used."""
        return self.bf16 and not self.is_bf16_mode

    @property
    def largest(self) -> int:
        """The most tokens of any micro-batch."""
        return max(self.tokens, self.budget) if isinstance(self.budget, int) else self.tokens

    @property
    def required(self) -> int:
        """The most tokens of a micro-batch that must fit; 0 if any will do."""
        if self.is_rare and self.budget is not None:
            return 0 if self.budget == "auto" else self.budget
        return self.largest

    @property
    def shared(self) -> int:
        """Processes over which DeepSpeed spreads the optimizer's states; 1 without it."""
        return self.processes if self.zero else 1

    def __str__(self) -> str:
        processes = f"{self.processes} processes ({self.strategy})" if self.processes > 1 else "1 process"
        parts = [
            processes,
            "all weights" if self.lora is None else f"LoRA of rank {self.lora.r}",
            "bfloat16 arithmetic" if self.bf16 else "float32",
            f"{'with' if self.checkpointing else 'without'} gradient checkpointing",
        ]
        return ", ".join(parts)
