"""Low-rank adapters."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters, merged into the stage's output."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str = "all-linear"
