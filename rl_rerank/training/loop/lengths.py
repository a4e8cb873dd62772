"""Checks of prompt and completion lengths against the model's context, and prompt lengths of a training stage.

No model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import random
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank.config import Config, ModelConfig
from rl_rerank.data import Store
from rl_rerank.data.indexed import longest
from rl_rerank.engines.local import embedded
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.long_documents import view
from rl_rerank.types import Prompt, RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.training import TrainingStage

logger = logging.getLogger(__name__)

LONGEST = 20
"""Queries of which `warn_of_longest` renders a prompt."""
SAMPLE = 200
"""Maximum number of rendered prompts per stage."""

BINS = 10
BAR = 40
"""Characters in the longest bar."""


def check_context(model: ModelConfig, name: str, completion_tokens: int, folder: Path | None = None) -> None:
    """Refuse a training stage whose prompts and completions may be longer than the model's context.

    Args:
        name: the stage's name.
        completion_tokens: length of its longest possible completion.
        folder: the model's folder; None looks for one on this machine. Without one, the context is unknown and nothing
            is refused.

    Raises:
        ValueError: with the arithmetic.
    """
    context = _context(folder) if folder is not None else local_context(model)
    prompt = model.max_prompt_tokens
    if context is not None and prompt + completion_tokens > context:
        raise ValueError(
            f"stages.{name}: model.max_prompt_tokens={prompt} + {completion_tokens} tokens of a completion = "
            f"{prompt + completion_tokens}, more than the model's context of {context}; lower model.max_prompt_tokens "
            f"to {context - completion_tokens} or less"
        )


def local_context(model: ModelConfig) -> int | None:
    """Read the context of a model on this machine; None if it is not here or gives no context."""
    if model.path == embedded.NAME:
        return embedded.CONTEXT
    folder = local_folder(model)
    return None if folder is None else _context(folder)


def local_folder(model: ModelConfig) -> Path | None:
    """Find the folder of a model's configuration on this machine, without a download; None if it is not here."""
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return folder
    if model.path == embedded.TINY_VL:
        try:
            return importlib.import_module("rl_rerank.engines.local.tiny_vl").folder()  # makes it
        except ImportError:
            return None
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    hub = importlib.import_module("huggingface_hub")
    try:
        found = hub.try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    except hub.errors.HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


@dataclass(frozen=True)
class Lengths:
    """The prompts of one training stage, in tokens."""

    name: str
    kind: str
    tokens: tuple[int, ...]
    """Length of each prompt as the model sees it."""
    shrunk: int
    """Number of prompts whose documents were shrunk to the budget."""
    budget: int
    estimate: bool = False
    """Whether another model's tokenizer counted the tokens."""
    documents: tuple[int, ...] = ()
    """Length of each document of these prompts before it is cut to a budget, up to that of a prompt."""
    passage_budget: int | None = None
    """model.max_passage_tokens."""

    def lines(self) -> list[str]:
        """Format a summary and a histogram."""
        if not self.tokens:
            return [f"{self.name}: no training query gives a prompt yet"]
        ordered = sorted(self.tokens)
        share = self.shrunk / len(ordered)
        p95 = percentile_95(ordered)
        unit = "estimated tokens" if self.estimate else "tokens"
        return [
            f"{self.name}: {len(ordered)} {self.kind} prompts, in {unit}: median {statistics.median(ordered):.0f}, "
            f"p95 {p95}, max {ordered[-1]} of {self.budget}; {share:.0%} shrunk to fit",
            *_histogram(ordered),
            *self._documents(unit),
        ]

    def _documents(self, unit: str) -> Iterator[str]:
        """The lengths of documents, and the budget that shows most of them whole: proposed, never applied."""
        if not (ordered := sorted(self.documents)):
            return
        p95 = percentile_95(ordered)
        whole = sum(length <= (self.passage_budget or self.budget) for length in ordered) / len(ordered)
        line = (
            f"{self.name}: {len(ordered)} documents of them, in {unit}: median {statistics.median(ordered):.0f}, p95 "
            f"{p95}; model.max_passage_tokens={self.passage_budget or 'null'} has room for {whole:.0%} of them"
        )
        if p95 >= self.budget:
            yield f"{line}, and 95% need all of max_prompt_tokens={self.budget} or more: long_documents can split them"
        else:
            yield f"{line}, {p95} for 95%"


