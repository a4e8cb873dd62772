"""Rollouts by vLLM: trl's, with engine arguments that pass through, one request a prompt, and weights that reach a CPU.

A colocated engine lives in every training process. Before it samples for a new step it is given the policy's current
weights: gathered where ZeRO has sharded them, with adapters merged.
"""

# trl builds this class itself, and its own attributes are not declared.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rl_rerank.training.grpo.trl_imports import grpo_trainer, import_vllm, vllm_generation

import_vllm()

OVERRIDES = ("_init_vllm", "_iter_named_params", "generate", "sync_weights")
"""The methods of trl's VLLMGeneration that `RolloutEngine` replaces, wraps or leans on."""

FIXED = ("model", "tensor_parallel_size", "distributed_executor_backend", "logprobs_mode", "enable_sleep_mode")
"""Arguments of vllm.LLM that are not the user's: they follow from the training setup, or the correction needs them."""


class RolloutEngine(vllm_generation.VLLMGeneration):
    """trl's VLLMGeneration for ranking questions."""

    def sync_weights(self) -> None:
        """Give the engine the policy's current weights, and drop the prefix cache made with the old ones."""
        if self.accelerator.device.type != "cpu":
            super().sync_weights()
            return
        # On a CPU model that is initialised, `load_weights` fails because its parameters have lost their loaders.
        # `reload_weights` restores them and leaves the packed copy of the output head stale, above all where the head
        # is tied to the embedding: log-probabilities are then wrong by several nats without any error.
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=self._copies())
        self._pack_head(runner.model)
        self.llm.reset_prefix_cache()

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, ...]:
        """As trl's; a colocated engine gets a prompt once, as one request for its whole group."""
        if self.mode != "colocate" or self.tensor_parallel_size > 1:
            return super().generate(prompts, images, num_generations, profiler)
        assert images is None
        self.generation_kwargs["n"] = num_generations
        _, *found = super().generate(prompts[::num_generations], None, num_generations, profiler)
        return prompts, *found

    def _copies(self) -> Iterator[tuple[str, Tensor]]:
        """vLLM keeps a layer's weights until it has them all, when a gathered or merged weight may be gone."""
        for name, weight in self._iter_named_params():
            yield name, weight.clone()

    def _pack_head(self, model: Any) -> None:
        head = model.lm_head
        head.quant_method.process_weights_after_loading(head)


@contextlib.contextmanager
def installed(engine_args: Mapping[str, Any]) -> Iterator[None]:
    """Within it, trl's GRPOTrainer builds a `RolloutEngine` whose vllm.LLM takes `engine_args` over trl's own.

    trl has no setting for either, so the names that it looks up are replaced while it is constructed.

    Raises:
        ValueError: for an argument that cannot be set.
    """
    if clash := sorted(set(engine_args) & set(FIXED)):
        raise ValueError(f"rollout_args.{clash[0]} cannot be set: it follows from the training setup")
    llm, generation = vllm_generation.LLM, grpo_trainer.VLLMGeneration
    vllm_generation.LLM = lambda **given: llm(**{**given, **engine_args})
    grpo_trainer.VLLMGeneration = RolloutEngine
    try:
        yield
    finally:
        vllm_generation.LLM, grpo_trainer.VLLMGeneration = llm, generation
