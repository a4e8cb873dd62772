"""Low-rank adapters."""

import re
from dataclasses import dataclass

from rl_rerank.config.building import at_least


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters, merged into the stage's output."""

    r: int = 16
    """Rank of the update of a weight."""
    alpha: int = 32
    """The update is scaled by alpha / r."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """The modules with an adapter. A list names them by the last parts of their names, such as [q_proj,v_proj]; a
    string is a regular expression for whole names, or all-linear, which leaves out the head. Modules that share their
    weight, as a tied head and embedding do, cannot have one."""

    def __post_init__(self) -> None:
        at_least("lora", self, r=1, alpha=1, dropout=0)
        if self.dropout >= 1:
            raise ValueError(f"lora: dropout must be below 1; got {self.dropout}")
        if not self.target_modules or "" in list(self.target_modules):
            raise ValueError(f"lora: target_modules={self.target_modules!r} names no module; give some, or all-linear")
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as e:
                raise ValueError(
                    f"lora: target_modules={self.target_modules!r} is no regular expression ({e}); to name modules, "
                    "write a list in brackets: [q_proj,v_proj]"
                ) from e
