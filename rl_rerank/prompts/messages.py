"""Building blocks of prompts: our text and theirs, kept apart."""

from collections.abc import Callable, Sequence

from rl_rerank.types import Candidate, Message, Prompt, RankingExample, Segment


def ours(text: str) -> Segment:
    """Template text."""
    return Segment(text)


def query(example: RankingExample) -> list[Segment]:
    """The query, and the instruction where there is one."""
    segments = [ours("Query: "), Segment(example.query, field="query")]
    if example.instruction:
        segments += [ours("\nInstruction: "), Segment(example.instruction, field="instruction")]
    return segments


def passage(candidate: Candidate, label: str) -> list[Segment]:
    """One document under a label.

    Raises:
        ValueError: for an image without text.
    """
    require_text(candidate)
    segments = [ours(f"\n{label} ")]
    if candidate.title:
        segments += [Segment(candidate.title, candidate.docid, "title"), ours(". ")]
    segments.append(Segment(candidate.text, candidate.docid, "text"))
    return segments


def require_text(candidate: Candidate) -> None:
    """Refuse an image without text, which would be shown as nothing."""
    if candidate.images and not (candidate.title + candidate.text).strip():
        raise ValueError(
            f"document {candidate.docid!r} is an image without text, and prompts hold text only; give the documents a "
            "title or a text"
        )


def question(
    example: RankingExample,
    docids: Sequence[str],
    paradigm: str,
    system: str,
    user: Sequence[Segment],
    *,
    reasoning: bool = False,
) -> Prompt:
    """A prompt of a system and a user message."""
    return Prompt(
        example.qid,
        tuple(docids),
        (Message("system", (ours(system),)), Message("user", tuple(user))),
        paradigm,
        reasoning=reasoning,
    )


def numbered(example: RankingExample, docids: Sequence[str], name: Callable[[int], str] = str) -> list[Segment]:
    """The documents under the identifiers [1], [2], ..., or the names that these are given."""
    return [
        segment
        for identifier, docid in enumerate(docids, start=1)
        for segment in passage(example.candidate(docid), f"[{name(identifier)}]")
    ]


def in_turns(
    example: RankingExample,
    docids: Sequence[str],
    paradigm: str,
    system: str,
    form: Segment,
    *,
    reasoning: bool = False,
) -> Prompt:
    """A conversation in which every document is a turn, and the last one asks.

    After RankGPT, Sun et al. 2023, https://arxiv.org/abs/2304.09542.
    """
    opening = [*query(example), ours(f"\n{len(docids)} passages follow, each with its identifier.")]
    turns = [Message("user", tuple(opening)), Message("assistant", (ours("Okay, please provide the passages."),))]
    for identifier, docid in enumerate(docids, start=1):
        [first, *shown] = passage(example.candidate(docid), f"[{identifier}]")
        turns.append(Message("user", (ours(first.text.lstrip("\n")), *shown)))
        turns.append(Message("assistant", (ours(f"Received passage [{identifier}]."),)))
    last = Message("user", (*query(example), form))
    messages = (Message("system", (ours(system),)), *turns, last)
    return Prompt(example.qid, tuple(docids), messages, paradigm, reasoning=reasoning)


def contract(text: str, *, reasoning: bool) -> Segment:
    """The line that says how to answer."""
    asked = f"Think in <think></think>, then answer in <answer></answer>. {text}" if reasoning else text
    return ours(f"\n{asked}")