def percentile_95(ordered: Sequence[int]) -> int:
    """Find the 95th percentile by nearest rank: the smallest value that 95% do not exceed, of values in order."""
    return ordered[-(-95 * len(ordered) // 100) - 1]


def _histogram(ordered: Sequence[int]) -> Iterator[str]:
    low, high = ordered[0], ordered[-1]
    width = (high - low) // BINS + 1
    counts = [0] * ((high - low) // width + 1)
    for value in ordered:
        counts[(value - low) // width] += 1
    digits = len(str(high + width))
    for i, count in enumerate(counts):
        start = low + i * width
        bar = "#" * -(-BAR * count // max(counts))
        yield f"  {start:>{digits}} - {start + width - 1:>{digits}}  {bar:<{BAR}} {count}"


def measure(config: Config, name: str, stage: TrainingStage, store: Store, tokenizer: Any) -> Lengths:
    """Render up to SAMPLE prompts of a training stage.

    Raises:
        ValueError: if a prompt does not fit the budget even without documents.
    """
    cap = min(config.model.max_passage_tokens or config.model.max_prompt_tokens, config.model.max_prompt_tokens)
    seeing = sight(config.model)
    fitted, free = (
        Renderer(
            tokenizer,
            max_prompt_tokens=budget,
            max_passage_tokens=cap,
            template_kwargs=config.model.template_kwargs,
            **seeing,
        )
        for budget in (config.model.max_prompt_tokens, 1_000_000_000)
    )
    whole = Renderer(
        tokenizer,
        max_prompt_tokens=1_000_000_000,
        max_passage_tokens=config.model.max_prompt_tokens,
        template_kwargs=config.model.template_kwargs,
        **seeing,
    )
    tokens: list[int] = []
    documents: list[int] = []
    shrunk = 0
    for prompt in _sample(config, stage, store):
        rendered = fitted(prompt)
        tokens.append(len(rendered.token_ids))
        documents += [end - start for start, end in whole(prompt).spans.values()]
        # A document can also be cut at max_passage_tokens, where the budget has room.
        shrunk += bool(rendered.shrunk) and len(free(prompt).token_ids) > config.model.max_prompt_tokens
    kind = " and ".join(stage.mixture(config))
    return Lengths(
        name,
        kind,
        tuple(tokens),
        shrunk,
        config.model.max_prompt_tokens,
        documents=tuple(documents),
        passage_budget=config.model.max_passage_tokens,
    )


def _sample(config: Config, stage: TrainingStage, store: Store) -> Iterator[Prompt]:
    """Yield up to SAMPLE prompts in grpo's order; several paradigms in proportion to their rows."""
    shares = stage.mixture(config)
    examples = store.examples("train")
    order = array("I", range(len(examples)))
    random.Random(f"{stage.seed}:0").shuffle(order)
    for name, share in shares.items():
        paradigm = build_paradigm(config, name)
        prompts = (
            prompt for example in map(examples.__getitem__, order) for prompt in _prompts(example, paradigm, stage)
        )
        yield from islice(prompts, max(SAMPLE * share // sum(shares.values()), 1))


def _prompts(example: RankingExample, paradigm: Paradigm, stage: TrainingStage) -> Iterator[Prompt]:
    """Yield the prompts of a training query, with documents as the stage shows them."""
    seen, rng = view(example, stage.long_documents), random.Random(f"{stage.seed}:0:{example.qid}")
    for prompt in paradigm.prompts(example if seen.owners else seen.example, rng):
        if not seen.owners:
            yield prompt
            continue
        for passage in (passage for docid in prompt.docids for passage in seen.passages(docid)):
            yield paradigm.prompt(seen.example, [passage])


def warn_of_longest(
    name: str, examples: Sequence[RankingExample], paradigms: Iterable[Paradigm], renderer: Renderer
) -> None:
    """Render prompts about the longest queries before a stage trains, and warn of one that does not fit the budget.

    Training stops where it is asked, which may be days later or never.
    """
    for example in map(examples.__getitem__, longest(examples, LONGEST)):
        for paradigm in paradigms:
            try:
                for prompt in paradigm.prompts(example, random.Random(example.qid))[:1]:
                    renderer(prompt)
            except ValueError as e:
                logger.warning("stages.%s stops when it comes to a query that it cannot ask about: %s", name, e)


def _context(folder: Path) -> int | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    found = values.get("text_config", values).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def sight(model: ModelConfig) -> dict[str, Any]:
    """Find how a model on this machine sees images: the arguments `vision` and `blindness` of a Renderer."""
    folder = local_folder(model)
    if folder is None:
        return {"blindness": f"model.path={model.path!r} reads text only, or is not on this machine"}
    return importlib.import_module("rl_rerank.engines.local.processor").sight(model, folder)


def local_tokenizer(model: ModelConfig) -> Any:
    """Load the model's tokenizer without a download.

    Raises:
        ImportError, OSError: if a package or a file is missing.
    """
    # Imported when it is needed: the plan is also shown where transformers is not installed.
    transformers = importlib.import_module("transformers")
    where, more = model.path, {"revision": model.revision}
    if model.path == embedded.TINY_VL:
        where = str(importlib.import_module("rl_rerank.engines.local.tiny_vl").folder())
    if model.path == embedded.NAME:
        file = embedded.file()
        where, more = str(file.parent), {"gguf_file": file.name}
    return transformers.AutoTokenizer.from_pretrained(
        str(Path(where).expanduser()) if Path(where).expanduser().is_dir() else where,
        local_files_only=True,
        trust_remote_code=model.trust_remote_code,
        **more,
    )
