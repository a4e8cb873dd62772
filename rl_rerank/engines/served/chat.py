"""A prompt as chat messages, for a served model whose tokenizer is not here.

What `rendering` does by tokens is done by bytes: text from outside is sanitized, by what control tokens usually look
like, and documents are cut to the budget.
"""

from rl_rerank.prompts.rendering import sanitized, water_level
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.types import Prompt, Segment

BYTES_PER_TOKEN = 3
"""Of text, on the low side for most tokenizers and scripts, so that a prompt has fewer tokens than its budget."""


class Chat:
    """Makes messages within a budget.

    Args:
        max_prompt_tokens: budget of a whole prompt.
        max_passage_tokens: cap of one document's title and text together; None: only the budget counts.
    """

    def __init__(self, *, max_prompt_tokens: int, max_passage_tokens: int | None = None) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.max_passage_tokens = max_passage_tokens
        self.sanitize = Sanitizer(None, cached_characters=BYTES_PER_TOKEN * max_prompt_tokens)

    def __call__(self, prompt: Prompt) -> list[dict[str, str]]:
        """`{role, content}` of each message.

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
    """The first `size` bytes of `text`, in whole characters."""
    content = text.encode()
    return text if len(content) <= size else content[:size].decode(errors="ignore").rstrip()
