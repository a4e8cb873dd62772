"""Rollouts by vLLM: trl's, with free engine arguments, one request a prompt, and weights that reach a CPU.

A colocated engine lives in every training process. Before it samples for a new step, it gets the policy's current
weights, one layer at a time: gathered where ZeRO has sharded them, with the adapter added out of place.
"""

# trl builds this class itself, and its own attributes are not declared.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor

from rl_rerank.engines.local import adapters
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.grpo import sync_check
from rl_rerank.training.grpo.trl_imports import grpo_trainer, import_vllm, vllm_generation

# trl was imported with vLLM hidden, so its module has no LLM that could be run or replaced. This reloads the module,
# which makes a new VLLMGeneration, and so comes before the class that derives from it.
import_vllm()

from rl_rerank.engines.local.vllm import VLLMEngine  # noqa: E402

logger = logging.getLogger(__name__)

OVERRIDES = ("_init_vllm", "_iter_named_params", "generate", "sync_weights")
"""The methods of trl's VLLMGeneration that `RolloutEngine` replaces, wraps or relies on."""

CHECKED_EVERY = 20
"""Syncs between two in which the engine's weights are compared with the policy's: about the time of another sync."""

FIXED = ("model", "tensor_parallel_size", "distributed_executor_backend", "logprobs_mode", "enable_sleep_mode")
"""Arguments of vllm.LLM that users cannot set: the training setup determines them, or the correction needs them.

`logprobs_mode` is one of the latter: log-probabilities have to be those after the temperature, as the trainer's are.
"""


