"""An exported folder as sentence-transformers' CrossEncoder loads it: its prompts, settings and scores."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from rl_rerank.prompts import clock
from rl_rerank.serving.contract import Contract, GoldenPrompt, GoldenScores
from rl_rerank.serving.doors.pairs import DATED


class SentenceTransformersDoor:
    """Scores golden entries by CrossEncoder, and says how its prompts and settings differ from the contract's."""

    def __init__(self, folder: Path, terms: Contract, trust_remote_code: bool) -> None:
        self.model = CrossEncoder(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
        self.terms = terms
        self.transformer: Any = self.model[0]
        self.answers = {text: ids[0] for text, ids in terms.continuation_ids.items()}

    @torch.no_grad()
    def answer(self, golden: GoldenScores) -> GoldenScores:
        """Score an entry.

        Raises:
            ValueError: if the position that is read is padding, or CrossEncoder refuses the pairs.
        """
        pairs = [[golden.query, document] for document in golden.documents]
        features = self.model.preprocess(pairs)
        mask, ids = features["attention_mask"].bool(), features["input_ids"]
        if not bool(mask[:, -1].all()):
            raise ValueError("the position whose logits are read, the last one, is padding: pad on the left")
        shown = [
            GoldenPrompt(text=self._text(*pair), token_ids=row[kept].tolist())
            for pair, row, kept in zip(pairs, ids, mask, strict=True)
        ]
        moved = {k: v.to(self.model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        logits = self.transformer(moved)["causal_logits"][:, -1].float().log_softmax(-1)
        for prompt, row in zip(shown, logits, strict=True):
            prompt.continuations = {text: float(row[token]) for text, token in self.answers.items()}
        scores = self.model.predict(pairs, show_progress_bar=False).tolist()
        return GoldenScores(query=golden.query, documents=golden.documents, scores=scores, prompts=shown)

    def problems(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """Say which settings would change scores, or change them one day."""
        yield from self._settings()
        yield from self._cut(golden)

    def close(self) -> None:
        """Free the model's memory."""
        del self.model, self.transformer

    def _settings(self) -> Iterator[str]:
        module: Any = self.model[-1]
        read = (module.true_token_id, module.false_token_id)
        if read != (expected := tuple(self.answers.values())):
            yield f"the score is the difference of the tokens {read}, and the contract's answers are {expected}"
        activation = type(self.model.activation_fn).__name__
        if activation != "Identity":
            yield f"the activation is {activation}, and the contract's scores are logits: it must be Identity"
        if clock.reads(lambda now: self._text("q", "d", **now)):
            yield DATED

    def _cut(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """Say whether a prompt that is too long loses its end, behind which the answer is read."""
        texts = [prompt.text for entry in golden for prompt in entry.prompts]
        if not texts or self.terms.long_documents.mode != "head":
            return  # In the other modes the template itself cuts documents, or refuses long ones.
        # All golden documents end in a full stop, which a tokenizer may join to what follows.
        end = _common_end(texts).lstrip(string.punctuation + string.whitespace)
        long = " ".join(["ice cave"] * self.terms.max_prompt_tokens)
        ids = self.model.preprocess([["q", long]])["input_ids"][0].tolist()
        if len(ids) > self.terms.max_prompt_tokens:
            yield f"a long prompt has {len(ids)} tokens, more than the contract's {self.terms.max_prompt_tokens}"
        shown = self.model.tokenizer.decode(ids)
        if not shown.endswith(end):
            yield f"a long prompt is cut at its end: it must end with {end!r}, and ends with {shown[-len(end) :]!r}"

    def _text(self, query: str, document: str, **arguments: Any) -> str:
        given: Mapping[str, Any] = self.transformer.processing_kwargs.get("chat_template", {})
        own = {key: value for key, value in given.items() if key not in ("restore_suffix", "truncation", "max_length")}
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return self.transformer.processor.apply_chat_template(messages, tokenize=False, **own, **arguments)


def _common_end(texts: Sequence[str]) -> str:
    same = itertools.takewhile(lambda characters: len(set(characters)) == 1, zip(*map(reversed, texts), strict=False))
    return "".join(characters[0] for characters in same)[::-1]
