"""`reranker.json`: the metadata beside a model's weights that make it rank as it did when exported.

The weights alone do not determine the prompts. The contract has the paradigm with all its parameters, the token
budget, how long documents are cut, and evidence: a fingerprint of fixed prompts as token ids, and fixed pairs with
their prompts, log-probabilities and scores. `reranker.schema.json` describes it for other programs.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_rerank import __version__
from rl_rerank.config import LongDocumentsConfig, build
from rl_rerank.io import digest
from rl_rerank.io.files import write_json
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import make
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.wordings.files import content
from rl_rerank.requirements import load
from rl_rerank.serving.calibration import Calibration
from rl_rerank.types import Candidate, RankingExample

FILE = "reranker.json"
SCHEMA = "reranker.schema.json"
"""Describes the file; in the package beside this module."""
VERSION = 2
READ_VERSIONS = (1, 2)
"""Versions that can be read. Contracts of version 1 have neither long documents nor the prompts of golden pairs."""

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
class GoldenPrompt:
    """A prompt as the exported model received it."""

    text: str
    token_ids: list[int]
    continuations: dict[str, float] = field(default_factory=dict)
    """Continuation -> its log-probability behind the prompt; empty for paradigms that generate."""


@dataclass(kw_only=True)
class GoldenScores:
    """The exported model's scores of one entry of `GOLDEN`."""

    query: str
    documents: list[str]
    scores: list[float]
    prompts: list[GoldenPrompt] = field(default_factory=list)
    """Of the first round, in which pointwise paradigms ask about each document in order."""


@dataclass(kw_only=True)
class CrossEncoderDoor:
    """How far sentence-transformers' CrossEncoder gives the scores of `Reranker`."""

    refusal: str = ""
    """Why it refuses the folder; empty: it loads it."""
    limits: list[str] = field(default_factory=list)
    """Inputs for which its scores differ."""


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
    long_documents: LongDocumentsConfig = field(default_factory=LongDocumentsConfig)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: str
    prompt_fingerprint: str
    """sha256 of the token ids of the golden prompts."""
    continuation_ids: dict[str, list[int]] = field(default_factory=dict)
    """Continuation -> its token ids, for paradigms that score continuations."""
    stop_ids: list[int] = field(default_factory=list)
    """Token ids at which generation stops, as in the folder's generation_config.json; empty: not recorded."""
    cross_encoder: CrossEncoderDoor | None = None
    """None: not recorded."""
    calibration: Calibration | None = None
    """How scores become probabilities of relevance; None: it was not fitted."""
    weights_sha256: dict[str, str] = field(default_factory=dict)
    """File of weights -> the sha256 of its content; empty: not recorded."""
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
    """Write `reranker.json` into a model folder, with the digests of its weights."""
    write_json(folder / FILE, dataclasses.asdict(contract) | {"weights_sha256": weights_sha256(folder)})


def weights_sha256(folder: Path) -> dict[str, str]:
    """Compute the sha256 of each file of weights in a model folder, by its path in it."""
    return {path.relative_to(folder).as_posix(): digest.of_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def schema() -> dict[str, Any]:
    """Read the JSON schema of `reranker.json`."""
    return json.loads((Path(__file__).parent / SCHEMA).read_text(encoding="utf-8"))


def check_schema(folder: Path) -> None:
    """Refuse a `reranker.json` that other programs could not read by the published schema.

    Raises:
        ValueError: with the place in the file and the reason.
        ImportError: if jsonschema is not installed.
    """
    validator = load("jsonschema", "export").Draft202012Validator(schema())
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    for error in validator.iter_errors(values):
        place = ".".join(map(str, error.absolute_path)) or "the whole"
        raise ValueError(f"{folder / FILE}: {place} does not follow {SCHEMA}: {error.message}")


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
    if values["version"] not in READ_VERSIONS:
        raise ValueError(
            f"{path} has version {values['version']}, and rl-rerank {__version__} reads versions up to {VERSION}; it "
            f"was written by {values.get('framework', 'an unknown program')}"
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
    if contract.stop_ids and sorted(renderer.stop_ids) != contract.stop_ids:
        raise ValueError(
            f"{str(folder)!r}: generation stops at the tokens {sorted(renderer.stop_ids)}, and the model was exported "
            f"with {contract.stop_ids}: its tokenizer, chat template or generation_config.json has changed"
        )
    if (found := fingerprint(paradigm, renderer)) != contract.prompt_fingerprint:
        raise ValueError(
            f"{str(folder)!r}: its prompts are no longer those that the model was exported with (fingerprint "
            f"{found[:12]}, expected {contract.prompt_fingerprint[:12]}): the tokenizer, the chat template or the "
            f"paradigm's code has changed since {contract.framework}"
        )
