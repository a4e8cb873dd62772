"""How many queries a mean needs before a page shows it."""

MIN_QUERIES = 30
"""Pages show no value of fewer queries. On 30, differences of nDCG@10 below .13 to .18 already go unseen (80% power at
the spread of the recorded runs); on 6 a two-sided randomisation test cannot go below p = .031 at all."""


def too_few(count: int, one: str = "query", many: str = "queries") -> str:
    """Return what a page says instead of the values of so few queries; empty if there are enough."""
    return "" if count >= MIN_QUERIES else f"{count} {one if count == 1 else many}: too few to compare"
