"""Viewers' histories as ranking data: the next watch among what was offered, split by time."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.data.records import Collection, Document, Omissions, Query
from rl_rerank.data.sources.reading import digest, existing, identifier, read_documents, records, string
from rl_rerank_synth.stories import Event, Story, written

TASKS = ("item", "carousel", "search")


@dataclass(frozen=True)
class Viewers:
    """Reads a folder of `corpus.jsonl {docid, title, text}` and `events.jsonl {user, time, kind, item, text, surface,
    carousel, position, offered}`, and, where there is one, `users.jsonl {user, NAME: text, ...}`, plain or with .gz.

    A query is a viewer's story before a watch, and the task. item: which of the offered items is watched. carousel:
    which of the carousels that there have been is chosen from. search: which item answers a search. Its relevant
    document is what was chosen. `offered` lists what else was shown; without it `negatives` other items are drawn by
    how often they had been watched before.

    Times split: all watches of the first part of the time are for training, those of the last for test. What a query,
    its candidates and their draw depend on happened before the watch.
    """

    path: str
    tasks: tuple[str, ...] = TASKS
    history: int = 50
    """Events of a story, the last ones."""
    negatives: int = 19
    dev_share: float = 0.1
    """Of the time."""
    test_share: float = 0.2
    seed: int = 1

    def __post_init__(self) -> None:
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise ValueError(f"viewers: tasks must be among {', '.join(TASKS)}; got {unknown[0]!r}")
        if self.dev_share < 0 or self.test_share < 0 or self.dev_share + self.test_share >= 1:
            raise ValueError("viewers: dev_share and test_share must be 0 or more and leave time for training")

    def read(self) -> Collection:
        """Read everything."""
        folder, omissions = Path(self.path), Omissions()
        documents = read_documents(existing(folder, "corpus.jsonl"), omissions)
        stories, offered = self._stories(folder, documents, omissions)
        return queries(self, stories, offered, documents, omissions)

    def state(self) -> str:
        """A digest of the files."""
        folder = Path(self.path)
        optional = [f for f in (folder / "users.jsonl", folder / "users.jsonl.gz") if f.is_file()]
        return digest([existing(folder, "corpus.jsonl"), existing(folder, "events.jsonl"), *optional])

    def _stories(
        self, folder: Path, documents: dict[str, Document], omissions: Omissions
    ) -> tuple[dict[str, Story], dict[tuple[str, int, str], list[str]]]:
        events: defaultdict[str, list[Event]] = defaultdict(list)
        offered: dict[tuple[str, int, str], list[str]] = {}
        for place, row in records(existing(folder, "events.jsonl")):
            user, event = identifier(row, ("user",), place), _event(place, row)
            if event.kind == "watch" and event.item not in documents:
                omissions.add("events left out, because no document has their item", f"{place}, item {event.item!r}")
                continue
            events[user].append(event)
            if shown := [docid for docid in row.get("offered", []) if docid in documents]:
                offered[user, event.time, event.item] = shown
        attributes = dict(_attributes(folder))
        stories = {
            user: Story(attributes.get(user, {}), sorted(found, key=lambda event: event.time))
            for user, found in events.items()
        }
        return stories, offered


def queries(
    settings: Viewers,
    stories: dict[str, Story],
    offered: dict[tuple[str, int, str], list[str]],
    documents: dict[str, Document],
    omissions: Omissions,
) -> Collection:
    """A query for every watch that has a story before it, in the order of time."""
    watches = sorted(
        (event.time, user, place)
        for user, story in stories.items()
        for place, event in enumerate(story.events)
        if event.kind == "watch"
    )
    if not watches:
        return Collection(documents, [], warnings=omissions.sentences())
    first, last = watches[0][0], watches[-1][0]
    test_from = last - settings.test_share * (last - first)
    dev_from = test_from - settings.dev_share * (last - first)
    found = _Found(settings, documents)
    for time, group in _by_time(watches):
        split = "test" if time > test_from else "dev" if time > dev_from else "train"
        for user, place in group:
            found.add(user, stories[user], place, split, offered)
        for user, place in group:  # Only now are these watches past.
            found.watched(stories[user].events[place])
    documents = {**documents, **found.carousels}
    return Collection(documents, found.queries, found.qrels, found.runs, warnings=omissions.sentences())


class _Found:
    """The queries so far, and how often what had been watched by then."""

    def __init__(self, settings: Viewers, documents: dict[str, Document]) -> None:
        self.settings = settings
        self.documents = documents
        self.queries: list[Query] = []
        self.qrels: dict[str, dict[str, int]] = {}
        self.runs: dict[str, list[tuple[str, float | None]]] = {}
        self.carousels: dict[str, Document] = {}
        self._counts: Counter[str] = Counter()

    def watched(self, event: Event) -> None:
        """Count a watch that is past."""
        self._counts[event.item] += 1
        if event.carousel:
            docid = carousel_docid(event.carousel)
            self.carousels.setdefault(docid, Document("", event.carousel))
            self._counts[docid] += 1

    def add(
        self, user: str, story: Story, place: int, split: str, offered: dict[tuple[str, int, str], list[str]]
    ) -> None:
        """The tasks that a watch answers."""
        event = story.events[place]
        past = story.before(event.time)
        if not past.events:
            return
        qid = f"{user}-{event.time}-{place}"
        searched = past.events[-1] if past.events[-1].kind == "search" and event.surface == "search" else None
        shown = offered.get((user, event.time, event.item), [])
        if searched is not None and "search" in self.settings.tasks:
            self._ask(f"{qid}-s", past, f"search: {searched.text}", event.item, shown, split)
        elif searched is None and "item" in self.settings.tasks:
            self._ask(f"{qid}-i", past, "item", event.item, shown, split)
        chosen = carousel_docid(event.carousel)
        if event.carousel and chosen in self.carousels and "carousel" in self.settings.tasks:
            self._ask(f"{qid}-c", past, "carousel", chosen, list(self.carousels), split)

    def _ask(self, qid: str, past: Story, task: str, chosen: str, shown: Sequence[str], split: str) -> None:
        rng = random.Random(f"{self.settings.seed}:{qid}")
        others = [docid for docid in shown if docid != chosen] or self._drawn(chosen, rng, past)
        if not others:
            return
        candidates = [chosen, *others[: self.settings.negatives]]
        candidates.sort(key=lambda docid: (-self._counts[docid], docid))
        text = f"{written(past.latest(self.settings.history))}\ntask {task}"
        self.queries.append(Query(qid, text, split))
        self.qrels[qid] = {docid: int(docid == chosen) for docid in candidates}
        self.runs[qid] = [(docid, float(self._counts[docid])) for docid in candidates]

    def _drawn(self, chosen: str, rng: random.Random, past: Story) -> list[str]:
        """Other items that had been watched by then, not by this viewer, the often watched ones likelier."""
        mine = {event.item for event in past.events}
        pool = [d for d in self._counts if d in self.documents and d != chosen and d not in mine]
        weight = {docid: rng.random() ** (1 / self._counts[docid]) for docid in sorted(pool)}
        return sorted(weight, key=lambda docid: -weight[docid])[: self.settings.negatives]


def carousel_docid(name: str) -> str:
    """Carousels are documents too, under this docid."""
    return f"carousel:{'_'.join(name.split())}"


def _by_time(watches: Sequence[tuple[int, str, int]]) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    groups: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for time, user, place in watches:
        groups[time].append((user, place))
    yield from groups.items()


def _event(place: str, row: dict[str, Any]) -> Event:
    time, kind, position = row.get("time"), row.get("kind"), row.get("position")
    if not isinstance(time, int) or isinstance(time, bool):
        raise ValueError(f"{place}: time must be a whole number of seconds; got {time!r:.80}")
    if kind not in ("watch", "search"):
        raise ValueError(f"{place}: kind must be watch or search; got {kind!r:.80}")
    if position is not None and (not isinstance(position, int) or position < 1):
        raise ValueError(f"{place}: position must be a number from 1; got {position!r:.80}")
    item = identifier(row, ("item",), place) if kind == "watch" else string(row, ("item",), place, "")
    text, surface, carousel = (string(row, (name,), place, "") for name in ("text", "surface", "carousel"))
    return Event(time, kind, item, text, surface, carousel, position)


def _attributes(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for name in ("users.jsonl", "users.jsonl.gz"):
        for place, row in records(folder / name) if (folder / name).is_file() else ():
            user = identifier(row, ("user",), place)
            yield user, {key: string(row, (key,), place) for key in row if key != "user"}
