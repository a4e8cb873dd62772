"""Runs and judgments that have nothing to do with each other."""

import logging
from collections.abc import Collection, Mapping

logger = logging.getLogger(__name__)


def warn_if_unjudged(name: str, run: Mapping[str, Collection[str]], qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Warn of a run none of whose documents is judged: its measures are 0, whatever its order."""
    shared = [qid for qid in run if qid in qrels]
    if shared and not any(docid in qrels[qid] for qid in shared for docid in run[qid]):
        qid = shared[0]
        logger.warning(
            "%s: no document of the %d queries that it shares with the judgments is judged, so that measures are 0; "
            "query %s ranks %r, and its judgments are about %r",
            name,
            len(shared),
            qid,
            next(iter(run[qid]), None),
            next(iter(qrels[qid]), None),
        )
