"""The tags around the parts of an answer with reasoning."""

import re
from dataclasses import dataclass

from rl_rerank.prompts import thoughts

ANSWERS = ("answer",)
"""Names of tags around answers. Documents are kept from writing these, and those around thoughts."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Names of the tags around the thought and around the answer."""

    thought: str = "think"
    answer: str = "answer"

    def __post_init__(self) -> None:
        opening = thoughts.tags(f"<{self.thought}>")
        if len(opening) != 1 or re.fullmatch(r"[a-z]+", self.thought) is None:
            raise ValueError(
                f"thought={self.thought!r} is no tag that documents are kept from writing; use think, thinking, "
                "thought, reason, reasoning, reflection, analysis or scratchpad"
            )
        if self.answer not in ANSWERS:
            raise ValueError(
                f"answer={self.answer!r} is no tag that documents are kept from writing; use {', '.join(ANSWERS)}"
            )

    @property
    def think_open(self) -> str:
        """Begins the thought."""
        return f"<{self.thought}>"

    @property
    def think_end(self) -> str:
        """Ends the thought."""
        return f"</{self.thought}>"

    @property
    def open(self) -> str:
        """Begins the answer."""
        return f"<{self.answer}>"

    @property
    def close(self) -> str:
        """Ends the answer."""
        return f"</{self.answer}>"


DEFAULT = Tags()
