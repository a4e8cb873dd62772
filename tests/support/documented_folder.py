"""The folder of somebody who has files by the names that the documentation uses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.documented_commands import ROOT

WORDS = "cave ice glacier wave sound light speed matrix vector sum root norm mean scale shift fold".split()  # noqa: SIM905
READ_A_RUN = ("report", "convert", "verify")
"""Commands that read the files of a finished run."""
PLACEHOLDERS = (
    ("data=baidu_ultr", r"(data\.path=).*", r"\1ultr"),
    ("data=recgaze", r"(data\.path=).*", r"\1recgaze"),
    ("data=hf", r"(data\.path=).*", r"\1texts"),
    ("data=hf_reasonir", r"data\.params\.revision=COMMIT", "data.path=rows"),  # the rows of this dataset, in a folder
    ("data=collection", r"(data\.path=).*", r"\1collection"),
    ("data=beir", r"(data\.path=).*", r"\1scifact"),
    ("data=rankify", r"(data\.path=).*", r"\1rankify.json"),
    ("", r"(data\.path=)FILE\.jsonl", r"\1my.jsonl"),
    ("", r"(completions=)FILE\.jsonl", r"\1answers.jsonl"),
    ("", r"(output=)FILE\.jsonl", r"\1parsed.jsonl"),
    ("", r"(.*encoder=)FOLDER", r"\1minilm"),
    ("", r"(model=)DIR", r"\1runs/quickstart/export/model"),
    ("", r"(.*)\bMODEL", r"\1some-model"),
    ("", r"(run=)(?:RUN|all\.trec)", r"\1run.trec"),
    ("", r"(qrels=)QRELS", r"\1qrels.txt"),
    ("", r"(run_dir=)COPY", r"\1runs/quickstart"),
    ("", r"(run_dir=)/shared/run", r"\1shared"),
)
"""A word that a command has, what another of its words looks like, and what takes the place of that one."""


def substituted(words: Sequence[str]) -> list[str]:
    """A command with files of the folder where the documentation has a word for them."""
    found = list(words)
    for beside, pattern, by in PLACEHOLDERS:
        if not beside or beside in words:
            found = [re.sub(f"^{pattern}$", by, word) for word in found]
    return found


def write_files(folder: Path) -> None:
    """Everything but runs."""
    queries = [_query(number) for number in range(40)]
    _jsonl(folder / "my.jsonl", queries)
    _collections(folder, queries)
    _searches(folder / "ultr")
    pairs = [
        {"question": q["query"], "pos": [q["candidates"][0]["text"]], "neg": [c["text"] for c in q["candidates"][1:]]}
        for q in queries
    ]
    _jsonl(folder / "texts/train.jsonl", pairs)
    passages = [
        {"query_id": q["qid"], "query": q["query"]}
        | {name: [{"docid": c["docid"], "title": "", "text": c["text"]} for c in q["candidates"][some]]
           for name, some in (("positive_passages", slice(1)), ("negative_passages", slice(1, None)))}
        for q in queries
    ]  # fmt: skip
    _jsonl(folder / "rows/train.jsonl", passages)
    contexts = [
        {"question": q["query"], "query_id": q["qid"], "answers": [],
         "ctxs": [{"id": c["docid"], "text": c["text"], "score": 1.0, "has_answer": c["docid"] in q["qrels"]}
                  for c in q["candidates"]]}
        for q in queries
    ]  # fmt: skip
    (folder / "rankify.json").write_text(json.dumps(contexts))
    requests = [
        {"query": {"text": q["query"], "qid": q["qid"]},
         "candidates": [{"docid": c["docid"], "score": 1.0, "doc": {"text": c["text"]}} for c in q["candidates"]]}
        for q in queries
    ]  # fmt: skip
    _jsonl(folder / "requests.jsonl", requests)
    _screens(folder / "recgaze")
    _runs_and_answers(folder, queries)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "mine.py").write_text(re.findall(r"(?s)```python\n(# mine\.py\n.*?)```", readme)[0])
    (folder / "words").mkdir()
    shutil.copy(ROOT / "rl_rerank/prompts/wordings/listwise.yaml", folder / "words/mine.yaml")
    for name in ("benchmarks", "launch", "examples", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)


def _query(number: int) -> dict[str, Any]:
    words = [WORDS[(number + step) % len(WORDS)] for step in (0, 3, 7, 8, 11)]
    texts = [
        f"{words[0]} {words[1]} {words[2]}",
        f"{words[0]} {words[3]}",
        *(f"{words[0]} {words[4]} {i}" for i in range(3)),
    ]
    return {
        "qid": f"q{number}",
        "query": f"{words[0]} {words[1]}",
        "candidates": [{"docid": f"q{number}d{i}", "text": text} for i, text in enumerate(texts)],
        "qrels": {f"q{number}d0": 1, f"q{number}d1": 0},
        "split": "train" if number < 24 else "dev" if number < 30 else "test",
    }


def _collections(folder: Path, queries: list[dict[str, Any]]) -> None:
    documents = [candidate for query in queries for candidate in query["candidates"]]
    judged = [(q["split"], q["qid"], docid, grade) for q in queries for docid, grade in q["qrels"].items()]
    asked = [{"_id": q["qid"], "text": q["query"], "split": q["split"]} for q in queries]
    for name in ("scifact", "collection"):
        _jsonl(folder / name / "corpus.jsonl", [{"_id": d["docid"], "title": "", "text": d["text"]} for d in documents])
        _jsonl(folder / name / "queries.jsonl", asked)
    (folder / "scifact/qrels").mkdir()
    for split in ("train", "dev", "test"):
        lines = [f"{qid}\t{docid}\t{grade}\n" for of, qid, docid, grade in judged if of == split]
        (folder / f"scifact/qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    trec = "".join(f"{qid} 0 {docid} {grade}\n" for _, qid, docid, grade in judged)
    (folder / "collection/qrels.tsv").write_text(trec)
    (folder / "qrels.txt").write_text(trec)
    (folder / "qrels").mkdir()
    shutil.copy(folder / "scifact/qrels/test.tsv", folder / "qrels/test.tsv")


def _screens(folder: Path) -> None:
    """RecGaze's tables: 40 people, each on two of 20 screens, where they look at three films and choose one."""
    folder.mkdir()
    items = [
        {"MovieID": 100 * s + 10 * r + c, "TaskID": s, "Carousel_position": r, "Carousel_genre": "Action",
         "Movie_position_in_carousel": c, "TMDB_title": f"Film {s} {r} {c}", "TMDB_release_date": "05-21-1999",
         "TMDB_genres": "Action", "TMDB_cast": "['Ann O']", "TMDB_overview": WORDS[(s + c) % len(WORDS)]}
        for s in range(1, 21) for r in (1, 2) for c in range(1, 6)
    ]  # fmt: skip
    users = [
        {
            "UserID": f"U{u}",
            "Top_genre": "Action",
            "Preferred_genres": "Action",
            "Action_rating": "5 stars - Must Watch",
        }
        for u in range(40)
    ]
    visits = [(f"U{u}", 1 + (u + also) % 20) for u in range(40) for also in (0, 7)]
    seen = [
        {"UserID": user, "TaskID": screen, "Timestamp": 0.5}
        | {f"{what}_{column}": value
           for what in ("Fixation_AOI", "Fixation_AOI_Closest", "Cursor_AOI")
           for column, value in (("type", "Movie"), ("MovieID", 100 * screen + 10 + film))}
        for user, screen in visits for film in (1, 1, 2, 3)
    ]  # fmt: skip
    clicks = [
        {"UserID": user, "TaskID": screen, "Click_AOI_type": "Movie", "Click_AOI_MovieID": 100 * screen + 12,
         "Click_AOI_Carousel_position": 1, "Click_AOI_Movie_position_in_carousel": 2,
         "Movie_Familiarity": "", "Why_Selected": ""}
        for user, screen in visits
    ]  # fmt: skip
    tables = {"item_features": items, "user_features": users, "summary_feedback": seen, "click_feedback": clicks}
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)


