"""Run the checks of a system's mechanisms and write what they found."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.io.files import write_json, write_text
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.plugins import Plugins

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: CheckStage) -> None:
    """Write run_dir/<name>/checks.json, and the same as a table in checks.md. A failed check fails no run."""
    folder = Path(config.run_dir) / name
    plugins = Plugins(config)
    looked_at = Run(config, plugins)
    found = [finding for check in stage.build(name, plugins) for finding in check(looked_at)]
    write_json(folder / "checks.json", [dataclasses.asdict(finding) for finding in found])
    write_text(folder / "checks.md", table(found))
    logger.info("%s: %d of %d checks passed", name, sum(finding.passed for finding in found), len(found))


def table(findings: Sequence[Finding]) -> str:
    """Markdown."""
    rows = [f"| {'pass' if f.passed else 'FAIL'} | {f.what} | {f.found} |" for f in findings]
    return "\n".join(["| | expected | found |", "| --- | --- | --- |", *rows, ""])
