"""The content of a message as a chat template takes it: text, or parts of text and images."""

from collections.abc import Iterable
from typing import Any, TypeAlias

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


def as_parts(given: Content) -> list[dict[str, Any]]:
    """Content as parts, for templates that take no text."""
    return [{"type": "text", "text": given}] if isinstance(given, str) else given


def as_text(given: Content, placeholder: str) -> str:
    """Content as text, for templates that take no parts."""
    return "".join(placeholder if part["type"] == "image" else part["text"] for part in as_parts(given))


def behind(text: str, given: Content) -> Content:
    """Content with a text before it."""
    return text + given if isinstance(given, str) else [{"type": "text", "text": text}, *given]
