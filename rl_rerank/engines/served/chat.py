"""A prompt as chat messages, for a served model without a local tokenizer.

It works on bytes where `rendering` works on tokens: external text is sanitized by the usual patterns of control tokens,
and documents are cut to the budget.
"""

from rl_rerank.prompts.rendering import sanitized, water_level
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.types import Prompt, Segment

BYTES_PER_TOKEN = 3
"""Low estimate for most tokenizers and scripts, so that prompts stay below their token budget."""


class Chat:
    """Renders messages within a budget.

    Args:
        max_prompt_tokens: budget of a whole prompt.
        max_passage_tokens: cap of one document's title and text together; None: only the budget applies.
    """

    def __init__(self, *, max_prompt_tokens: int, max_passage_tokens: int | None = None) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.max_passage_tokens = max_passage_tokens
        self.sanitize = Sanitizer(None, cached_characters=BYTES_PER_TOKEN * max_prompt_tokens)

    def __call__(self, prompt: Prompt) -> list[dict[str, str]]:
        """Render each message as `{role, content}`.

        Raises:
            ValueError: if the prompt does not fit the budget even with empty documents.
        """
        prompt = sanitized(prompt, self.sanitize)
        level = self._level(prompt)
        left = dict.fromkeys(prompt.docids, level)
        messages: list[dict[str, str]] = []
        for message in prompt.messages:
            texts: list[str] = []
            for segment in message.segments:
                texts.append(segment.text if segment.docid is None else _cut(segment.text, left[segment.docid]))
                if segment.docid is not None:
                    left[segment.docid] -= _size(texts[-1])
            messages.append({"role": message.role, "content": "".join(texts)})
        return messages

    def _level(self, prompt: Prompt) -> int:
        """Find the maximum number of bytes per document."""
        segments: list[Segment] = [segment for message in prompt.messages for segment in message.segments]
        sizes = dict.fromkeys(prompt.docids, 0)
        for segment in segments:
            if segment.docid is not None:
                sizes[segment.docid] += _size(segment.text)
        fixed = sum(_size(segment.text) for segment in segments if segment.docid is None)
        room = BYTES_PER_TOKEN * self.max_prompt_tokens - fixed
        if room < 0:
            raise ValueError(
                f"qid {prompt.qid!r}: the {prompt.paradigm} prompt takes about {fixed // BYTES_PER_TOKEN} tokens "
                f"before any document is shown, more than max_prompt_tokens={self.max_prompt_tokens}; raise the "
                "budget or shorten the query"
            )
        cap = BYTES_PER_TOKEN * min(self.max_passage_tokens or self.max_prompt_tokens, self.max_prompt_tokens)
        return min(cap, water_level(list(sizes.values()), room))


def _size(text: str) -> int:
    return len(text.encode())


def _cut(text: str, size: int) -> str:
    """Cut `text` to its first `size` bytes, in whole characters."""
    content = text.encode()
    return text if len(content) <= size else content[:size].decode(errors="ignore").rstrip()
