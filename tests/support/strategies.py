"""The strategy that a trainer is really under, from the objects that compute and not from the settings."""

from typing import Any

from deepspeed import DeepSpeedEngine
from torch.nn.parallel import DistributedDataParallel


def active(trainer: Any) -> str:
    """`alone`, `ddp`, or `zero` with its stage."""
    model = trainer.model_wrapped
    if isinstance(model, DeepSpeedEngine):
        stage = model.zero_optimization_stage()
        # The third one divides the parameters themselves.
        assert all(hasattr(weight, "ds_id") for weight in model.module.parameters()) == (stage == 3)
        return f"zero{stage}"
    return "ddp" if isinstance(model, DistributedDataParallel) else "alone"
