"""Prompts of pairs as programs render them that know nothing of us: by a chat template with a query and a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.engines.local.tokenizer import load_tokenizer
from rl_rerank.prompts import clock
from rl_rerank.serving.contract import GoldenPrompt

DATED = "the chat template writes the date, so the model is asked otherwise every day"


class PairPrompts:
    """Renders pairs by a folder's tokenizer."""

    def __init__(self, folder: Path, trust_remote_code: bool, template: Path | None = None) -> None:
        """
        Args:
            template: a chat template behind which the tokenizer adds its special tokens, as vLLM has it do; None: the
                tokenizer's own, which writes them.
        """
        self.tokenizer: Any = load_tokenizer(folder, trust_remote_code)
        self.template = None if template is None else template.read_text(encoding="utf-8")

    def __call__(self, query: str, documents: Sequence[str]) -> list[GoldenPrompt]:
        """Render each pair."""
        return [self._prompt(self.text(query, document)) for document in documents]

    def _prompt(self, text: str) -> GoldenPrompt:
        ids = list(self.tokenizer(text, add_special_tokens=self.template is not None)["input_ids"])
        begin = self.tokenizer.bos_token or ""
        is_added = ids[:1] == [self.tokenizer.bos_token_id] and not text.startswith(begin)
        return GoldenPrompt(text=begin + text if is_added else text, token_ids=ids)

    def text(self, query: str, document: str, **arguments: Any) -> str:
        """Render a pair."""
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, chat_template=self.template, **arguments)

    def problems(self) -> Iterator[str]:
        """Say whether the chat template writes the date."""
        if clock.reads(lambda now: self.text("q", "d", **now)):
            yield DATED
