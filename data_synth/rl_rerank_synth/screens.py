"""Screens of carousels that people looked at, as ranking data: RecGaze's, and others of that shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rl_rerank.data.records import Collection, Omissions
from rl_rerank.data.sources.reading import digest, existing, identifier, read_documents, records, split_name, string
from rl_rerank_synth.carousel_records import Feedback, Place, collection


@dataclass(frozen=True)
class Screens:
    """Reads `corpus.jsonl`, `screens.jsonl {screen, task, carousels: [{row, genre, movies: [docid, ...]}]}` and, where
    there is one, `feedback.jsonl {user, screen, clicked, fixations: {docid: count}, profile, split}`.

    With feedback a query is a person's profile and the task, one for each screen that the person saw, and the
    candidates are all items of the screen, row by row; without it, one for each screen, and nothing is judged. Each
    candidate has its place and what was done to it among its features (`carousel_records.collection`). Source: RecGaze,
    https://arxiv.org/abs/2504.20792; the grades are ours.
    """

    path: str
    page: int = 5
    """Items of a carousel that are shown at a time."""
    excluded: tuple[str, ...] = ()
    """`USER/SCREEN` pairs that are known to be bad."""

    def read(self) -> Collection:
        """Read everything."""
        folder, omissions = Path(self.path), Omissions()
        documents = read_documents(existing(folder, "corpus.jsonl"), omissions)
        screens = dict(self._screens(existing(folder, "screens.jsonl")))
        tasks = {screen: task for screen, (task, _) in screens.items()}
        places = {screen: where for screen, (_, where) in screens.items()}
        for screen, where in places.items():
            for docid in [docid for docid in where if docid not in documents]:
                omissions.add("items left out, because no document has their docid", f"screen {screen}, {docid!r}")
                del where[docid]
        told = [f for f in self._feedback(folder, places, omissions) if f"{f.user}/{f.screen}" not in self.excluded]
        visits = told or [Feedback("", screen, frozenset(), {}, "", "") for screen in places]
        return replace(collection(documents, places, tasks, visits), warnings=omissions.sentences())

    def state(self) -> str:
        """A digest of the files."""
        folder = Path(self.path)
        files = [existing(folder, name) for name in ("corpus.jsonl", "screens.jsonl")]
        return digest([*files, *_optional(folder)])

    def _screens(self, path: Path) -> Iterator[tuple[str, tuple[str, dict[str, Place]]]]:
        for place, row in records(path):
            where: dict[str, Place] = {}
            for carousel in sorted(row.get("carousels", []), key=lambda carousel: carousel["row"]):
                for column, docid in enumerate(carousel["movies"], start=1):
                    if docid in where:
                        raise ValueError(f"{place}: {docid!r} stands twice on the screen")
                    page = (column - 1) // self.page + 1
                    where[docid] = Place(carousel["row"], column, page, carousel.get("genre", ""))
            yield identifier(row, ("screen",), place), (string(row, ("task",), place, ""), where)

    def _feedback(
        self, folder: Path, places: Mapping[str, Mapping[str, Place]], omissions: Omissions
    ) -> Iterator[Feedback]:
        for path in _optional(folder):
            for place, row in records(path):
                screen = identifier(row, ("screen",), place)
                if screen not in places:
                    raise ValueError(f"{place}: there is no screen {screen!r}")
                split = split_name(string(row, ("split",), place, ""), place)
                clicked, fixations = string(row, ("clicked",), place, ""), row.get("fixations", {})
                unknown = [docid for docid in (clicked, *fixations) if docid and docid not in places[screen]]
                if unknown:
                    omissions.add("feedback left out on items that are not on the screen", f"{place}, {unknown[0]!r}")
                seen = {d: int(n) for d, n in fixations.items() if d in places[screen]}
                chosen = frozenset(() if not clicked or clicked in unknown else (clicked,))
                user, profile = identifier(row, ("user",), place), string(row, ("profile",), place, "")
                yield Feedback(user, screen, chosen, seen, profile, split)


def _optional(folder: Path) -> list[Path]:
    return [file for name in ("feedback.jsonl", "feedback.jsonl.gz") if (file := folder / name).is_file()]
