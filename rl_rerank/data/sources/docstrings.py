"""Taking numpydoc docstrings apart: the summary, the See Also names, and the rest in a readable order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Most telling first, because a reader with a small budget sees only the beginning: what is returned says most about
# what a function does.
_FIRST = ("", "Returns", "Yields", "Notes", "Warnings", "Parameters", "Attributes", "Raises", "Warns")
_LAST = ("Methods", "References", "Examples")

_SIGNATURE = re.compile(r"[A-Za-z_][\w.]*\(.*\)(\s*->.*)?", re.DOTALL)
_UNDERLINE = re.compile(r"\s*(-{3,}|={3,})\s*")
_ARRAY_API_TABLE = re.compile(r"\*\*Array API Standard Support\*\*.*?for more information\.", re.DOTALL)
_PRINTED_SET = re.compile(r"(?<=argument\(s\)) (?:``)?\{[^}]*\}(?:``)?")
_DIRECTIVE = re.compile(r"\.\. (?:versionadded|versionchanged|deprecated)::[^\n]*|\.\. [\w-]+::|\.\. \[")
_ROLE = re.compile(r":[\w:]+:(?=`)")
_REFERENCE = re.compile(r"\[[\w]+\]_")
_QUOTED = re.compile(r"`~?([\w.]+)`")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Docstring:
    """The parts of one docstring."""

    summary: str
    """The first paragraph on one line."""
    body: str
    """Everything else without See Also: extended description, notes, parameters, ..., examples."""
    see_also: tuple[str, ...]
    """Names as they are written."""


def parse(text: str) -> Docstring:
    """Take apart a docstring whose indentation is gone (`inspect.getdoc`)."""
    text = _ARRAY_API_TABLE.sub("", _without_chance(text))
    sections = _sections(_without_signatures(text))
    summary, _, extended = sections.pop("", "").partition("\n\n")
    see_also = _names(sections.pop("See Also", ""))
    sections = {"": extended, **sections}
    middle = [title for title in sections if title not in (*_FIRST, *_LAST)]
    order = [title for title in (*_FIRST, *middle, *_LAST) if title in sections]
    parts = [(title, plain(sections[title])) for title in order]
    body = " ".join(f"{title}: {content}" if title else content for title, content in parts if content)
    return Docstring(plain(summary), body, see_also)


def plain(text: str) -> str:
    """Text without reStructuredText's marks, on one line."""
    text = _REFERENCE.sub("", _ROLE.sub("", _DIRECTIVE.sub("", text)))
    return " ".join(text.replace("`~", "").replace("`", "").replace("::", "").split())


def without_names(text: str, names: Iterable[str]) -> str:
    """`text` without mentions of these names, alone or behind a module's name."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    pattern = "|".join(re.escape(name) for name in longest_first)
    return " ".join(re.sub(rf"(?<![\w.])(?:\w+\.)*(?:{pattern})(?!\w)", "", text).split())


def _without_chance(text: str) -> str:
    """`text` without what differs from process to process: sampled outputs, and sets printed in hash order."""
    kept: list[str] = []
    for line in text.split("\n"):
        kept.append(line)
        if line.endswith("# may vary"):
            while kept and kept[-1].strip() and not kept[-1].lstrip().startswith((">>>", "...")):
                kept.pop()
    return _PRINTED_SET.sub("", "\n".join(kept))


def _without_signatures(text: str) -> str:
    # Functions written in C carry their call signatures as first lines.
    while text:
        first, _, rest = text.partition("\n\n")
        lines = first.split("\n")
        if _SIGNATURE.fullmatch(first.strip()):
            text = rest.strip("\n")
        elif len(lines) > 1 and _SIGNATURE.fullmatch(lines[0].strip()):
            text = "\n".join(lines[1:]) + ("\n\n" + rest if rest else "")
        else:
            break
    return text.strip("\n")


def _sections(text: str) -> dict[str, str]:
    """Title -> content; what stands before the first title has the title ``''``."""
    lines = text.split("\n")
    sections: dict[str, list[str]] = {"": []}
    current = sections[""]
    for number, line in enumerate(lines):
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        if line.strip() and _UNDERLINE.fullmatch(follows) and not _UNDERLINE.fullmatch(line):
            current = sections.setdefault(line.strip().removesuffix(":").replace("See also", "See Also"), [])
        elif not (_UNDERLINE.fullmatch(line) and number and lines[number - 1].strip()):
            current.append(line)
    return {title: "\n".join(content).strip("\n") for title, content in sections.items()}


def _names(text: str) -> tuple[str, ...]:
    """The names before the colons of a See Also section; indented lines describe and are passed over."""
    found: list[str] = []
    for line in text.split("\n"):
        if not line.strip() or line[0].isspace():
            continue
        line = _ROLE.sub("", line)
        before_colon = re.split(r"\s*:(?:\s|$)", line, maxsplit=1)[0]
        parts = [part.strip(" `~.") for part in before_colon.split(",")]
        found.extend([part for part in parts if _NAME.fullmatch(part)] or _QUOTED.findall(before_colon))
    return tuple(dict.fromkeys(found))
