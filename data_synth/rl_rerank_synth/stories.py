"""A viewer's history as text: attributes, sessions, what was watched and where, what was searched for.

One line an event, which reads and parses back:

    attributes country=US device=tv
    session after 3d
    watch m12 [home, Comedy, 3] The General (1926)
    search funny dog movie
    watch m77 [search, , 1] Best in Show (2000)

TubiFM, https://arxiv.org/abs/2605.23702, ranks items, carousels and search results from such stories by the next token;
its own grammar is not published, and this one is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

SESSION_GAP = 6 * 3600
"""Seconds without an event after which a session begins."""
LINE = re.compile(r"watch (\S+) \[([^,\]]*), ([^,\]]*), ([0-9]*)\] ?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a viewer did."""

    time: int
    """Seconds."""
    kind: str
    """`watch` or `search`."""
    item: str = ""
    """What was watched, by docid; of a search what was then chosen, or empty."""
    text: str = ""
    """The search, or the title of what was watched."""
    surface: str = ""
    """Where it was found: home, search, ..."""
    carousel: str = ""
    position: int | None = None
    """In its carousel or result list, from 1."""


@dataclass(frozen=True, slots=True)
class Story:
    """What a viewer is and has done, in order of time."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()

    def before(self, time: int) -> Story:
        """What had happened before `time`; what happens at the same second is not known yet."""
        return Story(self.attributes, [event for event in self.events if event.time < time])

    def latest(self, number: int) -> Story:
        """Its last events: what does not fit goes from the front, where it is oldest."""
        return Story(self.attributes, list(self.events)[-number:] if number else [])


def written(story: Story) -> str:
    """The story as text, without what a later event could tell."""
    lines = [" ".join(["attributes", *(f"{quote(k)}={quote(v)}" for k, v in story.attributes.items())])]
    last: int | None = None
    for event in story.events:
        if last is None or event.time - last >= SESSION_GAP:
            lines.append("session" if last is None else f"session after {_duration(event.time - last)}")
        last = event.time
        if event.kind == "search":
            lines.append(f"search {_line(event.text)}")
        else:
            place = f"{_field(event.surface)}, {_field(event.carousel)}, {event.position or ''}"
            lines.append(f"watch {event.item} [{place}] {_line(event.text)}".rstrip())
    return "\n".join(lines)


def parsed(text: str) -> tuple[dict[str, str], list[list[Event]]]:
    """The attributes, and the events of each session; times are not in a story, but for their order.

    Raises:
        ValueError: for a line that is none of the grammar.
    """
    attributes: dict[str, str] = {}
    sessions: list[list[Event]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        kind, _, rest = line.partition(" ")
        if number == 1 and kind == "attributes":
            pairs = [pair.partition("=") for pair in rest.split()]
            attributes = {unquote(key): unquote(value) for key, _, value in pairs}
        elif kind == "session":
            sessions.append([])
        elif kind == "search" and sessions:
            sessions[-1].append(Event(0, "search", text=rest))
        elif (found := LINE.fullmatch(line)) and sessions:
            item, surface, carousel, position, title = found.groups()
            place = int(position) if position else None
            sessions[-1].append(Event(0, "watch", item, title, unquote(surface), unquote(carousel), place))
        else:
            raise ValueError(
                f"line {number} of a story is none of attributes, session, watch and search: {line[:80]!r}"
            )
    return attributes, sessions


def _line(text: str) -> str:
    return " ".join(text.split())


def _field(text: str) -> str:
    """Text that holds no separator of a place."""
    return quote(text, safe=" '&/()")


def _duration(seconds: int) -> str:
    return f"{seconds // 86400}d" if seconds >= 86400 else f"{seconds // 3600}h"
