"""The date that chat templates write.

Some write today's, by transformers' `strftime_now`: Llama 3.1 and 3.2, SmolLM3, gpt-oss. A model would then be asked
otherwise every day, so every rendering of ours gives them one fixed date. A template that never asks for it stays as it
is.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

DATE = datetime(2024, 7, 26)
"""The date that Llama 3's template writes where there is no clock."""
LATER = datetime(2031, 11, 9, 20, 44, 59)
"""Another one, which differs from it in every part."""

Render = Callable[[Mapping[str, Any]], str]
"""Takes arguments of the chat template and gives the text of some prompt."""


def at(date: datetime) -> dict[str, Any]:
    """The template's argument under which it reads this date from its clock."""
    return {"strftime_now": date.strftime}


def formats(render: Render) -> dict[str, str]:
    """The formats in which a template asks for the date -> the fixed date in each; empty if it does not."""
    asked: dict[str, str] = {}

    def strftime_now(format: str) -> str:
        asked[format] = DATE.strftime(format)
        return asked[format]

    render({"strftime_now": strftime_now})
    return asked


def reads(render: Render) -> bool:
    """Whether the text differs under two clocks."""
    return render(at(DATE)) != render(at(LATER))


def is_steady(render: Render) -> bool:
    """Whether eight renderings at one moment are equal; those of a template that draws at random are not."""
    return len({render(at(DATE)) for _ in range(8)}) == 1
