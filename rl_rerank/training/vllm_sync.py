"""Giving the colocated vLLM engine the policy's current weights on CPU.

trl's own sync calls `load_weights`, which fails on an initialised CPU model because its parameters have lost their
loaders. `reload_weights` restores them, and leaves the packed copy of the output head stale, above all where the head
is tied to the embedding: log-probabilities are then wrong by several nats without any error. The head is packed again.
"""

from __future__ import annotations

from typing import Any


def sync_on_cpu(generation: Any) -> None:
    """Load the trainer's weights into a trl VLLMGeneration in colocate mode, and drop its prefix cache."""
    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=((name, weight) for name, weight in generation._iter_named_params()))
    head = runner.model.lm_head
    head.quant_method.process_weights_after_loading(head)
    generation.llm.reset_prefix_cache()
