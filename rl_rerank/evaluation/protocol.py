"""What a run was made under, and whether two runs can be compared.

Two things are kept apart. The task must be the same in both runs: the queries with their judgments and texts, the
split, the depth, the first stage's candidates, and how much of a text a prompt may hold. How a system asks is part of
the system: paradigms are compared freely, and so are ways to treat long documents. But one paradigm with the same
parameters must also use the same words: a prompt that was reworded between two runs would pass for a better model.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank.config import Config, PluginConfig
from rl_rerank.data.store import Store
from rl_rerank.io.files import write_json
from rl_rerank.paradigms.base import Paradigm, members
from rl_rerank.types import Candidate, RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.rerank.spec import RerankStage

FILE = "protocol.json"

EXAMPLE = RankingExample(
    qid="q",
    query="what melts ice",
    candidates=(
        Candidate("a", "Salt melts ice.", "Salt", images=("a.png",)),
        Candidate("b", "Sound is a wave.", images=("b.png",)),
        Candidate("c", "Heat.", images=("c.png",)),
    ),
    qrels={"a": 1},
)
"""What the words of a paradigm's prompts are known by."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a run was made under. Hashes are SHA-256 in hexadecimal digits."""

    split: str
    depth: int
    data: str
    """Hash of the split's queries and judgments, and of the candidates' texts."""
    first_stage: str
    """Hash of the candidates' order and scores."""
    dataset: str
    """The data store's fingerprint, which also depends on the other splits. For the record; never compared."""
    paradigm: str = ""
    """Its name and parameters; empty where no model was asked."""
    template: str = ""
    """Hash of the first prompts that the paradigm makes of `EXAMPLE`."""
    max_prompt_tokens: int | None = None
    """Token budget of a prompt; None: not ours to cut (no model, a server that takes messages, a cross-encoder)."""
    max_passage_tokens: int | None = None
    """Token budget of one document; None: as much as the prompt has room for."""
    long_documents: str = ""


def protocol(config: Config, stage: RerankStage, store: Store, paradigm: Paradigm | None = None) -> Protocol:
    """The protocol of a rerank stage.

    Args:
        paradigm: what the model is asked with; None where none is asked.
    """
    examples = store.examples(stage.split)
    judged = store.qrels(stage.split)
    task = Protocol(
        split=stage.split,
        depth=config.data.depth,
        data=_digest(itertools.chain(map(_content, examples), sorted(judged.items()))),
        first_stage=_digest([e.qid, *((c.docid, c.score) for c in e.candidates)] for e in examples.outlines()),
        dataset=store.fingerprint,
    )
    if paradigm is None:
        return task
    engine = stage.engine or config.engine
    is_cut = engine.settings().cuts_prompts
    asking = {
        "paradigm": _identity(config, stage.paradigm or config.paradigm),
        "template": template(paradigm),
        "max_prompt_tokens": config.model.max_prompt_tokens if is_cut else None,
        "max_passage_tokens": config.model.max_passage_tokens if is_cut else None,
        "long_documents": stage.long_documents.described,
    }
    return Protocol(**asdict(task) | asking)


def template(paradigm: Paradigm) -> str:
    """The sha256 of the words that the paradigm asks with."""
    return _digest(map(_words, members(paradigm).values()))


def write(folder: Path, made_under: Protocol) -> None:
    """Write `protocol.json` beside the run."""
    write_json(folder / FILE, asdict(made_under))


def read(folder: Path) -> Protocol | None:
    """The protocol that lies in a rerank stage's folder; None where none was recorded.

    Raises:
        ValueError: if the file does not hold a protocol.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Protocol(**json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as e:
        raise ValueError(f"{path} holds no protocol ({e}); run the rerank stage again") from None


def differences(one: Protocol | None, other: Protocol | None) -> list[str]:
    """Why two runs cannot be compared fairly, one reason an item; empty where they can."""
    if one is None or other is None:
        said = "neither says what it" if one is other else "one of them does not say what it"
        return [f"{said} was made under ({FILE} is missing)"]
    found = [
        f"{name} {_short(a)} and {_short(b)}"
        for name, a, b in (
            ("split", one.split, other.split),
            ("depth", one.depth, other.depth),
            ("queries, judgments or texts", one.data, other.data),
            ("first stage", one.first_stage, other.first_stage),
        )
        if a != b
    ]
    if one.max_prompt_tokens is not None and other.max_prompt_tokens is not None:
        found += [
            f"{name} {_short(a)} and {_short(b)}"
            for name, a, b in (
                ("max_prompt_tokens", one.max_prompt_tokens, other.max_prompt_tokens),
                ("max_passage_tokens", one.max_passage_tokens, other.max_passage_tokens),
            )
            if a != b
        ]
    if one.paradigm == other.paradigm and one.template != other.template:
        words = f"the wording of {_name(one)} prompts"
        found.append(f"{words} (template {_short(one.template)} and {_short(other.template)})")
    return found


def sentences(protocols: Mapping[str, Protocol | None]) -> list[str]:
    """What a table says of its rows' protocols: what all share once, and what prompts were like.

    Args:
        protocols: label of a row -> its protocol.
    """
    tasks = _grouped({label: _task(p) for label, p in protocols.items()})
    asking = _grouped({label: _asking(p) for label, p in protocols.items() if p is not None and p.paradigm})
    if len(tasks) == 1:
        found = [f"Protocol: {next(iter(tasks))}."]
    else:
        found = [f"Protocol of {', '.join(labels)}: {words}." for words, labels in tasks.items()]
    return found + [f"Prompts of {', '.join(labels)}: {words}." for words, labels in asking.items()]


def _task(p: Protocol | None) -> str:
    if p is None:
        return "not recorded"
    return f"split {p.split}, depth {p.depth}, data {_short(p.data)}, first stage {_short(p.first_stage)}"


def _asking(p: Protocol) -> str:
    cut = "not cut by us" if p.max_prompt_tokens is None else f"up to {p.max_prompt_tokens} tokens"
    each = "" if p.max_passage_tokens is None else f", {p.max_passage_tokens} of a document"
    return f"{p.paradigm}, template {_short(p.template)}, {cut}{each}, long documents {p.long_documents}"


def _grouped(words: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for label, said in words.items():
        groups.setdefault(said, []).append(label)
    return groups


def _name(p: Protocol) -> str:
    return p.paradigm.partition("(")[0]


def _short(value: object) -> str:
    """The first eight digits of a hash; anything else as it is."""
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text


def _identity(config: Config, name: str) -> str:
    plugin = config.paradigms.get(name, PluginConfig())
    given = ", ".join(f"{key}={_setting(value)}" for key, value in sorted(plugin.params.items()))
    return f"{plugin.target or plugin.name or name}({given})" if given else plugin.target or plugin.name or name


def _setting(value: Any) -> str:
    """A parameter's value as JSON; of a wording given by its content, the file's name and the content's digest."""
    if isinstance(value, Mapping) and "file" in value:
        return f"{json.dumps(value['file'])} {_digest([value])[:8]}"
    return json.dumps(value)


def _words(paradigm: Paradigm) -> list[Any]:
    """The first round's prompts about `EXAMPLE`: every message with its role."""
    prompts = next(paradigm.strategy(EXAMPLE))
    return [[(m.role, m.text) for m in prompt.messages] for prompt in prompts]


def _content(example: RankingExample) -> Sequence[Any]:
    return example.qid, example.query, example.instruction, [(c.docid, c.title, c.text) for c in example.candidates]


def _digest(values: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()
