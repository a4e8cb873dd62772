"""Building blocks of prompts: our text and theirs, kept apart."""

from collections.abc import Callable, Sequence

from rl_rerank.types import Candidate, RankingExample, Segment


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


def numbered(example: RankingExample, docids: Sequence[str], name: Callable[[int], str] = str) -> list[Segment]:
    """The documents under the identifiers [1], [2], ..., or the names that these are given."""
    return [
        segment
        for identifier, docid in enumerate(docids, start=1)
        for segment in passage(example.candidate(docid), f"[{name(identifier)}]")
    ]
