"""Constrained decoding: a token is allowed next if the resulting text is a valid prefix."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rl_rerank.types import Constraint


class TokenMask:
    """The token mask of one tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        end_id: the token that ends an answer.
    """

    def __init__(self, tokenizer: Any, end_id: int) -> None:
        self.tokenizer = tokenizer
        self.end_id = end_id
        self.allowed = lru_cache(maxsize=65536)(self._allowed)
        self._pieces = lru_cache(maxsize=8)(self._written_with)

    def text(self, token_ids: Sequence[int], constraint: Constraint) -> str:
        """Decode the text so far, token by token as in `allowed`."""
        pieces = self._pieces(constraint.alphabet)
        return "".join(pieces.get(i, "") for i in token_ids)

    def _allowed(self, text: str, constraint: Constraint) -> tuple[int, ...]:
        """Find the ids of tokens allowed after `text`, with the end token if `text` is complete."""
        end = (self.end_id,) if constraint.is_whole(text) else ()
        pieces = self._pieces(constraint.alphabet)
        return (*end, *(i for i, piece in pieces.items() if constraint.continues(text + piece)))

    def _written_with(self, alphabet: str) -> dict[int, str]:
        """Map token to text, for tokens that consist of these characters."""
        # Behind a bracket: some tokenizers drop the space in front of a text's first token.
        before = self.tokenizer.encode("]", add_special_tokens=False)
        start, special = len(self.tokenizer.decode(before)), set(self.tokenizer.all_special_ids)
        letters = set(alphabet)
        texts = ((i, self.tokenizer.decode([*before, i])[start:]) for i in range(len(self.tokenizer)))
        return {i: text for i, text in texts if text and i not in special and letters.issuperset(text)}
