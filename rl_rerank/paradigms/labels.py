"""The names that documents have in a prompt and in an answer: letters or numbers.

    letters     shown as [A], [B], ...; answered bare, "B" or "B > A", so that an answer begins with a one-token label
    bracketed   shown as [A], [B], ...; answered in brackets, "[B] > [A]"
    numbers     shown as [1], [2], ...; answered in brackets, "[2]" or "[2] > [1]"

`choice` reads an answer that names one document, `order` one that names them all.
"""

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from rl_rerank.metrics import softmax
from rl_rerank.paradigms.answers import (
    NUMBER,
    clean_answer,
    find_answer,
    issue,
    no_answer,
    not_finite,
    without_cut_number,
    wrong_ids,
)
from rl_rerank.paradigms.lenient.orders import loose_order
from rl_rerank.paradigms.lenient.plain import plain
from rl_rerank.paradigms.order_scores import OrderScores
from rl_rerank.prompts.tags import DEFAULT, Tags
from rl_rerank.types import Completion, Issue, Judgment, Prompt, Status

ALPHABET = string.ascii_uppercase
AROUND = " \t\n.,;:!?\"'*`()[]"
"""What may stand around a label that is an answer on its own."""
LOOSELY = re.IGNORECASE | re.ASCII  # without ASCII the Kelvin sign is a K


@dataclass(frozen=True)
class Labels:
    """One way of naming documents. Identifiers count from 1."""

    kind: str
    """`letters`, `bracketed` (letters) or `numbers`."""
    label: str
    """Expression of a label in a lenient answer."""
    exact: str
    """Expression of a label as it is asked for."""

    def name(self, identifier: int) -> str:
        """As it stands within the brackets of a prompt."""
        if self.kind == "numbers":
            return str(identifier)
        if identifier > len(ALPHABET):
            raise ValueError(f"letters name at most {len(ALPHABET)} documents of a prompt; it shows more")
        return ALPHABET[identifier - 1]

    def answer(self, identifier: int) -> str:
        """As an answer gives it."""
        return self.name(identifier) if self.kind == "letters" else f"[{self.name(identifier)}]"

    def answers(self, n: int) -> tuple[str, ...]:
        """The answers that name the first `n` documents."""
        return tuple(self.answer(i) for i in range(1, n + 1))

    def beginnings(self, n: int) -> tuple[str, ...]:
        """What answers begin with that name one of the first `n` documents first, as far as they differ."""
        return tuple(answer.removesuffix("]") for answer in self.answers(n))

    def ordered(self, identifiers: Iterable[int]) -> str:
        """An answer that names several, best first."""
        return " > ".join(self.answer(i) for i in identifiers)

    def read(self, text: str) -> tuple[int, ...]:
        """The identifiers of all labels in a text that holds nothing else."""
        found = re.findall(self.label, text, LOOSELY)
        return tuple(int(label) if label.isdigit() else ALPHABET.index(label.upper()) + 1 for label in found)

    @cached_property
    def permutation(self) -> re.Pattern[str]:
        """Labels as they are asked for, best first."""
        return re.compile(f"{self.exact}(?: > {self.exact})*")

    @cached_property
    def mention(self) -> re.Pattern[str]:
        """A label in a lenient choice: in brackets, or behind a word that announces it."""
        word = (
            r"(?:\b(?i:passage|document|answer|option|choice)|答案|选项|段落|文档)(?i: is)?[ :*\"'`]{0,4}(?<![A-Za-z])"
        )
        box = r"\\boxed\s*\{\s*"
        return re.compile(rf"\[ ?((?i:{self.label})) ?\]|(?:{word}|{box})({self.label})\b", re.ASCII)


LETTERS = Labels("letters", "[A-Z]", "[A-Z]")
BRACKETED = Labels("bracketed", "[A-Z]", r"\[[A-Z]\]")
NUMBERS = Labels("numbers", "[0-9]{1,9}", rf"\[{NUMBER}\]")
ARRAY = re.compile(rf"\[{NUMBER}(?:, {NUMBER})*\]")
"""A JSON array of identifiers, as `json.dumps` writes it."""
KINDS = {"letters": LETTERS, "bracketed": BRACKETED, "numbers": NUMBERS}


