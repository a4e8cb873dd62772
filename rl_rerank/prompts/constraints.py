"""Answers that are in the asked form by construction: what has been written, and whether more of it may follow.

A grammar cannot say that no identifier is repeated without listing every permutation; a state that remembers what has
been written can. It is kept as text, so it is right for any tokenizer.
"""

import re
from dataclasses import dataclass

SEPARATOR = " > "


@dataclass(frozen=True)
class Permutation:
    """`[3] > [1] > [2]`: every identifier from 1 to `n` once."""

    n: int

    alphabet = "[]0123456789 >"

    @property
    def length(self) -> int:
        """Identifiers of a whole answer."""
        return self.n

    def continues(self, text: str) -> bool:
        *done, last = text.split(SEPARATOR)
        left = {f"[{i}]" for i in range(1, self.n + 1)}
        if len(done) >= self.length:
            return False
        for part in done:
            if part not in left:
                return False
            left.remove(part)
        end = SEPARATOR if len(done) + 1 < self.length else ""
        return any(f"{part}{end}".startswith(last) for part in left)

    def is_whole(self, text: str) -> bool:
        parts = text.split(SEPARATOR)
        known = {f"[{i}]" for i in range(1, self.n + 1)}
        return len(parts) == len({*parts}) == self.length and {*parts} <= known


@dataclass(frozen=True)
class Beginning(Permutation):
    """`[3] > [1]`: the first `k` identifiers of a permutation of `n`, or all of them where there are no more."""

    k: int

    @property
    def length(self) -> int:
        return min(self.k, self.n)

    def cut(self, text: str) -> str:
        """Return the beginning of a whole permutation."""
        return SEPARATOR.join(text.split(SEPARATOR)[: self.length])


@dataclass(frozen=True)
class Score:
    """`7`: a whole number from 0 to `highest`."""

    highest: int

    alphabet = "0123456789"

    def continues(self, text: str) -> bool:
        return text == "" or self.is_whole(text)

    def is_whole(self, text: str) -> bool:
        return text.isdecimal() and text == str(int(text)) and int(text) <= self.highest


@dataclass(frozen=True)
class Scores:
    """`{"[1]": 3, "[2]": 7}`: every identifier from 1 to `n` in order, each with a whole number from 0 to `highest`."""

    n: int
    highest: int

    alphabet = '{}[]0123456789 ":,'

    def continues(self, text: str) -> bool:
        rest = text
        for i in range(1, self.n + 1):
            before = f'{"{" if i == 1 else ", "}"[{i}]": '
            if len(rest) <= len(before):
                return before.startswith(rest)
            if not rest.startswith(before):
                return False
            rest = rest.removeprefix(before)
            digits = re.match(r"[0-9]*", rest)
            assert digits is not None
            number = digits[0]
            if not Score(self.highest).is_whole(number):
                return False
            rest = rest.removeprefix(number)
        return rest in ("", "}")

    def is_whole(self, text: str) -> bool:
        return text.endswith("}") and self.continues(text)
