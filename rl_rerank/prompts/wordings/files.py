"""From a wording's file, name or content to a checked `Wording`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import (
    FENCES,
    FORMS,
    IDENTIFIERS,
    KEYS,
    OF_PARADIGM,
    REASONING,
    REASONS,
    SLOT,
    SLOTS,
    AnswerForm,
    Wording,
)

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """The wordings that come with rl-rerank."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def is_file(given: object) -> TypeGuard[str]:
    """Whether a setting names a wording by its file."""
    return isinstance(given, str) and given.endswith(SUFFIXES)


def content(given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """What a wording's file says, by its name or path; given content as it is.

    Raises:
        LookupError: for a name or a file that does not exist, with the names.
        ValueError: for a file that is not a YAML mapping.
    """
    if not isinstance(given, str):
        return given
    path = Path(given) if is_file(given) else FOLDER / f"{given}.yaml"
    if not path.is_file():
        if is_file(given):
            raise LookupError(f"wording: there is no file {given!r}")
        close = difflib.get_close_matches(given, names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise LookupError(
            f"no wording is named {given!r}; there are: {', '.join(names())}.{hint} A file of your own is given by its "
            "path, which ends with .yaml"
        )
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"wording {given}: it is not YAML: {' '.join(str(e).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"wording {given}: it must be a mapping with the keys {', '.join(KEYS)}; got {found!r}")
    return found


@cache
def _named(name: str) -> Wording:
    return _checked(content(name), name)


def wording(given: str | Mapping[str, Any]) -> Wording:
    """The wording of this name, file or content.

    Raises:
        LookupError: for a name or a file that does not exist.
        ValueError: naming file, key and reason.
    """
    if isinstance(given, str) and not is_file(given):
        return _named(given)
    return _checked(content(given), given if isinstance(given, str) else str(given.get("file", "given as a mapping")))


def _checked(found: Mapping[str, Any], file: str) -> Wording:
    values = {key: value for key, value in found.items() if key != "file"}
    _check_keys(values, KEYS, file, "")
    for key in ("paradigm", "user", "answer"):
        if key not in values:
            raise ValueError(f"wording {file}: {key} is missing")
    answer = values.pop("answer")
    for key, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"wording {file}: {key} must be a text; got {value!r}")
    paradigm = values["paradigm"]
    if paradigm not in FORMS:
        raise ValueError(f"wording {file}: paradigm must be one of {', '.join(FORMS)}; got {paradigm!r}")
    built = Wording(**values, answer=_answer(answer, paradigm, file))
    _check_slots(built, file)
    _check_reasoning(built, file)
    return built


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], file: str, place: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"wording {file}: there is no key {place}{key}; there are: {', '.join(known)}{hint}")


def _answer(given: Any, paradigm: str, file: str) -> AnswerForm:
    if not isinstance(given, Mapping):
        raise ValueError(f"wording {file}: answer must be a mapping with a form; got {given!r}")
    _check_keys(given, ("form", "identifiers", "words", "fence", "tags"), file, "answer.")
    form, allowed = given.get("form"), FORMS[paradigm]
    if form not in allowed:
        raise ValueError(
            f"wording {file}: answer.form must be {' or '.join(allowed)} for the paradigm {paradigm}; got {form!r}"
        )
    for key, options in (("identifiers", IDENTIFIERS.get(paradigm, ())), ("fence", FENCES if form == "object" else ())):
        if given.get(key, "") not in ("", *options):
            allowed = f"one of {', '.join(options)}" if options else "left out"
            raise ValueError(
                f"wording {file}: answer.{key} must be {allowed} for {paradigm} answers; got {given[key]!r}"
            )
    words = given.get("words", ())
    are_two = isinstance(words, (list, tuple)) and len(words) == 2 and all(isinstance(word, str) for word in words)
    if words and not (are_two and form == "words"):
        raise ValueError(f"wording {file}: answer.words must be the two answers of form words; got {words!r}")
    tags = given.get("tags", {})
    if not isinstance(tags, Mapping):
        raise ValueError(f"wording {file}: answer.tags must be a mapping such as {{thought: reason}}; got {tags!r}")
    _check_keys(tags, ("thought", "answer"), file, "answer.tags.")
    try:
        around = Tags(**{key: str(value) for key, value in tags.items()})
    except ValueError as e:
        raise ValueError(f"wording {file}: answer.tags: {e}") from None
    return AnswerForm(
        form=form,
        identifiers=given.get("identifiers", ""),
        words=tuple(words),
        fence=given.get("fence", ""),
        tags=around,
    )


def _check_slots(built: Wording, file: str) -> None:
    """Refuse unknown placeholders, and a query or documents that are shown nowhere or twice."""
    found = {key: [slot[1] for slot in SLOT.finditer(getattr(built, key))] for key in SLOTS}
    for key, slots in found.items():
        known = (*SLOTS[key], *(OF_PARADIGM.get(built.paradigm, ()) if key in ("system", "user", "opening") else ()))
        for slot in slots:
            if slot not in known:
                allowed = ", ".join(f"{{{one}}}" for one in known) or "none"
                raise ValueError(f"wording {file}: {key} has the placeholder {{{slot}}}; there are: {allowed}")
    if "query" not in found["user"]:
        raise ValueError(f"wording {file}: user has no {{query}}, so the model would not see it")
    shown = found["user"].count("documents")
    expected = 0 if built.turn else 1
    if shown != expected:
        reason = "the documents are turns of their own" if built.turn else "the documents are shown once"
        raise ValueError(f"wording {file}: user must have {{documents}} {expected} times, not {shown}: {reason}")
    key = "turn" if built.turn else "document"
    if found[key].count("document") != 1:
        raise ValueError(f"wording {file}: {key} must have {{document}} once; got {getattr(built, key)!r}")
    is_pointwise = built.paradigm in ("pointwise", "pointwise_graded")
    if not is_pointwise and found[key].count("id") != 1:
        raise ValueError(f"wording {file}: {key} must have {{id}} once, for answers; got {getattr(built, key)!r}")
    if found["titled"].count("text") != 1:
        raise ValueError(f"wording {file}: titled must have {{text}} once; got {built.titled!r}")
    if built.turn and not (built.opening and built.reply and built.received):
        raise ValueError(f"wording {file}: turn needs opening, reply and received, the messages around it")


def _check_reasoning(built: Wording, file: str) -> None:
    if built.reasoning not in REASONING:
        raise ValueError(f"wording {file}: reasoning must be one of {', '.join(REASONING)}; got {built.reasoning!r}")
    if built.reasoning != "never" and built.paradigm not in REASONS:
        raise ValueError(
            f"wording {file}: reasoning must be never, as {built.paradigm} answers have none; got {built.reasoning!r}"
        )
    if built.reasoning == "optional" and "{think}" not in built.user:
        raise ValueError(f"wording {file}: reasoning is optional, so user needs {{think}} where it is asked for")
    if built.reasoning != "never":
        asked = f"{built.system}\n{built.user}\n{built.think}"
        for tag in (built.answer.tags.think_end, built.answer.tags.open):
            if tag not in asked:
                raise ValueError(f"wording {file}: answer.tags: answers are read by {tag}, which no message names")
