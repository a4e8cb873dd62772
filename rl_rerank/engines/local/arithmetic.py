"""Where bfloat16 arithmetic is faster than float32."""

import torch

from rl_rerank.engines.local import amx


def prefers_bf16() -> bool:
    """Whether CUDA has bfloat16 or, without CUDA, the processor multiplies matrices in it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return amx.is_used()
