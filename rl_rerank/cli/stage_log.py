"""The log of a stage: its records, and the traceback where it failed."""

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Log to a file as well, and leave the traceback of a failure there."""
    handler = _Handler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except BaseException:
        # On a full disk the error itself has to reach the user, and not that it could not be logged.
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):  # what it could not write before
            handler.close()


class _Handler(logging.FileHandler):
    """Drops records that the disk does not take: whatever needs the disk next fails with a sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