def _searches(folder: Path) -> None:
    """Sessions and judgments in Baidu-ULTR's format: words are numbers, columns are divided by tabs."""
    folder.mkdir()
    sessions, judgments = [], []
    for number in range(40):
        sessions.append(f"{number}\t{number}\t\n")
        for rank in range(1, 5):
            sessions.append("\t".join([str(rank), f"address{rank}", f"{number}{rank}", "7", *["0"] * 28]) + "\n")
            judgments.append(f"0\t{number}\t{number}{rank}\t7\t{rank % 3}\t0\n")
    (folder / "part-00000").write_text("".join(sessions))
    (folder / "nips_annotation_data_0522.txt").write_text("".join(judgments))


def _runs_and_answers(folder: Path, queries: list[dict[str, Any]]) -> None:
    for name, order in (("run", 1), ("bm25", -1), ("theirs", 1), ("mine", 1)):
        lines = [
            f"{q['qid']} Q0 {c['docid']} {rank} {9.0 - rank} {name}\n"
            for q in queries
            for rank, c in enumerate(q["candidates"][::order], start=1)
        ]
        (folder / f"{name}.trec").write_text("".join(lines))
    shutil.copy(folder / "my.jsonl", folder / "examples.jsonl")
    texts = ("[1] > [2] > [3] > [4] > [5]", "[2] > [1] > [3] > [4] > [5]", "no idea")
    _jsonl(folder / "answers.jsonl", [{"n": 5, "text": text} for text in texts])
    completions = [
        {"qid": q["qid"], "docids": [c["docid"] for c in q["candidates"]], "completion": text, "step": 1}
        for q in queries
        for text in texts
    ]
    _jsonl(folder / "completions.jsonl", completions)


def _jsonl(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
