"""The run of another system, as a row beside those that are made here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rl_rerank.evaluation.protocol import Protocol
from rl_rerank.io import digest, trec
from rl_rerank.types import Ranking, RankingExample

logger = logging.getLogger(__name__)


def rankings(place: str, path: Path, examples: Sequence[RankingExample], *, spaced: bool) -> list[Ranking]:
    """Read a run file's rankings of the examples' queries, in trec_eval's order. Other queries are left out.

    Args:
        place: the setting that names the file, for errors.
        spaced: docids may hold white space, which becomes %20.

    Raises:
        FileNotFoundError, ValueError: for a missing file, a broken line, or a file about none of the queries.
    """
    run = trec.read_run(path, spaced=spaced)
    qids = [example.qid for example in examples]
    found = [
        Ranking(qid, tuple(trec.trec_order(run[qid])), run[qid], raw_scores=run[qid]) for qid in qids if qid in run
    ]
    if not found:
        raise ValueError(
            f"{place}={str(path)!r} ranks none of the {len(qids)} queries, such as {qids[0]!r}; it has "
            f"{', '.join(map(repr, list(run)[:3])) or 'no line'}"
        )
    if missing := len(qids) - len(found):
        logger.warning("%s: %s lacks %d of %d queries, which count 0", place, path, missing, len(qids))
    return found


def protocol(task: Protocol, found: Sequence[Ranking], examples: Sequence[RankingExample]) -> Protocol:
    """The protocol of such a run: the experiment's if it orders the experiment's candidates, or else with a first stage
    of its own.

    Args:
        task: the experiment's.
    """
    candidates = {example.qid: set(example.docids) for example in examples}
    if all(candidates[ranking.qid].issuperset(ranking.docids) for ranking in found):
        return task
    return replace(task, first_stage=digest.of_lines([ranking.qid, *sorted(ranking.docids)] for ranking in found))
