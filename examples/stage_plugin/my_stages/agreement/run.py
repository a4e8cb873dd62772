"""How far two runs agree: the work."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from my_stages.agreement.spec import AgreementStage
from rl_rerank.config import Config
from rl_rerank.io.files import write_text
from rl_rerank.io.trec import read_run
from rl_rerank.metrics import kendall_tau


def run(config: Config, name: str, stage: AgreementStage) -> None:
    """Write run_dir/<name>/agreement.txt: the mean over queries of Kendall's tau."""
    folder = Path(config.run_dir)
    one, other = (read_run(folder / run / "run.trec") for run in stage.runs)
    taus = [kendall_tau(one[qid], other[qid]) for qid in one.keys() & other.keys()]
    line = f"{' and '.join(stage.runs)} agree by Kendall's tau {fmean(taus):.3f} over {len(taus)} queries\n"
    write_text(folder / name / "agreement.txt", line)
