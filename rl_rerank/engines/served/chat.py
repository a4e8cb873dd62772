"""A prompt as chat messages, for a served model without a local tokenizer.

It works on bytes where `rendering` works on tokens: external text is sanitized by the usual patterns of control tokens,
and documents are cut to the budget. Images come first, as there: they are made smaller to one common cap where they do
not fit, counted in tokens of 28 x 28 pixels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rl_rerank.prompts import vision
from rl_rerank.prompts.contents import content
from rl_rerank.prompts.rendering import sanitized, water_level
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.types import Prompt, Segment, ShownImage

BYTES_PER_TOKEN = 3
"""Low estimate for most tokenizers and scripts, so that prompts stay below their token budget."""
PATCH = 28
"""Pixels of the side of a square that is estimated as one token, as Qwen2.5-VL reads it."""
TILE_TOKENS = 1024
"""Upper bound of the tokens that a service bills for a small image; some count it as a whole tile."""


class Chat:
    """Renders messages within a budget.

    Args:
        max_prompt_tokens: budget of a whole prompt.
        max_passage_tokens: cap of one document's title and text together; None: only the budget applies.
        max_image_tokens: cap of one image; None: only the budget applies.
    """

    def __init__(
        self, *, max_prompt_tokens: int, max_passage_tokens: int | None = None, max_image_tokens: int | None = None
    ) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.max_passage_tokens = max_passage_tokens
        self.max_image_tokens = max_image_tokens
        self.shown: dict[str, ShownImage] = {}
        self.sanitize = Sanitizer(None, cached_characters=BYTES_PER_TOKEN * max_prompt_tokens)

    def __call__(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Render each message as `{role, content}`. An image is a part of its content, `{type, sha256, size}`.

        Raises:
            ValueError: if the prompt does not fit the budget even with empty documents, or an image cannot be opened.
        """
        prompt = sanitized(prompt, self.sanitize)
        shown = self._images(prompt)
        level = self._level(prompt, shown)
        left, images = dict.fromkeys(prompt.docids, level), iter(shown)
        messages: list[dict[str, Any]] = []
        for message in prompt.messages:
            kept: list[Segment] = []
            for segment in message.segments:
                if (docid := segment.docid) is not None and not segment.image:
                    segment = replace(segment, text=_cut(segment.text, left[docid]))
                    left[docid] -= _size(segment.text)
                kept.append(segment)
            said = content(kept)
            if not isinstance(said, str):
                said = [self._named(next(images)) if part["type"] == "image" else part for part in said]
            messages.append({"role": message.role, "content": said})
        return messages

    def sent(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as OpenAI's protocol has them: images as data URLs of PNG files."""
        return [{**message, "content": self._sent(message["content"])} for message in messages]

    def _sent(self, given: Any) -> Any:
        if isinstance(given, str):
            return given
        return [self._url(part) if part["type"] == "image" else part for part in given]

    def most_tokens(self, messages: Sequence[dict[str, Any]]) -> int:
        """Bound the tokens of messages from above: a byte is at most one, and 14 x 14 pixels are, or a tile."""
        parts = [p for m in messages for p in ([m["content"]] if isinstance(m["content"], str) else m["content"])]
        texts = sum(_size(part if isinstance(part, str) else part.get("text", "")) for part in parts)
        sizes = [part["size"] for part in parts if not isinstance(part, str) and part["type"] == "image"]
        return texts + sum(TILE_TOKENS + 4 * _tokens(*size) for size in sizes)

    def _named(self, image: ShownImage) -> dict[str, Any]:
        """An image by its content, wherever its file lies, so that journals find what was asked."""
        name = f"{image.sha256} {image.width}x{image.height}"
        self.shown[name] = image
        return {"type": "image", "sha256": image.sha256, "size": [image.width, image.height]}

    def _url(self, part: dict[str, Any]) -> dict[str, Any]:
        width, height = part["size"]
        file = io.BytesIO()
        vision.pixels(self.shown[f"{part['sha256']} {width}x{height}"]).save(file, "PNG")
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}

    def _images(self, prompt: Prompt) -> list[ShownImage]:
        """The prompt's images at the largest common cap at which they fit beside empty documents."""
        segments = [segment for message in prompt.messages for segment in message.segments]
        asked = [segment for segment in segments if segment.image]
        fixed = sum(_size(segment.text) for segment in segments if segment.docid is None)
        room, cap = self.max_prompt_tokens - -(-fixed // BYTES_PER_TOKEN), self.max_image_tokens
        try:
            shown = [vision.fitted(s.image, s.docid, cap, _tokens) for s in asked]
            if (tokens := [image.tokens for image in shown]) and sum(tokens) > room:
                level = water_level(tokens, max(room, 0))
                shown = [vision.fitted(s.image, s.docid, level, _tokens) for s in asked]
        except ValueError as e:
            raise ValueError(f"qid {prompt.qid!r}: {e}") from None
        return shown

    def _level(self, prompt: Prompt, shown: Sequence[ShownImage]) -> int:
        """Find the maximum number of bytes per document beside the images."""
        segments: list[Segment] = [segment for message in prompt.messages for segment in message.segments]
        sizes = dict.fromkeys(prompt.docids, 0)
        for segment in segments:
            if segment.docid is not None:
                sizes[segment.docid] += _size(segment.text)
        fixed = sum(_size(segment.text) for segment in segments if segment.docid is None)
        room = BYTES_PER_TOKEN * (self.max_prompt_tokens - sum(image.tokens for image in shown)) - fixed
        if room < 0:
            raise ValueError(
                f"qid {prompt.qid!r}: the {prompt.paradigm} prompt takes about {fixed // BYTES_PER_TOKEN} tokens "
                f"before any document is shown, more than max_prompt_tokens={self.max_prompt_tokens}; raise the "
                "budget or shorten the query"
            )
        cap = BYTES_PER_TOKEN * min(self.max_passage_tokens or self.max_prompt_tokens, self.max_prompt_tokens)
        return min(cap, water_level(list(sizes.values()), room))


def _tokens(width: int, height: int) -> int:
    return -(-width // PATCH) * -(-height // PATCH)


def _size(text: str) -> int:
    return len(text.encode())


def _cut(text: str, size: int) -> str:
    """Cut `text` to its first `size` bytes, in whole characters."""
    content = text.encode()
    return text if len(content) <= size else content[:size].decode(errors="ignore").rstrip()
