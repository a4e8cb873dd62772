"""Evaluation on held-out queries during training, with the best step and early stopping."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation

from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.io.files import write_bytes, write_json
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.driver import rerank
from rl_rerank.training.loop.training_log import checkpoint_of
from rl_rerank.types import RankingExample

logger = logging.getLogger(__name__)

MEASURE, CUT = "nDCG@10", 10
BEST = "best.json"
"""In the stage's folder: the best step so far and its value."""


@dataclass(frozen=True)
class DevSet:
    """Held-out queries, ranked greedily by the trained paradigm from first-stage order."""

    examples: Sequence[RankingExample]
    qrels: Mapping[str, Mapping[str, int]]
    """qid -> docid -> grade; the ideal order includes all of them."""
    paradigm: Paradigm
    renderer: Renderer
    batch_tokens: int


def measure(trainer: Any, dev: DevSet) -> tuple[float, float]:
    """Measure mean nDCG@10 and the share of malformed answers; every process ranks its share of the queries."""
    accelerator = trainer.accelerator
    mine = dev.examples[accelerator.process_index :: accelerator.num_processes]
    checkpointing = trainer.args.gradient_checkpointing_kwargs
    with unwrap_model_for_generation(
        trainer.model_wrapped, accelerator, gradient_checkpointing_kwargs=checkpointing
    ) as unwrapped:
        model: Any = unwrapped
        was_training = model.training
        model.eval()
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        with disable_gradient_checkpointing(model, checkpointing), accelerator.autocast():
            engine = HFEngine(whole, dev.renderer, batch_tokens=dev.batch_tokens)
            rankings, _ = rerank(mine, dev.paradigm, engine)
        model.train(was_training)
    rows = gather_object([(ndcg(r.docids, dev.qrels[r.qid], k=CUT), r.num_malformed, r.num_prompts) for r in rankings])
    values, malformed, prompts = zip(*rows, strict=True)
    return sum(values) / len(values), sum(malformed) / max(sum(prompts), 1)


def is_patience_over(state: TrainerState, every: int, patience: int | None) -> bool:
    """Whether the last `patience` evaluations, one every `every` steps, gave no new best."""
    return patience is not None and (state.global_step - (state.best_global_step or 0)) // every >= patience


class DevEvaluation(TrainerCallback):
    """Evaluates before training, every `every` steps and at the last; saves the best step and stops early.

    Checkpoints hold the best so far, and a resumed run goes back to it.

    Values are logged in the step's row as `dev/nDCG@10` and `dev/malformed`. A step that is the best so far gets a
    checkpoint, which rotation keeps while it is the best.

    Args:
        evaluate: returns nDCG@10 and the share of malformed answers; every process must call it.
        log: receives a metric's name and value for the step's row.
        patience: evaluations without a new best before stopping; None never stops.
    """

    def __init__(
        self,
        folder: Path,
        evaluate: Callable[[], tuple[float, float]],
        log: Callable[[str, float], None],
        *,
        every: int,
        patience: int | None = None,
    ) -> None:
        self.folder = folder
        self.evaluate = evaluate
        self.log = log
        self.every = every
        self.patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            value, malformed = self.evaluate()
            logger.info("before training: %s %.4f on dev queries, %.1f%% malformed", MEASURE, value, 100 * malformed)
            self.log("dev/before", value)
        elif state.is_world_process_zero:
            self._copy_best(checkpoint_of(args, state), self.folder)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._copy_best(self.folder, checkpoint_of(args, state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        value, malformed = self.evaluate()
        self.log(f"dev/{MEASURE}", value)
        self.log("dev/malformed", malformed)
        if state.best_metric is None or value > state.best_metric:
            # transformers keeps the checkpoint of this step when it deletes older ones.
            state.best_metric, state.best_global_step = value, step
            control.should_save = True
            if state.is_world_process_zero:
                write_json(self.folder / BEST, {"step": step, MEASURE: value, "malformed": malformed})
        logger.info(
            "step %d: %s %.4f on dev queries, %.1f%% malformed; best %.4f at step %d",
            step,
            MEASURE,
            value,
            100 * malformed,
            state.best_metric,
            state.best_global_step,
        )
        if is_patience_over(state, self.every, self.patience):
            logger.info("stopping: no better %s on dev queries in %d evaluations", MEASURE, self.patience)
            control.should_save = control.should_training_stop = True

    def _copy_best(self, source: Path, target: Path) -> None:
        if (source / BEST).exists():
            write_bytes(target / BEST, (source / BEST).read_bytes())
        else:
            (target / BEST).unlink(missing_ok=True)
