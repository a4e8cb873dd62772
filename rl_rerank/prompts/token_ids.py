"""The tokens of a prompt that nobody may ask for: every process knows all prompts, and computes its own share."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Prompt


class TokenIds(Sequence[int]):
    """The token ids of a prompt, rendered when they are first read. Equal to any sequence of the same ids.

    Reading raises what `Renderer` raises.
    """

    __slots__ = ("_found", "_prompt", "_renderer")

    def __init__(self, prompt: Prompt, renderer: Renderer) -> None:
        self._prompt = prompt
        self._renderer = renderer
        self._found: array[int] | None = None

    @property
    def _ids(self) -> array[int]:
        if self._found is None:
            rendered = self._renderer(self._prompt)
            # The ids of images' tokens have 60 bits.
            self._found = array("q" if rendered.images else "i", rendered.token_ids)
        return self._found

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self._ids[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._ids))

    def __repr__(self) -> str:
        return f"TokenIds({list(self)})"
