"""Tokenizers, renderers and end tokens of model folders, without their models and so without torch."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local import processor
from rl_rerank.prompts.rendering import Renderer

OTHER_MEDIA = re.compile(r"image|audio|video", re.IGNORECASE)
"""Placeholders of images and sounds, which texts never have: Gemma 3's text models share the tokenizer of those that
see, and have no row for `<image_soft_token>`."""


def load_tokenizer(path: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a model folder's tokenizer. Its end token pads if it has no pad token, so mask by length, not by id.

    Raises:
        ValueError: if it has more tokens than the folder's model.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    check_size(tokenizer, Path(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_size(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a tokenizer with tokens that the model in `folder` has no embedding for; without a model there, none.

    Raises:
        ValueError: with both sizes.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    rows = values.get("text_config", values).get("vocab_size")
    if not isinstance(rows, int):
        return
    homeless = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows and not OTHER_MEDIA.search(token)}
    if homeless:
        shown = ", ".join(map(repr, sorted(homeless, key=homeless.__getitem__)[:5]))
        raise ValueError(
            f"{str(folder)!r}: the tokenizer has {max(homeless.values()) + 1} tokens and the model embeds {rows}, so "
            f"that {shown} have no row; take the tokenizer that belongs to the model, or resize the model's embeddings"
        )


def require_same_vocabulary(place: str, found: PreTrainedTokenizerBase, expected: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose token ids do not mean what those of another one mean.

    Args:
        place: beginning of the error, which names the model of `found`.

    Raises:
        ValueError: with a token that one of both has, or has with another id.
    """
    ours, theirs = expected.get_vocab(), found.get_vocab()
    differ = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if differ:
        said = " and ".join(
            f"no id {side}" if (number := vocabulary.get(differ[0])) is None else f"the id {number} {side}"
            for vocabulary, side in ((theirs, "there"), (ours, "in the vocabulary of the trained model"))
        )
        raise ValueError(
            f"{place} has another vocabulary than the trained model, so it cannot read its token ids: "
            f"{len(differ):,} tokens differ, and {differ[0]!r} has {said}; take a model of the same family"
        )


def renderer(model: ModelConfig, path: str | Path) -> Renderer:
    """Build the renderer of prompts into token ids of the model in `path`."""
    folder = Path(path)
    tokenizer = load_tokenizer(path, model.trust_remote_code)
    return Renderer(
        tokenizer,
        max_prompt_tokens=model.max_prompt_tokens,
        max_passage_tokens=model.max_passage_tokens,
        template_kwargs=model.template_kwargs,
        declared_ends=_declared_ends(folder),
        **processor.sight(model, folder),
    )


def stop_ids(path: str | Path, trust_remote_code: bool = False) -> list[int]:
    """Collect the tokens at which the model in `path` stops, as every renderer of it has them."""
    tokenizer = load_tokenizer(path, trust_remote_code)
    return sorted(Renderer(tokenizer, max_prompt_tokens=1, declared_ends=_declared_ends(Path(path))).stop_ids)


def _declared_ends(folder: Path) -> Iterator[int]:
    """Yield the ends of sequence in a folder's files; none for a hub id."""
    for name in ("config.json", "generation_config.json"):
        if not (folder / name).is_file():
            continue
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        for part in (settings, settings.get("text_config") or {}):
            ends = part.get("eos_token_id")
            yield from [ends] if isinstance(ends, int) else ends or ()
