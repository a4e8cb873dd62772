"""Which query belongs to which split, and in what order a limit takes them: by hashes, so that growth moves nothing."""

import hashlib
from collections.abc import Sequence

from rl_rerank.data.records import Omissions, Query

SPLITS = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.2


def assign(queries: Sequence[Query], seed: int, omissions: Omissions) -> dict[str, list[Query]]:
    """The queries of each split.

    Splits of the source are kept; where it has train and no dev, a tenth of train becomes dev. Without any, train, dev
    and test take 70, 10 and 20 percent.
    """
    given = {query.split for query in queries} - {""}
    splits: dict[str, list[Query]] = {name: [] for name in SPLITS}
    for query in queries:
        if given and not query.split:
            omissions.add("queries left out, because they have no split and others have one", f"qid {query.qid!r}")
            continue
        splits[_split(query, given, seed)].append(query)
    return splits


def fold(queries: Sequence[Query], seed: int, folds: int, test: int) -> dict[str, list[Query]]:
    """The queries of each split in a cross-validation: one part is test, the next one dev, the others train.

    Clusters of queries are dealt to the parts in a seeded order, so that the parts have equally many of them.

    Raises:
        ValueError: if there are fewer clusters than parts, or queries have splits already.
    """
    if given := sorted({query.split for query in queries} - {""}):
        raise ValueError(f"data.folds={folds}: the queries have splits already, {', '.join(given)}")
    clusters = {query.cluster or query.qid for query in queries}
    if len(clusters) < folds:
        raise ValueError(f"data.folds={folds}: there are only {len(clusters)} queries, or clusters of queries")
    ordered = sorted(clusters, key=lambda name: (fraction(f"{seed}:fold:{name}"), name))
    part = {name: number % folds for number, name in enumerate(ordered)}
    splits: dict[str, list[Query]] = {name: [] for name in SPLITS}
    for query in queries:
        away = (part[query.cluster or query.qid] - test) % folds
        splits["test" if away == 0 else "dev" if away == 1 else "train"].append(query)
    return splits


def by_hash(queries: Sequence[Query], seed: int) -> list[Query]:
    """The queries in a seeded order in which each keeps its place relative to all others, whatever is added."""
    return sorted(queries, key=lambda query: (fraction(f"{seed}:order:{query.qid}"), query.qid))


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on `key` only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") / 256**7


def _split(query: Query, given: set[str], seed: int) -> str:
    if given and (query.split != "train" or "dev" in given):
        return query.split
    place = fraction(f"{seed}:split:{query.cluster or query.qid}")
    if place < DEV_SHARE:
        return "dev"
    return "test" if not given and place < DEV_SHARE + TEST_SHARE else "train"
