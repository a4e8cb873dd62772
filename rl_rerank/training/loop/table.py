"""Rows of the completions table: answer, parse result and rewards."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.metrics import ndcg
from rl_rerank.types import RankingExample, Rollout

MEASURE, CUT = "nDCG@10", 10


def row(
    step: int, example: RankingExample, rollout: Rollout, rewards: Mapping[str, float], reward: float
) -> dict[str, Any]:
    """Build the row of one completion, without its advantage.

    `ranking` has the prompt's docids best first, equal scores in the order of the prompt. `nDCG@10` is that of the
    prompt's documents, in expectation over ties. Both are None for unreadable answers and one-document prompts.
    """
    shown, scores = rollout.prompt.docids, rollout.judgment.scores
    is_ranking = len(shown) > 1 and scores.keys() == set(shown)
    grades = {docid: example.qrels.get(docid, 0) for docid in shown}
    return {
        "step": step,
        "qid": rollout.prompt.qid,
        "query": example.query,
        "docids": list(shown),
        "completion": rollout.completion.text,
        "status": rollout.judgment.status.value,
        "ranking": sorted(shown, key=lambda docid: -scores[docid]) if is_ranking else None,
        MEASURE: ndcg(scores, grades, k=CUT) if is_ranking else None,
        "rewards": dict(rewards),
        "reward": reward,
    }


def drawn(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Draw up to `most` rows of each step, of whole queries and of one at least; the same whenever it is called."""
    counts = Counter((row["step"], row["qid"]) for row in rows)
    left = dict.fromkeys((step for step, _ in counts), most)
    kept: set[tuple[int, str]] = set()
    for step, qid in sorted(counts, key=lambda query: random.Random(f"{query}").random()):
        if counts[step, qid] <= left[step] or left[step] == most:
            kept.add((step, qid))
            left[step] -= counts[step, qid]
    return [row for row in rows if (row["step"], row["qid"]) in kept]
