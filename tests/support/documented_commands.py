"""The commands that README, docs, examples, the heads of configuration files, scripts and help tell a user to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PROGRAMS = ("rl-rerank", "pip", "make", "python", "pytest", "vllm", "sbatch", "source")
_BEGINS = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:(?:{'|'.join(PROGRAMS)}) |launch/)")
_NOT_TYPED = re.compile(r"\[KEY|KEY=VALUE|COMMAND|\.\.\.|\bNAME\b|^rl-rerank \S+$| \[\w+=|\|")
"""What a usage line has and a command has not. The bare name of a command is a way to speak of it."""


class Documented(NamedTuple):
    """A command and where it stands."""

    place: str
    words: tuple[str, ...]
    """As a shell divides it."""

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def commands() -> list[Documented]:
    """All of them, in order; the same command in several places counts once a place."""
    found: list[Documented] = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]:
        found += [*_blocks(page), *_in_text(page)]
    for file in [*sorted(ROOT.glob("conf/**/*.yaml")), *sorted(ROOT.glob("launch/*"))]:
        found += _comments(file)
    for file in sorted(ROOT.glob("rl_rerank/cli/help/*.txt")):
        found += _in_help(file)
    return found


def _blocks(page: Path) -> Iterator[Documented]:
    """Lines that are indented, or fenced as a shell's, and begin with a program; a backslash continues one."""
    fence, begun, at = "", "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            fence = "" if fence else line
            continue
        is_shell = fence in ("```bash", "```sh") or (not fence and line.startswith("    "))
        if not (begun or (is_shell and _BEGINS.match(line.strip()))):
            continue
        begun, at = begun + line.strip(), at or number
        if begun.endswith("\\"):
            begun = begun.removesuffix("\\")
            continue
        yield _documented(page, at, begun)
        begun, at = "", 0


def _in_text(page: Path) -> Iterator[Documented]:
    """Commands in running text, in backticks, which a line break may divide."""
    text = re.sub(r"(?s)^```.*?^```", lambda fence: "\n" * fence[0].count("\n"), page.read_text("utf-8"), flags=re.M)
    for match in re.finditer(r"(?<!`)`((?:rl-rerank|pip|make|launch/[^\s`]+) [^`(]*)`", text):
        command = " ".join(match[1].split())
        if not _NOT_TYPED.search(command):
            yield _documented(page, text.count("\n", 0, match.start()) + 1, command)


def _comments(file: Path) -> Iterator[Documented]:
    """Commands in the comments of a configuration file or script; behind two spaces stands what they need."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.removeprefix("#").strip()
        if loop := re.fullmatch(r"for (\w+) in (\S+).*; do (.*); done", text):
            text = loop[3].replace(f"${loop[1]}", loop[2])
        if line.startswith("#") and _BEGINS.match(text) and not text.endswith("\\"):
            yield _documented(file, number, re.split(r" {2,}", text)[0])


def _in_help(file: Path) -> Iterator[Documented]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        for match in re.finditer(r"rl-rerank [a-z]+ (?:[^`\s]|\s(?!\s))+=[^`]*", line):
            if not _NOT_TYPED.search(match[0]):
                yield _documented(file, number, re.split(r" {2,}", match[0])[0])


def _documented(file: Path, number: int, text: str) -> Documented:
    return Documented(f"{file.relative_to(ROOT)}:{number}", tuple(shlex.split(text, comments=True)))
