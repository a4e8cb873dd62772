"""`rl-rerank verify`: an exported folder by every program that loads it, against its contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl_rerank.config import VerifyModel
from rl_rerank.experiment.compose import files
from rl_rerank.requirements import load


def run(overrides: Sequence[str], config_dir: str | None) -> tuple[list[str], int]:
    """Verify a folder: lines, and 1 if a door ranks otherwise than at export."""
    wanted = files(VerifyModel, overrides)
    found = load("rl_rerank.serving.verify", "verify").verify(
        Path(wanted.model).expanduser(), wanted.targets, wanted.trust_remote_code
    )
    return [line for verdict in found for line in verdict.lines], int(any(verdict.problems for verdict in found))
