"""A cycle: the optimizer steps that learn from one batch of completions, and the part of a checkpoint that they need.

A checkpoint in the middle of a cycle holds the batch, one file a process. Without it a resumed run would sample
another batch for the rest of the cycle.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io.files import write_json
from rl_rerank.training.grpo import balance, updates
from rl_rerank.training.grpo.log_probs import LogProbs
from rl_rerank.training.loop.checkpoints import checkpoint_of, writing, written_checkpoint

STATE, BATCH = "cycle.json", "cycle_{process}.safetensors"
"""In a checkpoint: what processes share; a process's micro-batches, of which tensors are named NUMBER.NAME."""


class Cycle(TrainerCallback):
    """Takes micro-batches from the current batch; saves its state with every checkpoint before it is finished,
    and restores it.

    Args:
        trainer: a RankingGRPOTrainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._saved = 0
        self._before: dict[str, Any] = {}

    def inputs(self, generation_batch: Any) -> dict[str, Tensor | None]:
        """Take the next micro-batch; sample a batch of completions when a cycle begins.

        As trl does, less the shuffling of rows, which would tear groups apart. Where a batch is one optimizer step's,
        the order of its rows changes nothing, so groups are dealt to the processes by their cost instead.
        """
        trainer, steps = self.trainer, self.trainer.args.steps_per_generation
        if not self._is_within:
            self._before = {"tokens": trainer.state.num_input_tokens_seen, "cpu": torch.get_rng_state()}
            if torch.cuda.is_available():
                self._before["cuda"] = torch.cuda.get_rng_state()
            batch = balance.dealt(trainer, trainer._generate_and_score_completions(generation_batch), self.updates)
            trainer._buffered_inputs = updates.split(batch, trainer.accelerator, steps, self.updates)
        return trainer._buffered_inputs[trainer._step % steps]

    def save_before_batch(self) -> None:
        """Save a checkpoint of the last step while a batch is scored, unless there is one.

        Its state is the one in which the batch was sampled, so that a resumed run samples the same.
        """
        trainer = self.trainer
        if trainer.state.global_step == self._saved:
            return
        trainer.state.num_input_tokens_seen = self._before["tokens"]
        torch.set_rng_state(self._before["cpu"])
        if "cuda" in self._before:
            torch.cuda.set_rng_state(self._before["cuda"])
        with writing(trainer.args, trainer.state):
            trainer._save_checkpoint(trainer.model, trial=None)
            trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    @property
    def updates(self) -> int:
        """Optimizer steps that a batch of completions is divided into."""
        return self.trainer.args.steps_per_generation // self.trainer.args.gradient_accumulation_steps

    @property
    def _forwards(self) -> list[LogProbs]:
        """The forwards whose way is chosen on the first batch."""
        teacher = self.trainer.teacher
        return [self.trainer.log_probs, *([] if teacher is None else [teacher.log_probs])]

    @property
    def _is_within(self) -> bool:
        """Whether the next micro-batch belongs to a batch that has been sampled."""
        return self.trainer._step % (self.trainer.args.steps_per_generation * self.trainer.num_iterations) != 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # trl counts micro-batches from 0 after every start, which would shift all later cycles.
        self.trainer._step = state.global_step * args.gradient_accumulation_steps
        self._saved = state.global_step
        if state.global_step:
            self._restore(checkpoint_of(args, state))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer, folder = self.trainer, written_checkpoint(args, state)
        self._saved = state.global_step
        batch = trainer._buffered_inputs if self._is_within else []
        if state.is_world_process_zero:
            shared = {
                "processes": trainer.accelerator.num_processes,
                "num_tokens": trainer.num_tokens,
                "log_probs": [one.state() for one in self._forwards],
                "absent": sorted({name for part in batch for name, value in part.items() if value is None}),
            }
            write_json(folder / STATE, shared)
        if batch:
            # Copies, because safetensors refuses tensors that share memory, as the slices of a batch do.
            tensors = {
                f"{number}.{name}": value.detach().cpu().clone()
                for number, part in enumerate(batch)
                for name, value in part.items()
                if value is not None
            }
            save_file(tensors, folder / BATCH.format(process=trainer.accelerator.process_index))

    def _restore(self, folder: Path) -> None:
        """Restore the state at a checkpoint.

        Raises:
            ValueError: in the middle of a cycle, if another number of processes has sampled its batch.
        """
        trainer, accelerator = self.trainer, self.trainer.accelerator
        shared = json.loads((folder / STATE).read_text(encoding="utf-8"))
        trainer.num_tokens = shared["num_tokens"]
        for one, state in zip(self._forwards, shared["log_probs"], strict=True):
            one.restore(state)
        if not self._is_within:
            return
        if shared["processes"] != accelerator.num_processes:
            raise ValueError(
                f"{folder} lies between optimizer steps on the same completions, which {shared['processes']} processes "
                f"hold in parts, and this run has {accelerator.num_processes}; start it with "
                f"launcher.num_processes={shared['processes']}, or remove this checkpoint"
            )
        absent = dict.fromkeys(shared["absent"])
        parts: list[dict[str, Any]] = [{**absent} for _ in range(trainer.args.steps_per_generation)]
        for key, value in load_file(folder / BATCH.format(process=accelerator.process_index)).items():
            number, _, name = key.partition(".")
            parts[int(number)][name] = value.to(accelerator.device)
        trainer._buffered_inputs = parts
