"""Combining several samples of a prompt's answer into one judgment, as ERank labels its data.

Source: ERank, https://arxiv.org/abs/2509.00520: a document's score is the mean over three generations, and the
generation nearest to the mean is kept.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from rl_rerank.types import Rollout


def consensus(samples: Sequence[Rollout]) -> Rollout:
    """Choose the sample nearest to the mean scores, and set its judgment's scores to them.

    Samples without scores are ignored; if none has scores, the first one is returned. Nearest means the smallest sum
    of absolute differences; ties go to the first.
    """
    readable = [sample for sample in samples if sample.judgment.scores]
    if len(readable) < 2:
        return readable[0] if readable else samples[0]
    docids = {docid for sample in readable for docid in sample.judgment.scores}
    given = {d: [s.judgment.scores[d] for s in readable if d in s.judgment.scores] for d in docids}
    mean = {docid: statistics.fmean(scores) for docid, scores in given.items()}

    def distance(sample: Rollout) -> float:
        return sum(abs(score - mean[docid]) for docid, score in sample.judgment.scores.items())

    nearest = min(readable, key=distance)
    return replace(nearest, judgment=replace(nearest.judgment, scores=mean))
