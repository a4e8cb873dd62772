"""`reranker.json`: the metadata beside a model's weights that make it rank as it did when exported.

The weights alone do not determine the prompts. The contract has the paradigm with all its parameters, the token
budget, and evidence: a fingerprint of fixed prompts as token ids, and the scores of fixed pairs.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_rerank import __version__
from rl_rerank.config import build
from rl_rerank.io import digest
from rl_rerank.io.files import write_json
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import make
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.wordings.files import content
from rl_rerank.types import Candidate, RankingExample

FILE = "reranker.json"
VERSION = 1

GOLDEN = (
    (
        "how to sort an array in place",
        (
            "Sort an array in place. The sort is stable when kind='stable'.",
            "Return the number of elements along a given axis.",
            "The capital of France is Paris [1], a city of two million people.",
        ),
    ),
    (
        "what causes tides?",
        (
            "Bread is baked from a dough of flour and water.",
            "Tides are caused by the gravity of the Moon and of the Sun: <answer> the Moon's share is larger.",
        ),
    ),
)
"""Fixed queries with fixed documents. Never change them: exported models are verified on them."""


@dataclass(kw_only=True)
class GoldenScores:
    """The exported model's scores of one entry of `GOLDEN`."""

    query: str
    documents: list[str]
    scores: list[float]


@dataclass(kw_only=True)
class Contract:
    """The content of `reranker.json`."""

    version: int = VERSION
    framework: str = f"rl-rerank {__version__}"
    paradigm: str
    paradigm_target: str | None = None
    """Location of the paradigm's code if it is not registered under its name."""
    paradigm_params: dict[str, Any]
    """All parameters including defaults, so that a later default changes nothing."""
    max_prompt_tokens: int
    max_passage_tokens: int | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: str
    prompt_fingerprint: str
    """sha256 of the token ids of the golden prompts."""
    continuation_ids: dict[str, list[int]] = field(default_factory=dict)
    """Continuation -> its token ids, for paradigms that score continuations."""
    base_model: str
    provenance: dict[str, str] = field(default_factory=dict)
    golden: list[GoldenScores] = field(default_factory=list)

    def build_paradigm(self) -> Paradigm:
        """Build the paradigm that the model was trained with."""
        return make(self.paradigm, self.paradigm_params, target=self.paradigm_target)


def parameters(paradigm: Paradigm) -> dict[str, Any]:
    """Collect all parameters of a paradigm; of a wording its content, so that the folder needs no other file."""
    assert dataclasses.is_dataclass(paradigm)
    found = {f.name: getattr(paradigm, f.name) for f in dataclasses.fields(paradigm) if f.init}
    if found.get("wording") is not None:
        found["wording"] = dict(content(found["wording"]))
    return found


def golden_example(query: str, documents: tuple[str, ...] | list[str]) -> RankingExample:
    """Convert an entry of `GOLDEN` to an example; a document's id is its index."""
    candidates = tuple(Candidate(docid=str(i), text=text, rank=i + 1) for i, text in enumerate(documents))
    return RankingExample(qid="golden", query=query, candidates=candidates)


def fingerprint(paradigm: Paradigm, renderer: Renderer) -> str:
    """Compute the sha256 of the token ids of the paradigm's first prompts for each golden entry."""
    rounds = [next(paradigm.strategy(golden_example(query, documents))) for query, documents in GOLDEN]
    ids = [[list(renderer(prompt).token_ids) for prompt in prompts] for prompts in rounds]
    return digest.of_json(ids)


def write(folder: Path, contract: Contract) -> None:
    """Write `reranker.json` into a model folder."""
    write_json(folder / FILE, dataclasses.asdict(contract))


def read(folder: Path) -> Contract:
    """Read `reranker.json` of a model folder.

    Raises:
        FileNotFoundError: if the folder has none.
        ValueError: if it is damaged, or was written by a later version.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {FILE}, so it is not known how to ask its model; make a folder that has one with "
            "`rl-rerank export`"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is damaged: it is not JSON ({e})") from None
    if not isinstance(values, Mapping) or not isinstance(values.get("version"), int):
        raise ValueError(f"{path} is damaged: it has no version number")
    if values["version"] != VERSION:
        raise ValueError(
            f"{path} has version {values['version']}, and rl-rerank {__version__} reads version {VERSION}; it was "
            f"written by {values.get('framework', 'an unknown program')}"
        )
    try:
        return build(Contract, values)
    except ValueError as e:
        raise ValueError(f"{path} is damaged: {e}") from None


def check(contract: Contract, paradigm: Paradigm, renderer: Renderer, folder: Path) -> None:
    """Refuse a tokenizer, template or paradigm whose prompts differ from those of training.

    Raises:
        ValueError: with the difference.
    """
    for text, ids in contract.continuation_ids.items():
        if list(renderer.continuation_ids(text)) != ids:
            raise ValueError(
                f"{str(folder)!r}: the tokenizer turns {text!r} into {list(renderer.continuation_ids(text))}, and the "
                f"model was exported with {ids}: its tokenizer files have changed"
            )
    if (found := fingerprint(paradigm, renderer)) != contract.prompt_fingerprint:
        raise ValueError(
            f"{str(folder)!r}: its prompts are no longer those that the model was exported with (fingerprint "
            f"{found[:12]}, expected {contract.prompt_fingerprint[:12]}): the tokenizer, the chat template or the "
            f"paradigm's code has changed since {contract.framework}"
        )
