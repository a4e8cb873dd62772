"""Evaluation on held-out queries during training, with the best step and early stopping.

Dev queries are ranked by the protocol of the rerank stage that will report the model: candidates in the same seeded
random order. Steps are compared by the expected nDCG over random orders of what the model leaves open, equal scores and
queries without a usable answer. A model that answers nothing, the same for every document, or in the order shown has
the value of a random order, whatever the first stage knew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation

from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.io.files import write_bytes, write_json
from rl_rerank.metrics import ndcg
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.methods import rank
from rl_rerank.training.loop.checkpoints import checkpoint_of, written_checkpoint
from rl_rerank.types import Ranking, RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.rerank.spec import RerankStage

logger = logging.getLogger(__name__)

MEASURE, CUT = "nDCG@10", 10
EXPECTED = f"expected_{MEASURE}"
BEST = "best.json"
"""In the stage's folder: the best step so far and its values. Step 0 is the starting model."""

Qrels = Mapping[str, Mapping[str, int]]
"""qid -> docid -> grade; the ideal order includes all of them."""


@dataclass(frozen=True)
class DevSet:
    """Held-out queries, and how they are ranked."""

    examples: Sequence[RankingExample]
    qrels: Qrels
    paradigm: Paradigm
    renderer: Renderer
    batch_tokens: int
    protocol: RerankStage
    engine: Literal["hf", "vllm"] = "hf"
    """Who answers: the policy itself, or the vLLM in the training process that samples its rollouts."""


@dataclass(frozen=True)
class DevValues:
    """Means over the dev queries."""

    ndcg: float
    """nDCG@10 of the final order, as an evaluate stage computes it."""
    expected: float
    """nDCG@10 in expectation over random orders of ties and of queries without a usable answer; selects the best."""
    malformed: float
    """Share of answers that are not well formed."""
    fallbacks: float
    """Share of answers that are of no use."""
    ties: float
    """Share of a query's document pairs that have equal scores."""


def measure(trainer: Any, dev: DevSet) -> DevValues:
    """Rank the dev queries with the policy as it is; every process ranks its share of them."""
    accelerator, is_vllm = trainer.accelerator, dev.engine == "vllm"
    size = trainer.vllm_generation.tensor_parallel_size if is_vllm else 1
    mine, counts = share(dev.examples, accelerator.process_index, accelerator.num_processes, size)
    with trainer.vllm_generation.answering(dev.renderer) if is_vllm else _policy(trainer, dev) as engine:
        rankings, _ = rank(mine, dev.paradigm, engine, dev.protocol)
    rows = [_row(ranking, dev.qrels[ranking.qid]) for ranking in rankings] if counts else []
    return _means(gather_object(rows))


