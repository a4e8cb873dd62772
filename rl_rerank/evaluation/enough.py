"""How many queries a mean needs before a page shows it."""

MIN_QUERIES = 30
"""Pages show no value of fewer queries. On 30, differences of nDCG@10 below .13 to .18 already go unseen (80% power at
the spread of the recorded runs); on 6 a two-sided randomisation test cannot go below p = .031 at all."""


def too_few(queries: int) -> str:
    """Return what a page says instead of the values of so few queries; empty if there are enough."""
    count = "1 query" if queries == 1 else f"{queries} queries"
    return "" if queries >= MIN_QUERIES else f"{count}: too few to compare"
