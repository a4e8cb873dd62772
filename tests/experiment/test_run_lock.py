"""One run at a time in a run folder: processes of this machine, and owners on others."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from rl_rerank.experiment import run_lock
from rl_rerank.experiment.run_lock import locked

OWNER = """\
import sys, time
from pathlib import Path
from rl_rerank.experiment.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.3)
    monkeypatch.setattr(run_lock, "SILENCE", 0.5)


def start(run_dir):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(run_dir)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "locked\n"
    return owner


@pytest.mark.process
def test_the_second_run_is_refused_with_process_and_host_of_the_first_until_that_is_gone(tmp_path):
    owner = start(tmp_path / "run")
    try:
        expected = rf"another process \({owner.pid} on {socket.gethostname()}\) is working"
        with pytest.raises(ValueError, match=expected), locked(tmp_path / "run"):
            pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert (tmp_path / "run/.lock").read_text() == f"{owner.pid} on {socket.gethostname()}"  # a killed one leaves it
    with locked(tmp_path / "run"):
        assert (tmp_path / "run/.lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"
    assert (tmp_path / "run/.lock").read_text() == ""


@pytest.mark.process
def test_a_killed_runs_stage_is_waited_for(tmp_path):
    owner = start(tmp_path / "run")
    held = os.open(tmp_path / "run/.lock", os.O_RDONLY)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    fcntl.flock(held, fcntl.LOCK_EX)  # its stage has the lock for a second more
    ending = threading.Timer(1.0, os.close, [held])
    ending.start()
    begun = time.monotonic()
    with locked(tmp_path / "run"):
        assert 0.9 < time.monotonic() - begun < 30
    ending.join()


def test_a_run_on_another_machine_is_refused_while_it_gives_signs_of_life(tmp_path):
    # As on a file system that locks within a machine only: the file names its owner, and nothing is locked here.
    (tmp_path / ".lock").write_text("4711 on node7")
    renewed = time.time() + 60
    pid = os.fork()
    if not pid:
        time.sleep(0.2)
        os.utime(tmp_path / ".lock", (renewed, renewed))
        os._exit(0)
    try:
        with pytest.raises(ValueError, match=r"another process \(4711 on node7\) is working in"), locked(tmp_path):
            pass
    finally:
        os.waitpid(pid, 0)
    assert (tmp_path / ".lock").read_text() == "4711 on node7"


def test_the_lock_of_a_machine_that_gives_no_sign_of_life_is_taken_over(tmp_path, caplog):
    (tmp_path / ".lock").write_text("4711 on node7")
    with locked(tmp_path):
        assert "process 4711 on node7 gave no sign of life for 0 s" in caplog.text
        assert (tmp_path / ".lock").read_text().startswith(str(os.getpid()))


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "RENEWAL", 0.05)
    with locked(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    os.utime(tmp_path / ".lock", (0, 0))
    time.sleep(0.2)
    assert (tmp_path / ".lock").stat().st_mtime == 0  # and none when it has ended


def test_what_a_dead_owner_has_started_still_holds_the_lock(tmp_path):
    with locked(tmp_path) as lock:
        kept = os.dup(lock.fileno())  # as a stage's process inherits it
    with pytest.raises(ValueError, match=r"another process \(unknown\) is working"), locked(tmp_path):
        pass
    os.close(kept)
    with locked(tmp_path) as lock, pytest.raises(BlockingIOError), (tmp_path / ".lock").open() as second:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