class RolloutEngine(vllm_generation.VLLMGeneration):
    """trl's VLLMGeneration for ranking questions."""

    _syncs = 0

    def sync_weights(self) -> None:
        """Copy the policy's current weights into the engine, and drop the prefix cache of the old ones.

        Raises:
            ValueError: on every process, if the engine then has other weights; the first sync and every
                `CHECKED_EVERY`-th are checked.
        """
        self._copy_weights()
        if self.mode == "colocate" and self._syncs % CHECKED_EVERY == 0:
            self._check_weights()
        self._syncs += 1

    def _copy_weights(self) -> None:
        if self.accelerator.device.type != "cpu":
            super().sync_weights()
            return
        # On a CPU model that is initialised, `load_weights` fails because its parameters have lost their loaders.
        # `reload_weights` restores them and leaves the packed copy of the output head stale, above all where the head
        # is tied to the embedding: log-probabilities are then wrong by several nats without any error.
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=self._copies())
        self._pack_head(runner.model)
        # Keys and values of a prompt that comes again would otherwise be those of the old weights, under a completion
        # of the new ones.
        self.llm.reset_prefix_cache()

    def _check_weights(self) -> None:
        reason = "tensor parallelism divides them" if self.tensor_parallel_size > 1 else None
        if self.llm.llm_engine.model_config.quantization is not None:
            reason = "they are quantized"
        if reason is not None:
            if not self._syncs:
                logger.warning("vLLM's weights are not compared with the policy's, because %s", reason)
            return
        with torch.no_grad():
            model = self.llm.llm_engine.model_executor.driver_worker.model_runner.model
            found = sync_check.compare(model, self._iter_named_params(), self.llm.llm_engine.model_config.dtype)
        refused = [one for one in gather_object([sync_check.refusal(found)]) if one is not None]
        if refused:
            raise ValueError(refused[0])
        if not self._syncs:
            logger.info("vLLM holds the policy's weights: %d tensors are the same, bit for bit", len(found.equal))
            if found.unknown:
                names = f"{len(found.unknown)} tensors, such as {found.unknown[0]},"
                logger.warning("vLLM keeps %s in a way that cannot be compared", names)

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, ...]:
        """Generate as trl does, but send a colocated engine each prompt once, as one request for its whole group."""
        # trl's server mode already sends each prompt once. With tensor parallelism trl takes a process's share of the
        # completions by the number of its prompts, which is right only with one completion a prompt.
        if self.mode != "colocate" or self.tensor_parallel_size > 1:
            return super().generate(prompts, images, num_generations, profiler)
        assert images is None
        # trl sets n=1 for a colocated engine and lets these arguments override it. A group's duplicates are adjacent,
        # so every num_generations-th prompt is one of each, and completions come back in the order of the duplicates.
        self.generation_kwargs["n"] = num_generations
        _, *found = super().generate(prompts[::num_generations], None, num_generations, profiler)
        # trl returns the prompts that it sent; its trainer expects one for each completion.
        return prompts, *found

    @contextlib.contextmanager
    def answering(self, renderer: Renderer) -> Iterator[VLLMEngine]:
        """Answer other prompts with the policy's current weights, between two batches of completions.

        The next batch has to be preceded by `sync_weights`, which trl calls after every optimizer step and before the
        first one: a prefix cache with these prompts' keys would change the last bits of completions. Every process must
        enter the context, and those of a tensor-parallel group must ask the same.
        """
        with torch.no_grad():
            # Not the instance's own attribute, which counts the time for the step.
            type(self).sync_weights(self)
        if self.enable_sleep_mode:
            self.llm.wake_up(tags=["kv_cache"])
        self.accelerator.wait_for_everyone()  # as trl does before tensor-parallel calls, which could race with NCCL
        try:
            yield VLLMEngine(self.llm, renderer)
        finally:
            if self.enable_sleep_mode:
                self.llm.sleep(level=2)
                self._llm_weights_sleeping = True  # trl syncs again before it samples

    def _iter_named_params(self) -> Generator[tuple[str, Tensor], None, None]:
        """Yield every weight under its name in vLLM, as trl does, but leave the base of an adapter as it is.

        trl merges the adapter in place and removes it again, which changes the frozen weights at every sync, and with
        them the reference of the KL; and under ZeRO-3 it gathers the whole model on every GPU to do so.

        Raises:
            ValueError: for an adapter under FSDP.
        """
        if not isinstance(self.model, PeftModel):
            yield from super()._iter_named_params()
            return
        if self._dist.is_fsdp:
            raise ValueError(
                "an adapter cannot be sent to vLLM where FSDP shards its base; set launcher.strategy to ddp, zero1, "
                "zero2 or zero3, or rollout=hf"
            )
        for name, weight in adapters.merged_weights(self.model, self._dist.gather_params):
            yield self._fix_param_name_to_vllm(name), weight

    def _copies(self) -> Iterator[tuple[str, Tensor]]:
        """Yield a copy of every weight under its name."""
        # vLLM collects a layer's weights until it has them all. By then the iterator has moved on, where ZeRO frees a
        # gathered weight.
        for name, weight in self._iter_named_params():
            yield name, weight.clone()

    def _pack_head(self, model: Any) -> None:
        # On a CPU vLLM multiplies by a packed copy of the head, which is made here. It keeps the plain weight beside
        # it, as a tied embedding reads that one, so packing again is safe.
        head = model.lm_head
        head.quant_method.process_weights_after_loading(head)


@contextlib.contextmanager
def installed(engine_args: Mapping[str, Any]) -> Iterator[None]:
    """Make trl's GRPOTrainer build a `RolloutEngine` in this context, with `engine_args` over trl's own for vllm.LLM.

    trl has no setting for either, so this replaces the names that trl looks up while the trainer is constructed.

    Raises:
        ValueError: for an argument in FIXED.
    """
    if clash := sorted(set(engine_args) & set(FIXED)):
        raise ValueError(f"rollout_args.{clash[0]} cannot be set: it follows from the training setup")
    # Each module looks its own global up when it is called: LLM in the module of the engine, and the engine's class in
    # that of the trainer, which imported it by name.
    llm, generation = vllm_generation.LLM, grpo_trainer.VLLMGeneration
    vllm_generation.LLM = lambda **given: llm(**{**given, **engine_args})
    grpo_trainer.VLLMGeneration = RolloutEngine
    try:
        yield
    # Other trainers of this process must get trl's own again, also if the construction fails.
    finally:
        vllm_generation.LLM, grpo_trainer.VLLMGeneration = llm, generation
