"""The content of a message as a chat template takes it: text, or parts of text and images."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeAlias

from jinja2 import TemplateError

from rl_rerank.types import Segment

Content: TypeAlias = "str | list[dict[str, Any]]"


def content(segments: Iterable[Segment]) -> Content:
    """The segments as text; as parts where an image is among them."""
    found: list[dict[str, Any]] = []
    for segment in segments:
        if segment.image:
            found.append({"type": "image"})
        elif found and found[-1]["type"] == "text":
            found[-1]["text"] += segment.text
        else:
            found.append({"type": "text", "text": segment.text})
    return found if any(part["type"] == "image" for part in found) else "".join(part["text"] for part in found)


def behind(text: str, given: Content) -> Content:
    """Content with a text before it."""
    return text + given if isinstance(given, str) else [{"type": "text", "text": text}, *given]


class Contents:
    """The forms of content that a chat template takes.

    Args:
        show: what the template makes of messages.
        placeholder: of an image in a text; None: none is shown.
    """

    def __init__(self, show: Callable[[list[dict[str, Any]]], str], placeholder: str | None) -> None:
        self.show = show
        self.placeholder = placeholder

    def taken(self, given: Content) -> Content:
        """Content in a form that the template takes."""
        if isinstance(given, str):
            return given if self.takes_text else [{"type": "text", "text": given}]
        return given if self.takes_parts else self.text(given)

    def text(self, given: Content) -> str:
        """Content as text."""
        if isinstance(given, str):
            return given
        return "".join(part["text"] if part["type"] == "text" else self.placeholder or "" for part in given)

    @cached_property
    def takes_text(self) -> bool:
        """Whether the template shows content that is text; those of some models that see take parts only."""
        return self._tried("usermark") is not None or self._tried([{"type": "text", "text": "usermark"}]) is None

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template writes an image's placeholder where one is among the parts of a message."""
        shown = self._tried([{"type": "text", "text": "usermark"}, {"type": "image"}])
        return shown is not None and shown.count(self.placeholder or "\0") == 1 and "'type'" not in shown

    def _tried(self, given: Content) -> str | None:
        """What the template makes of a message with `usermark` in its content; None if it does not show it."""
        try:
            text = self.show([{"role": "user", "content": given}])
        except (TemplateError, TypeError):
            return None
        return text if "usermark" in text else None
