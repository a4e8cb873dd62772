"""trl's GRPOTrainer, imported without vLLM.

trl imports vLLM wherever it is installed, which costs a process 5 CPU seconds and 190 MB. Only rollouts by vLLM need
it; `vllm_rollout` imports it for them.
"""

import contextlib
import importlib
from collections.abc import Iterator

from trl import import_utils


@contextlib.contextmanager
def _vllm_hidden() -> Iterator[None]:
    """Hide vLLM from trl's modules that are first imported inside this context."""
    is_available = import_utils.is_vllm_available
    import_utils.is_vllm_available = lambda min_version=None: False
    try:
        yield
    finally:
        import_utils.is_vllm_available = is_available


with _vllm_hidden():
    from trl.generation import vllm_client, vllm_generation
    from trl.trainer import grpo_trainer
    from trl.trainer.grpo_trainer import GRPOTrainer


def import_vllm() -> None:
    """Add the vLLM names that trl's modules lack to them."""
    if not hasattr(vllm_generation, "LLM"):
        importlib.reload(vllm_client)
        importlib.reload(vllm_generation)


__all__ = ["GRPOTrainer", "grpo_trainer", "import_vllm", "vllm_generation"]