def choice(
    prompt: Prompt, completion: Completion, labels: Labels, *, reasoning: bool, strict: bool, tags: Tags = DEFAULT
) -> Judgment:
    """Read an answer that names one document.

    Returns:
        Score 1 for the document that is named and 0 for the others; where labels were scored, the probabilities of the
        documents' labels, which sum to 1 over the prompt's documents.
    """
    if completion.continuations is not None:
        logprobs = {label: completion.continuations[label] for label in labels.answers(len(prompt.docids))}
        if unusable := not_finite(logprobs):
            return Judgment(Status.answer, issues=unusable)
        return Judgment(Status.ok, dict(zip(prompt.docids, softmax([*logprobs.values()]), strict=True)))
    answer = find_answer(completion, reasoning=reasoning, strict=strict, tags=tags)
    if answer.text is None:
        return no_answer(answer)
    text, issues = answer.text.strip(), answer.issues
    if re.fullmatch(labels.exact, text):
        ids = labels.read(text)
    else:
        issues = (*issues, issue("not_one_label", text))
        if strict:
            return Judgment(Status.answer, issues=issues)
        ids = _mentioned(text, labels)
    known = [i for i in ids if 1 <= i <= len(prompt.docids)]
    issues += tuple(issue("id_out_of_range", str(i)) for i in ids if i not in known)
    if len(known) != 1:
        return Judgment(Status.ids if strict else Status.answer, ids=ids, issues=issues)
    scores = {docid: float(i == known[0]) for i, docid in enumerate(prompt.docids, start=1)}
    return Judgment(Status.repaired if issues else Status.ok, scores, ids, issues)


def order(
    prompt: Prompt,
    completion: Completion,
    labels: Labels,
    *,
    reasoning: bool,
    strict: bool,
    complete: bool = True,
    form: str = "chain",
    tags: Tags = DEFAULT,
) -> Judgment:
    """Read an answer that names every document once, best first; the scores are n, n - 1, ..., 1.

    Args:
        complete: a lenient answer that leaves documents out is completed with them, in the order of the prompt.
        form: what strict reading takes: `chain`, or `array` for a JSON array of numbers.
    """
    n = len(prompt.docids)
    issues: tuple[Issue, ...] = ()
    ids = _listed(completion, labels.kind, n, reasoning, tags) if form == "chain" else ()
    if len(ids) == n and len(set(ids)) == n:
        return Judgment(Status.ok, OrderScores(prompt.docids, ids), ids)
    if not ids:
        answer = find_answer(completion, reasoning=reasoning, strict=strict, tags=tags)
        if answer.text is None:
            return no_answer(answer)
        text, issues = answer.text.strip(), answer.issues
        if (ARRAY if form == "array" else labels.permutation).fullmatch(text):
            ids = labels.read(text)
        else:
            issues = (*issues, issue("not_a_permutation", text))
            if strict:
                return Judgment(Status.answer, issues=issues)
            ids = loose_order(without_cut_number(completion, text), labels, n)
    issues = (*issues, *wrong_ids(ids, n, labels.answer))
    if not issues:
        return Judgment(Status.ok, OrderScores(prompt.docids, ids), ids)
    if strict:
        return Judgment(Status.ids, ids=ids, issues=issues)
    kept = tuple(dict.fromkeys(i for i in ids if 1 <= i <= n))
    if not kept:
        return Judgment(Status.answer, ids=ids, issues=issues)
    if len(kept) < n and not complete:
        return Judgment(Status.ids, ids=ids, issues=issues)
    completed = kept + tuple(i for i in range(1, n + 1) if i not in kept)
    return Judgment(Status.repaired, OrderScores(prompt.docids, completed), ids, issues)


def _mentioned(text: str, labels: Labels) -> tuple[int, ...]:
    """The different identifiers that a loosely written choice names, in order."""
    text = plain(text)
    alone = text.strip(AROUND)
    if re.fullmatch(labels.label, alone, LOOSELY):
        return labels.read(alone)
    found = (bracketed or announced for bracketed, announced in labels.mention.findall(text))
    return tuple(dict.fromkeys(i for label in found for i in labels.read(label)))


def _listed(completion: Completion, kind: str, n: int, reasoning: bool, tags: Tags) -> tuple[int, ...]:
    """The identifiers of a clean answer in the form of `Labels.ordered`, all of the first `n`; empty for any other."""
    clean = clean_answer(completion, reasoning, tags)
    if clean is None:
        return ()
    try:
        return tuple(map(_identifiers(kind, n).__getitem__, clean.split(" > ")))
    except KeyError:
        return ()


@cache
def _identifiers(kind: str, n: int) -> dict[str, int]:
    return {answer: i for i, answer in enumerate(KINDS[kind].answers(n), start=1)}
