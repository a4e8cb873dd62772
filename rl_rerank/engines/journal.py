"""A journal of models' answers in one sqlite file, keyed by request, so that none is paid for twice.

A key is the sha256 of everything that an answer depends on; the answer is a `Completion` as JSON. Several processes may
share a file on a local disk; sqlite's write-ahead log does not work over a network.
"""

import contextlib
import errno
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rl_rerank.io.files import WriteError
from rl_rerank.types import Completion, Sampling

WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.py")
"""Files of a model folder that its answers depend on: weights, settings, tokenizer and code."""
SECONDS_TO_WAIT = 60
"""Timeout for the write lock of another process."""
KEYS_AT_ONCE = 500
SQLITE_ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}
"""sqlite's errors of the disk -> the system's."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, identity TEXT NOT NULL, completion TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT);
"""


class Journal:
    """The answers in a file, which is created if missing.

    Raises:
        ValueError: if the file is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every statement is its own transaction: what was added stays whatever happens next.
        with self._writing():
            self._file = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
        try:
            with self._writing():
                self._prepare()
        except sqlite3.DatabaseError as e:
            self._file.close()
            raise ValueError(f"journal={str(path)!r} is no journal of answers: {e}; give another path") from None

    def answers(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Look up the answers of `keys`; keys without an answer are omitted."""
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), KEYS_AT_ONCE):
            some = wanted[start : start + KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._file.execute(f"SELECT key, completion FROM answers WHERE key IN ({marks})", some)
            found |= {key: _completion(text) for key, text in rows}
        return found

    def add(self, key: str, completion: Completion, identity: Mapping[str, Any]) -> None:
        """Store an answer. An earlier one stays, because another process may have sent the same request."""
        row = (key, _json(identity), json.dumps(asdict(completion)))
        with self._writing():
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row)

    def take(self, path: Path) -> None:
        """Store all answers of another journal; earlier ones stay."""
        with self._writing():
            self._file.execute("ATTACH ? AS other", (str(path),))
            self._file.execute("INSERT OR IGNORE INTO answers SELECT * FROM other.answers")
            self._file.execute("DETACH other")

    def weights(self, folder: Path) -> str:
        """Compute the sha256 of a model folder's files, cached by path, size and time."""
        files = sorted({file for pattern in WEIGHTS for file in folder.glob(pattern)})
        return hashlib.sha256(_json([[file.name, self._sha256(file)] for file in files]).encode()).hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            number = SQLITE_ERRORS.get(e.sqlite_errorcode & 0xFF)  # without the bits that tell its kind
            if number is None:
                raise
            raise WriteError(self.path, number) from e

    def _prepare(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
                self._file.execute("PRAGMA synchronous = NORMAL")
                self._file.executescript(SCHEMA)
                return
            except sqlite3.OperationalError as e:
                # Where two processes create the file at once, sqlite fails in one of them without waiting.
                if "locked" not in str(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _sha256(self, file: Path) -> str:
        path, status = str(file.resolve()), file.stat()
        seen = (path, status.st_size, status.st_mtime_ns)
        for (known,) in self._file.execute(
            "SELECT sha256 FROM files WHERE path = ? AND size = ? AND mtime_ns = ?", seen
        ):
            return known
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        with self._writing():
            self._file.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (*seen, digest))
        return digest


def key(
    identity: Mapping[str, Any], asked: Any, *, sampling: Sampling | None, sample: int, continuations: Iterable[str]
) -> str:
    """Compute the key of an answer.

    Args:
        identity: identity of the model.
        asked: the model's input, as JSON values.
        sampling: sampling settings; None if continuations are scored.
        sample: its number among the samples of the prompt.
    """
    how = {} if sampling is None else asdict(sampling)
    how.pop("num_generations", None)
    how.pop("first", None)
    if sampling is not None and sampling.temperature == 0:
        how.pop("seed")
        how.pop("top_p")
    what = [identity, asked, "score" if sampling is None else "generate", how, sample, list(continuations)]
    return hashlib.sha256(_json(what).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _completion(text: str) -> Completion:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
    return Completion(**values)
