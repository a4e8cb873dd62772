"""The file of answers: what identifies one, and what kills and neighbours do to it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_rerank.engines.journal import Journal, key
from rl_rerank.io.files import WriteError
from rl_rerank.types import Completion, Sampling

ANSWER = Completion("[2] > [1]", (5, 6), "length", logprobs=(-0.1, -1e-300), continuations={"yes": -1.5, "no": -0.25})
IDENTITY = {"weights": "abc", "dtype": "float32"}
GREEDY, DRAWN = Sampling(8), Sampling(8, temperature=0.7)


def named(**changed) -> str:
    given = {"identity": IDENTITY, "asked": [1, 2], "sampling": GREEDY, "sample": 0, "continuations": ()}
    return key(**{**given, **changed})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({}, {"identity": {**IDENTITY, "weights": "abd"}}),
        ({}, {"identity": {**IDENTITY, "dtype": "bfloat16"}}),
        ({}, {"asked": [1, 3]}),
        ({}, {"asked": [12]}),
        ({}, {"sample": 1}),
        ({}, {"sampling": Sampling(9)}),
        ({}, {"sampling": DRAWN}),
        ({"sampling": DRAWN}, {"sampling": Sampling(8, temperature=0.8)}),
        ({"sampling": DRAWN}, {"sampling": Sampling(8, temperature=0.7, seed=1)}),
        ({"sampling": DRAWN}, {"sampling": Sampling(8, temperature=0.7, top_p=0.9)}),
        ({"sampling": DRAWN}, {"sampling": DRAWN, "sample": 1}),
        ({}, {"sampling": None, "continuations": ("yes", "no")}),
        ({"sampling": None, "continuations": ("yes", "no")}, {"sampling": None, "continuations": ("yes",)}),
        ({"sampling": None, "continuations": ("ab", "c")}, {"sampling": None, "continuations": ("a", "bc")}),
    ],
)
def test_whatever_an_answer_depends_on_is_part_of_its_key(a, b):
    assert named(**a) != named(**b)


def test_what_a_greedy_answer_does_not_depend_on_is_not_part_of_its_key():
    assert named() == named(sampling=Sampling(8, seed=5, top_p=0.5)) == named(sampling=Sampling(8, num_generations=3))
    assert named(asked=(1, 2)) == named(asked=[1, 2])


def test_an_answer_comes_back_as_it_went_in_and_the_first_one_stays(tmp_path):
    path = tmp_path / "deep/journal.sqlite"
    journal = Journal(path)
    journal.add("k", ANSWER, IDENTITY)
    journal.add("k", Completion("another"), IDENTITY)
    assert journal.answers(["k", "k", "missing"]) == {"k": ANSWER}
    journal.close()
    assert Journal(path).answers(["k"]) == {"k": ANSWER}


def test_more_keys_than_sqlite_takes_at_once(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for i in range(0, 2000, 2):
        journal.add(str(i), Completion(str(i)), {})
    assert len(journal.answers(map(str, range(2000)))) == 1000


def test_the_file_can_be_read_without_us(tmp_path):
    Journal(tmp_path / "journal.sqlite").add("k", ANSWER, IDENTITY)
    rows = sqlite3.connect(tmp_path / "journal.sqlite").execute("SELECT key, identity, completion FROM answers")
    [(name, identity, completion)] = rows
    assert (name, identity) == ("k", '{"dtype": "float32", "weights": "abc"}')
    assert '"text": "[2] > [1]"' in completion


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(ValueError, match=r"journal='.*notes\.txt' is no journal of answers"):
        Journal(path)
    assert path.read_text() == "not a database, " * 100


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("a model")
    return folder


@pytest.mark.parametrize(
    ("file", "changes"),
    [("model.safetensors", True), ("config.json", True), ("tokenizer.json", True), ("README.md", False)],
)
def test_weights_are_known_by_the_files_that_answers_depend_on(tmp_path, file, changes):
    journal, folder = Journal(tmp_path / "journal.sqlite"), model(tmp_path / "model")
    before = journal.weights(folder)
    assert journal.weights(model(tmp_path / "copy")) == before == journal.weights(folder)
    (folder / file).write_bytes(b"changed")  # as long as before
    assert (journal.weights(folder) != before) is changes


def test_a_file_is_hashed_once_for_its_size_and_time(tmp_path):
    folder = model(tmp_path / "model")
    before = Journal(tmp_path / "journal.sqlite").weights(folder)
    status = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    # It would be another hash if the file had been read again.
    assert Journal(tmp_path / "journal.sqlite").weights(folder) == before


WRITER = """
import sys
from pathlib import Path
from rl_rerank.engines.journal import Journal
from rl_rerank.types import Completion

journal, name = Journal(Path(sys.argv[1])), sys.argv[2]
for i in range(10**6):
    journal.add(f"{name}{i}", Completion(f"{name}{i}" * 20), {})
    print(i, flush=True)
    if i == int(sys.argv[3]):
        break
"""


def writer(path: Path, name: str, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.process
def test_processes_that_make_and_fill_one_file_at_once_lose_nothing(tmp_path):
    path = tmp_path / "journal.sqlite"
    running = [writer(path, name, 300) for name in "abcd"]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    assert len(Journal(path).answers(f"{name}{i}" for name in "abcd" for i in range(301))) == 4 * 301


@pytest.mark.process
def test_what_was_added_is_there_after_a_kill(tmp_path):
    path = tmp_path / "journal.sqlite"
    for turn in range(5):
        process = writer(path, f"turn{turn}-", 10**6)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * turn)
        process.send_signal(signal.SIGKILL)
        told = [0, *(int(line) for line in process.stdout if line.endswith("\n"))]
        process.wait()
        answers = Journal(path).answers(f"turn{turn}-{i}" for i in range(told[-1] + 1))
        assert len(answers) == told[-1] + 1
    [(verdict,)] = sqlite3.connect(path).execute("PRAGMA integrity_check")
    assert verdict == "ok"


def test_a_full_disk_is_told_with_the_file_and_what_was_added_stays(tmp_path):
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.add("first", ANSWER, IDENTITY)
    journal._file.execute("PRAGMA max_page_count = 20")  # sqlite's own name for a disk that is full
    with pytest.raises(WriteError, match=r"journal\.sqlite cannot be written: No space left on device; \d+ MiB are"):
        for i in range(100):
            journal.add(str(i), Completion("a long answer " * 200), IDENTITY)
    journal.close()
    again = Journal(path)
    assert again.answers(["first"]) == {"first": ANSWER} and again.answers(["0"])["0"].text.startswith("a long")
    again.add("more", ANSWER, IDENTITY)  # there is room again
    assert again.answers(["more"]) == {"more": ANSWER}


def test_answers_of_another_journal_are_taken_and_earlier_ones_stay(tmp_path):
    one, two = Journal(tmp_path / "one.sqlite"), Journal(tmp_path / "it's two.sqlite")
    one.add("both", ANSWER, IDENTITY)
    two.add("both", Completion("another"), IDENTITY)
    two.add("new", Completion("new"), IDENTITY)
    two.close()
    one.take(tmp_path / "it's two.sqlite")
    assert one.answers(["both", "new"]) == {"both": ANSWER, "new": Completion("new")}
