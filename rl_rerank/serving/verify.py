"""Comparing what an exported folder does today, by every program that loads it, with what it did at export.

Each door (transformers, vLLM and its server, sentence-transformers' CrossEncoder, `rl-rerank serve`, any address) shows
the golden pairs to the model again. The first difference is named where it begins: the prompt's text, its token ids,
the position that is read, the weights, the log-probabilities, or the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_rerank.requirements import is_installed, load
from rl_rerank.serving import contract, sequence_classification
from rl_rerank.serving.comparison import Comparison
from rl_rerank.serving.contract import Contract
from rl_rerank.serving.doors.engine import rendering, shown
from rl_rerank.serving.doors.opening import ENGINES, PACKAGES, is_address, opened


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
        targets: some of `PACKAGES`, and addresses of servers; empty: hf, and cross_encoder and seqcls if the folder
            claims them and their packages are installed.

    Raises:
        FileNotFoundError: if the folder is not an exported model.
        ValueError: for an unknown target, or a damaged contract.
        ImportError: if a target's package is missing.
    """
    terms = contract.read(folder)
    named = [target for target in targets if not is_address(target)]
    if unknown := [target for target in named if target not in PACKAGES]:
        raise ValueError(
            f"targets must be some of {', '.join(PACKAGES)}, or addresses such as http://localhost:8000; got "
            f"{unknown[0]!r}"
        )
    for target in named:
        load(PACKAGES[target], f"verify: target {target}")
    return [_verdict(folder, terms, target, trust_remote_code) for target in targets or claimed(folder, terms)]


def claimed(folder: Path, terms: Contract) -> Iterator[str]:
    """Yield the doors that a folder claims and whose packages are installed, without those that start servers."""
    yield "hf"
    if claims_cross_encoder(terms) and is_installed("sentence_transformers"):
        yield "cross_encoder"
    if (folder / sequence_classification.FOLDER).is_dir():
        yield "seqcls"


def claims_cross_encoder(terms: Contract) -> bool:
    """Whether the contract says that CrossEncoder gives the scores of `Reranker`."""
    return terms.cross_encoder is not None and not terms.cross_encoder.refusal


def _verdict(folder: Path, terms: Contract, target: str, trust_remote_code: bool) -> Verdict:
    found = Comparison(terms.dtype)
    note = ""
    try:
        if target == "cross_encoder" and not claims_cross_encoder(terms):
            note = _refused(folder, terms, found, trust_remote_code)
        else:
            _compare(folder, terms, target, found, trust_remote_code)
    except (ValueError, LookupError, ImportError, OSError, RuntimeError) as e:
        found.problems.append(f"does not load or rank: {' '.join(str(e).split())}")
    if found.has_other_values and not is_address(target):
        found.problems.append(_weights(folder, terms))
    return Verdict(target, (*_stops(folder, terms), *found.problems), note or found.note)


def _stops(folder: Path, terms: Contract) -> Iterator[str]:
    """Say where programs that read generation_config.json would stop elsewhere."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    ends = sorted(found) if isinstance(found, list) else [found]
    if terms.stop_ids and ends != terms.stop_ids:
        yield f"generation_config.json stops at the tokens {ends}, and the contract at {terms.stop_ids}"


def _compare(folder: Path, terms: Contract, target: str, found: Comparison, trust_remote_code: bool) -> None:
    if target in ENGINES:
        render = rendering(folder, terms, trust_remote_code)
        for then in terms.golden:  # Before the weights are read.
            if not found.add(then, shown(terms, render, then)):
                return
    door = opened(folder, terms, target, trust_remote_code)
    try:
        for then in terms.golden:
            if not found.add(then, door.answer(then)):
                break
        found.problems += door.problems(terms.golden)
    finally:
        door.close()


def _refused(folder: Path, terms: Contract, found: Comparison, trust_remote_code: bool) -> str:
    """Check that CrossEncoder refuses the folder, or says so of its first pair."""
    if terms.cross_encoder is None:
        raise ValueError("the folder was exported before CrossEncoder was compared; export it again")
    try:
        answered = opened(folder, terms, "cross_encoder", trust_remote_code).answer(terms.golden[0])
    except (ValueError, ImportError) as e:
        return f"refuses the folder, as the contract says: {' '.join(str(e).split())}"
    found.problems.append(f"loads the folder and scores {answered.scores}, and {terms.cross_encoder.refusal}")
    return ""


def _weights(folder: Path, terms: Contract) -> str:
    """Say whether the weights themselves have changed, or the program computes otherwise with them."""
    if not terms.weights_sha256:
        return "the folder does not record its weights, so whether they have changed is not known; export it again"
    now = contract.weights_sha256(folder)
    then = terms.weights_sha256
    if changed := sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name)):
        return (
            f"the weights are not those of the export: {', '.join(changed)} has changed, as by merging an adapter or "
            "by converting the weights"
        )
    return "the weights are those of the export, so this program asks or computes otherwise with them"