def share(
    examples: Sequence[RankingExample], process: int, processes: int, tensor_parallel: int
) -> tuple[Sequence[RankingExample], bool]:
    """Choose the examples that a process ranks; whether it counts them.

    The `tensor_parallel` processes that an engine is spread over come one after the other. They have to ask it the same
    in the same order, and the first of them counts.
    """
    group, place = divmod(process, tensor_parallel)
    return examples[group :: processes // tensor_parallel], place == 0


@contextmanager
def _policy(trainer: Any, dev: DevSet) -> Iterator[HFEngine]:
    checkpointing = trainer.args.gradient_checkpointing_kwargs
    with unwrap_model_for_generation(
        trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=checkpointing
    ) as unwrapped:
        model: Any = unwrapped
        was_training = model.training
        model.eval()
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        with disable_gradient_checkpointing(model, checkpointing), trainer.accelerator.autocast():
            yield HFEngine(whole, dev.renderer, batch_tokens=dev.batch_tokens)
        model.train(was_training)


def references(dev: DevSet) -> dict[str, float]:
    """Compute the mean nDCG@10 of the first stage's order and, in expectation, of random orders; count the queries."""
    grades = [dev.qrels[example.qid] for example in dev.examples]
    orders = [example.docids for example in dev.examples]
    first = [ndcg(order, given, k=CUT) for order, given in zip(orders, grades, strict=True)]
    anyhow = [ndcg(dict.fromkeys(order, 0.0), given, k=CUT) for order, given in zip(orders, grades, strict=True)]
    return {
        "first_stage": sum(first) / len(first),
        "random": sum(anyhow) / len(anyhow),
        "queries": float(len(dev.examples)),
    }


def expected_ndcg(ranking: Ranking, grades: Mapping[str, int]) -> float:
    """Compute nDCG@10 in expectation over random orders of what the model left open.

    These are documents with equal scores, and all documents if no answer was of use. Windows without a usable answer
    beside others that have one keep the order shown, which is one random order.
    """
    if ranking.num_prompts and ranking.num_fallbacks >= ranking.num_prompts:
        return ndcg(dict.fromkeys(ranking.docids, 0.0), grades, k=CUT)
    return ndcg(ranking.docids if ranking.raw_scores is None else ranking.raw_scores, grades, k=CUT)


def _row(ranking: Ranking, grades: Mapping[str, int]) -> tuple[float, float, int, int, int, float]:
    value, expected = ndcg(ranking.docids, grades, k=CUT), expected_ndcg(ranking, grades)
    return value, expected, ranking.num_malformed, ranking.num_fallbacks, ranking.num_prompts, _tied(ranking)


def _tied(ranking: Ranking) -> float:
    """Compute the share of document pairs with equal scores; 0 if the model gave an order only."""
    scores = list((ranking.raw_scores or {}).values())
    pairs = len(scores) * (len(scores) - 1)
    return sum(count * (count - 1) for count in Counter(scores).values()) / pairs if pairs else 0.0


def _means(rows: Sequence[tuple[float, float, int, int, int, float]]) -> DevValues:
    values, expected, malformed, fallbacks, prompts, ties = (sum(column) for column in zip(*rows, strict=True))
    asked = max(prompts, 1)
    return DevValues(values / len(rows), expected / len(rows), malformed / asked, fallbacks / asked, ties / len(rows))


@dataclass(frozen=True)
class Bounds:
    """Shares above which a step cannot be the best."""

    malformed: float
    ties: float

    def exceeded(self, found: DevValues) -> str:
        """Name the bound that a step exceeds, with both numbers; empty if none."""
        for name, value, bound in (
            ("malformed", found.malformed, self.malformed),
            ("ties", found.ties, self.ties),
        ):
            if value > bound:
                return f"dev/{name} is {value:.3f}, above max_{name}={bound}"
        return ""


def is_patience_over(state: TrainerState, every: int, patience: int | None) -> bool:
    """Whether the last `patience` evaluations, one every `every` steps, gave no new best."""
    return patience is not None and (state.global_step - (state.best_global_step or 0)) // every >= patience


class DevEvaluation(TrainerCallback):
    """Evaluates before training, every `every` steps and at the last; saves the best step and stops early.

    Values are logged in the step's row under `dev/`. The starting model is the first candidate. A step that is the best
    so far gets a checkpoint, which rotation keeps while it is the best. Checkpoints hold the best so far, and a resumed
    run goes back to it.

    Args:
        evaluate: measures the policy; every process must call it.
        log: receives a metric's name and value for the step's row.
        constants: logged beside every evaluation, such as the first stage's value.
        engine: who ranks, recorded with the best step and in the log.
        patience: evaluations without a new best before stopping; None never stops.
    """

    def __init__(
        self,
        folder: Path,
        evaluate: Callable[[], DevValues],
        log: Callable[[str, float], None],
        *,
        every: int,
        bounds: Bounds,
        constants: Mapping[str, float],
        engine: str = "hf",
        patience: int | None = None,
    ) -> None:
        self.folder = folder
        self.evaluate = evaluate
        self.log = log
        self.every = every
        self.bounds = bounds
        self.constants = constants
        self.engine = engine
        self.patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            found = self.evaluate()
            logger.info("before training: %s on dev queries, by %s", _sentence(found), self.engine)
            self.log("dev/before", found.ndcg)
            self.log("dev/expected_before", found.expected)
            self._choose(state, found)
        elif state.is_world_process_zero:
            self._copy_best(checkpoint_of(args, state), self.folder)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._copy_best(self.folder, written_checkpoint(args, state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        found = self.evaluate()
        shares = {"malformed": found.malformed, "fallbacks": found.fallbacks, "ties": found.ties}
        for name, value in {MEASURE: found.ndcg, EXPECTED: found.expected, **shares, **self.constants}.items():
            self.log(f"dev/{name}", value)
        if state.best_metric is None or found.expected > state.best_metric:
            if reason := self.bounds.exceeded(found):
                logger.warning("step %d would be the best on dev queries, but %s", step, reason)
            else:
                self._choose(state, found)
                # transformers keeps the checkpoint of this step when it deletes older ones.
                control.should_save = True
        logger.info(
            "step %d: %s on dev queries, by %s; best %s %.4f at step %d",
            step,
            _sentence(found),
            self.engine,
            EXPECTED,
            state.best_metric,
            state.best_global_step,
        )
        if is_patience_over(state, self.every, self.patience):
            logger.info("stopping: no better %s on dev queries in %d evaluations", EXPECTED, self.patience)
            control.should_save = control.should_training_stop = True

    def _choose(self, state: TrainerState, found: DevValues) -> None:
        state.best_metric, state.best_global_step = found.expected, state.global_step
        if state.is_world_process_zero:
            values = {MEASURE: found.ndcg, EXPECTED: found.expected, "malformed": found.malformed, "ties": found.ties}
            write_json(self.folder / BEST, {"step": state.global_step, **values, "engine": self.engine})

    def _copy_best(self, source: Path, target: Path) -> None:
        if (source / BEST).exists():
            write_bytes(target / BEST, (source / BEST).read_bytes())
        else:
            (target / BEST).unlink(missing_ok=True)


def _sentence(found: DevValues) -> str:
    return f"{MEASURE} {found.ndcg:.4f}, {found.expected:.4f} in expectation, {100 * found.malformed:.1f}% malformed"
