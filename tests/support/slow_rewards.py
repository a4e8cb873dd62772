"""Rewards that processes of their own import: slow, wrong, deadly."""

import os
import time
from pathlib import Path


class Told:
    """Does what the completion says: waits, fails, ends its process, or is worth a number."""

    def __call__(self, example, rollout):
        what = rollout.completion.text
        if what == "wait":
            time.sleep(600)
        if what == "fail":
            raise KeyError("fail")
        if what == "die":
            os._exit(3)
        return float(what)


class Process:
    """The number of the process that it runs in."""

    def __call__(self, example, rollout):
        time.sleep(0.05)
        return float(os.getpid())


class Places:
    """The places of a query's rollouts."""

    def score_all(self, example, rollouts):
        return [float(place) for place in range(len(rollouts))]


class Marks:
    """Leaves a file behind when it is called."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, example, rollout):
        (Path(self.folder) / "called").touch()
        return float(len(rollout.completion.text))
