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


SHOWN = ("text", "images", "both")
"""What of documents prompts may show."""


def check_shown(paradigm: str, shown: str) -> None:
    """Refuse a value of a paradigm's parameter `shown`."""
    if shown not in SHOWN:
        raise ValueError(f"{paradigm}: shown must be one of {', '.join(SHOWN)}; got {shown!r}")


def require_text(candidate: Candidate) -> None:
    """Refuse an image without text, which would be shown as nothing."""
    if candidate.images and not (candidate.title + candidate.text).strip():
        raise ValueError(
            f"document {candidate.docid!r} is an image without text, and the prompts show text only; set shown=images "
            "on a paradigm that has it (pointwise, listwise), with a model that sees, or give the documents a text"
        )


def images(candidate: Candidate) -> list[Segment]:
    """A document's images.

    Raises:
        ValueError: if it has none.
    """
    if not candidate.images:
        raise ValueError(
            f"document {candidate.docid!r} has no image, and the prompts show images; set the paradigm's shown=text"
        )
    return [Segment("", candidate.docid, "image", path) for path in candidate.images]


def numbered(example: RankingExample, docids: Sequence[str], name: Callable[[int], str] = str) -> list[Segment]:
    """The documents under the identifiers [1], [2], ..., or the names that these are given."""
    return [
        segment
        for identifier, docid in enumerate(docids, start=1)
        for segment in passage(example.candidate(docid), f"[{name(identifier)}]")
    ]
