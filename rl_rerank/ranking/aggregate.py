"""One judgment from several samples of a prompt's answer, as ERank labels its data.

Source: ERank, https://arxiv.org/abs/2509.00520: a document's score is the mean over three generations, and the
generation that is nearest to the mean is kept.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from rl_rerank.types import Rollout


def consensus(samples: Sequence[Rollout]) -> Rollout:
    """The sample nearest to the mean scores, with these as its judgment's.

    Samples whose answer gives no scores do not count; where none does, the first one stands. Nearest is what has the
    smallest sum of absolute differences, of equally near ones the first.
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
