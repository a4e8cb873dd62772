"""Judgments in a file of any of the usual forms."""

from pathlib import Path

from rl_rerank.data.sources import beir
from rl_rerank.io import trec


def read(path: Path) -> dict[str, dict[str, int]]:
    """qid -> docid -> grade, of TREC's four columns, or of three columns divided by tabs, as BEIR has them under a
    header and MS MARCO without one.

    Raises:
        ValueError: naming file and line for a line that does not have this form or contradicts another.
    """
    first = next((line for _, line in trec.lines(path) if line.strip() and not line.startswith("# ")), "")
    return beir.read_qrels(path) if len(first.split("\t")) == 3 else trec.read_qrels(path)
