"""Decoding of token ids into completions and seeding of samples by prompt, the same for every engine."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from rl_rerank.types import Completion, Sampling


class Decoder(Protocol):
    """The required interface of a tokenizer."""

    backend_tokenizer: Any

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str: ...


def draws(asked: Sequence[Any], sampling: Sampling) -> list[tuple[int, int]]:
    """Compute (seed, number of the first sample) for each prompt, given as the model's input.

    Both depend only on the prompt and on `sampling`, so that samples do not depend on the other prompts. A repeated
    prompt continues after its own samples.
    """
    found: list[tuple[int, int]] = []
    before: Counter[str] = Counter()
    for prompt in asked:
        digest = hashlib.sha256(json.dumps([sampling.seed, prompt]).encode()).hexdigest()
        found.append((int(digest[:15], 16), sampling.first + before[digest] * sampling.num_generations))
        before[digest] += 1
    return found


def until_stop(token_ids: Sequence[int], stop: Collection[int]) -> Sequence[int]:
    """Cut tokens after the first stop token; keep all if there is none."""
    return token_ids[: next((i + 1 for i, token in enumerate(token_ids) if token in stop), len(token_ids))]


def completion(
    token_ids: Sequence[int],
    stop: Collection[int],
    tokenizer: Decoder,
    logprobs: Sequence[float] | None = None,
    prompt_tokens: int | None = None,
) -> Completion:
    """Cut `token_ids` after the first stop token and decode them.

    `token_ids` and `logprobs` include the stop token, the text does not. All other special tokens stay in the text, so
    that a parser can refuse them. With log-probabilities, the end of each token's text is included.
    """
    kept = tuple(until_stop(token_ids, stop))
    ended = bool(kept) and kept[-1] in stop
    text_ids = list(kept[:-1] if ended else kept)
    text = tokenizer.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completion(
        text=text,
        token_ids=kept,
        finish_reason="stop" if ended else "length",
        logprobs=None if logprobs is None else tuple(logprobs[: len(kept)]),
        token_ends=None if logprobs is None else _token_ends(kept, len(text_ids), text, tokenizer),
        prompt_tokens=prompt_tokens,
    )


def _token_ends(kept: Sequence[int], count: int, text: str, tokenizer: Decoder) -> tuple[int, ...] | None:
    """Find where each token's text ends, for the first `count` of `kept`; None if the pieces give another text.

    A character made of several tokens belongs to the last of them.
    """
    from tokenizers.decoders import DecodeStream  # Not there where servers are asked and no tokenizer is.

    stream, written, ends = DecodeStream(skip_special_tokens=False), "", []
    for token in kept[:count]:
        written += stream.step(tokenizer.backend_tokenizer, token) or ""
        ends.append(len(written))
    return (*ends, *[len(text)] * (len(kept) - count)) if text.startswith(written) else None
