"""Foreign text in Markdown, which cards and tables are written in: it stays text, whatever renders it."""

ACTIVE = "\\`*[]<>"
"""Characters that begin code, emphasis, a link or HTML."""


def plain(text: str) -> str:
    """On one line, and without what Markdown reads as markup."""
    return "".join(f"\\{c}" if c in ACTIVE else c for c in " ".join(text.split()))


def cell(text: str) -> str:
    """As `plain`, in a table."""
    return plain(text).replace("|", "\\|")


def code(text: str) -> str:
    """As code, on one line."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in _runs_of_backticks(line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _runs_of_backticks(text: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]
