"""Opening a door by the name of a target."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rl_rerank.requirements import load
from rl_rerank.serving import sequence_classification
from rl_rerank.serving.contract import Contract
from rl_rerank.serving.doors import processes
from rl_rerank.serving.doors.base import Door
from rl_rerank.serving.doors.engine import EngineDoor, rendering
from rl_rerank.serving.doors.generative_scoring import GenerativeScoring
from rl_rerank.serving.doors.http import RerankDoor, ScoreDoor
from rl_rerank.serving.doors.pairs import PairPrompts
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.vllm_pairs import SCORE_TEMPLATE

PACKAGES = {
    "hf": "transformers",
    "vllm": "vllm",
    "cross_encoder": "sentence_transformers",
    "vllm_score": "vllm",
    "vllm_generative_scoring": "vllm",
    "server": "uvicorn",
    "seqcls": "transformers",
}
"""Target -> the package that it needs. An address is a target as well."""
ENGINES = ("hf", "vllm", "vllm_generative_scoring")
"""Targets that are asked by our rendering of prompts, and so have them before any weights are read."""


def is_address(target: str) -> bool:
    """Whether a target is the address of a server."""
    return target.startswith(("http://", "https://"))


def opened(folder: Path, terms: Contract, target: str, trust_remote_code: bool) -> Door:
    """Load the folder by a target's program, or ask the server at an address.

    Raises:
        ValueError: if the folder is not for this door, or ranks otherwise already by its files.
        RuntimeError: if a server does not start.
    """
    if is_address(target):
        return RerankDoor(target)
    if target in ("hf", "vllm"):
        engine = Reranker.load(folder, target, trust_remote_code=trust_remote_code).engine
        return EngineDoor(terms, engine, rendering(folder, terms, trust_remote_code))
    if target == "cross_encoder":
        module = load("rl_rerank.serving.doors.cross_encoder", "verify: target cross_encoder")
        return module.SentenceTransformersDoor(folder, terms, trust_remote_code)
    if target == "seqcls":
        module = load("rl_rerank.serving.doors.sequence_classification", "verify: target seqcls")
        return module.SequenceClassificationDoor(folder / sequence_classification.FOLDER, trust_remote_code)
    return _served(folder, terms, target, trust_remote_code)


def _served(folder: Path, terms: Contract, target: str, trust_remote_code: bool) -> Door:
    """Start a server over the folder, which ends with the door."""
    with ExitStack() as ends:
        if target == "server":
            return RerankDoor(ends.enter_context(processes.reranking(folder, trust_remote_code)), ends.pop_all())
        if target == "vllm_score":
            require_pairs(terms)
            prompts = PairPrompts(folder, trust_remote_code, folder / SCORE_TEMPLATE)
            tokens = prompts.tokenizer.convert_ids_to_tokens([ids[0] for ids in terms.continuation_ids.values()])
            address = ends.enter_context(processes.scoring(folder, terms, tokens, trust_remote_code))
            return ScoreDoor(address, processes.NAME, prompts, ends.pop_all())
        if not terms.continuation_ids:
            raise ValueError(f"{terms.paradigm} generates its answers, and /generative_scoring generates no text")
        render = rendering(folder, terms, trust_remote_code)
        address = ends.enter_context(processes.generating(folder, terms, trust_remote_code))
        engine = GenerativeScoring(address, processes.NAME, render, ends.pop_all())
        return EngineDoor(terms, engine, render)


def require_pairs(terms: Contract) -> None:
    """Refuse a folder whose template takes no pairs.

    Raises:
        ValueError: with the reason.
    """
    if terms.cross_encoder is None or terms.cross_encoder.refusal:
        said = "" if terms.cross_encoder is None else f" ({terms.cross_encoder.refusal})"
        raise ValueError(f"the contract claims no scores of pairs by the folder's chat template{said}")
