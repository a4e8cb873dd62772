"""Locks of builds: those of killed processes are removed, those of living ones and fresh ones stay."""

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.file_baton import FileBaton

from rl_rerank.io import build_locks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what processes have open")

HOLD = """
import sys, time
from torch.utils.file_baton import FileBaton

assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "op/lock"
    path.parent.mkdir()
    return path


@pytest.fixture
def holder(lock):
    """A process that holds torch's lock, which is as old as one of yesterday."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yesterday = time.time() - 86400
        os.utime(lock, (yesterday, yesterday))
        yield process
        process.kill()


def test_a_lock_is_kept_while_its_process_lives_and_removed_when_it_was_killed(tmp_path, lock, holder, caplog):
    assert build_locks.remove_stale(tmp_path) == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not FileBaton(str(lock)).try_acquire()
    assert build_locks.remove_stale(tmp_path) == [lock]
    assert str(lock) in caplog.text
    assert FileBaton(str(lock)).try_acquire()


def test_a_lock_that_is_younger_than_this_process_stays(tmp_path, lock):
    lock.touch()
    assert build_locks.remove_stale(tmp_path) == []


def test_a_folder_of_the_users_is_kept_and_cleaned(tmp_path, lock, monkeypatch):
    lock.touch()
    os.utime(lock, (0, 0))
    monkeypatch.setenv(build_locks.FOLDER, str(tmp_path))
    build_locks.prepare(tmp_path / "cache")
    assert os.environ[build_locks.FOLDER] == str(tmp_path) and not lock.exists()


def test_the_folder_is_this_machines(tmp_path, monkeypatch):
    monkeypatch.setenv(build_locks.FOLDER, "")  # so that it is restored
    monkeypatch.delenv(build_locks.FOLDER)
    monkeypatch.setattr(build_locks.platform, "node", lambda: "node7")
    build_locks.prepare(tmp_path)
    assert (tmp_path / "extensions/node7") in build_locks.Path(os.environ[build_locks.FOLDER]).parents
