"""Comparing what an exported folder does today, by every program that loads it, with what it did at export.

Each door (transformers, vLLM, sentence-transformers' CrossEncoder) shows the golden pairs to the model again. The first
difference is named where it begins: the prompt's text, its token ids, the position that is read, the log-probabilities
there, or the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.tokenizer import renderer
from rl_rerank.requirements import is_installed, load
from rl_rerank.serving import contract
from rl_rerank.serving.comparison import Comparison
from rl_rerank.serving.contract import Contract, GoldenScores
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.scores import golden, prompts

if TYPE_CHECKING:
    from rl_rerank.serving.cross_encoder_door import Door

PACKAGES = {"hf": "transformers", "vllm": "vllm", "cross_encoder": "sentence_transformers"}
"""Target -> the package that it needs."""


@dataclass(frozen=True)
class Verdict:
    """The result of verifying one door."""

    target: str
    problems: tuple[str, ...]
    """Empty if the door ranks as at export, or refuses the folder as the contract says."""
    note: str

    @property
    def lines(self) -> list[str]:
        """One line for each problem, or one that says what was compared."""
        return [f"{self.target}: {said}" for said in self.problems or (self.note,)]


def verify(folder: Path, targets: Sequence[str] = (), trust_remote_code: bool = False) -> list[Verdict]:
    """Compare an exported folder by each door with its contract.

    Args:
        targets: some of `PACKAGES`; empty: hf, and cross_encoder if the contract claims it and it is installed.

    Raises:
        FileNotFoundError: if the folder is not an exported model.
        ValueError: for an unknown target, or a damaged contract.
        ImportError: if a target's package is missing.
    """
    terms = contract.read(folder)
    if unknown := [target for target in targets if target not in PACKAGES]:
        raise ValueError(f"targets must be some of {', '.join(PACKAGES)}; got {unknown[0]!r}")
    for target in targets:
        load(PACKAGES[target], f"verify: target {target}")
    claimed = (
        ("hf", "cross_encoder") if claims_cross_encoder(terms) and is_installed("sentence_transformers") else ("hf",)
    )
    return [_verdict(folder, terms, target, trust_remote_code) for target in targets or claimed]


def claims_cross_encoder(terms: Contract) -> bool:
    """Whether the contract says that CrossEncoder gives the scores of `Reranker`."""
    return terms.cross_encoder is not None and not terms.cross_encoder.refusal


def _verdict(folder: Path, terms: Contract, target: str, trust_remote_code: bool) -> Verdict:
    found = Comparison(terms.dtype)
    note = ""
    try:
        if target == "cross_encoder" and not claims_cross_encoder(terms):
            note = _refused(folder, terms, found, trust_remote_code)
        elif target == "cross_encoder":
            _by_cross_encoder(folder, terms, found, trust_remote_code)
        else:
            _by_engine(folder, terms, target, found, trust_remote_code)
    except (ValueError, LookupError, ImportError, OSError, RuntimeError) as e:
        found.problems.append(f"does not load or rank: {' '.join(str(e).split())}")
    return Verdict(target, (*_stops(folder, terms), *found.problems), note or found.note)


def _stops(folder: Path, terms: Contract) -> Iterator[str]:
    """Say where programs that read generation_config.json would stop elsewhere."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    ends = sorted(found) if isinstance(found, list) else [found]
    if terms.stop_ids and ends != terms.stop_ids:
        yield f"generation_config.json stops at the tokens {ends}, and the contract at {terms.stop_ids}"


def _by_engine(folder: Path, terms: Contract, kind: str, found: Comparison, trust_remote_code: bool) -> None:
    paradigm, how = terms.build_paradigm(), terms.long_documents
    model = ModelConfig(
        path=str(folder),
        trust_remote_code=trust_remote_code,
        max_prompt_tokens=terms.max_prompt_tokens,
        max_passage_tokens=terms.max_passage_tokens,
        template_kwargs=terms.template_kwargs,
    )
    render = renderer(model, folder)
    for then in terms.golden:  # Before the weights are read.
        shown = prompts(paradigm, render, how, then.query, then.documents) if then.prompts else []
        unscored = GoldenScores(query=then.query, documents=then.documents, scores=then.scores, prompts=shown)
        if not found.add(then, unscored):
            return
    reranker = Reranker.load(folder, kind, trust_remote_code=trust_remote_code)
    try:
        for then in terms.golden:
            found.add(then, golden(paradigm, reranker.engine, render, how, then.query, then.documents))
    finally:
        reranker.close()


def _by_cross_encoder(folder: Path, terms: Contract, found: Comparison, trust_remote_code: bool) -> None:
    door = _door(folder, terms, trust_remote_code)
    for then in terms.golden:
        if not found.add(then, door.answer(then)):
            break
    found.problems += door.settings()
    found.problems += door.cut(terms.golden)


def _refused(folder: Path, terms: Contract, found: Comparison, trust_remote_code: bool) -> str:
    """Check that CrossEncoder refuses the folder, or says so of its first pair."""
    if terms.cross_encoder is None:
        raise ValueError("the folder was exported before CrossEncoder was compared; export it again")
    try:
        answered = _door(folder, terms, trust_remote_code).answer(terms.golden[0])
    except (ValueError, ImportError) as e:
        return f"refuses the folder, as the contract says: {' '.join(str(e).split())}"
    found.problems.append(f"loads the folder and scores {answered.scores}, and {terms.cross_encoder.refusal}")
    return ""


def _door(folder: Path, terms: Contract, trust_remote_code: bool) -> Door:
    module = load("rl_rerank.serving.cross_encoder_door", "verify: target cross_encoder")
    return module.Door(folder, terms, trust_remote_code)
