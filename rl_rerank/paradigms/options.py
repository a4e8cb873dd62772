"""Checks of parameters that several paradigms have."""

from collections.abc import Sequence

MODES = ("generation", "scoring")


def one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is no option of `what`."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}; got {value!r}")


def check_mode(paradigm: str, mode: str, *, reasoning: bool) -> None:
    """Refuse unknown modes, and reasoning where nothing is written before the answer."""
    one_of(f"{paradigm}: mode", mode, MODES)
    if mode == "scoring" and reasoning:
        raise ValueError(
            f"{paradigm}: mode=scoring reads the answer position right behind the prompt, which leaves no room for "
            "reasoning=true"
        )
