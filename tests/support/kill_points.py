"""A stage that is killed with SIGKILL at a named place of its work, in a process of its own."""

import functools
import importlib
import os
import signal
from pathlib import Path

from support.resumption import Forked, train

POINTS = {
    "rollout": ("transformers:GenerationMixin.generate", 3),
    "scoring": ("rl_rerank.training.loop.scoring:score_rows", 3),
    "update": ("torch.optim:AdamW.step", 4),
    "record": ("rl_rerank.io.rotated:append", 4),
    "checkpoint, files": ("rl_rerank.io.manifest:_flushed", 14),
    "checkpoint, manifest": ("rl_rerank.io.manifest:write", 3),
    "checkpoint, renamed": ("rl_rerank.training.loop.checkpoints:flush", 3),
    "model": ("rl_rerank.io.files:flush", 1),
}
"""Name -> the function in whose so-manieth call the process is killed, behind the function's work."""


def train_until(point: str, run_dir: Path, model_dir: Path, case: str, *more: str) -> None:
    """Train a case, and kill this process behind a call of the point's function."""
    place, calls = POINTS[point]
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name)

    @functools.wraps(original)
    def counted(*args, **kwargs):
        nonlocal calls
        found = original(*args, **kwargs)
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, counted)
    train(run_dir, model_dir, case, *more)


class KilledAt(Forked):
    """`train_until` in a process of its own."""

    def __init__(self, point: str, run_dir: Path, model_dir: Path, case: str, *more: str) -> None:
        self.process = self.context.Process(target=train_until, args=(point, run_dir, model_dir, case, *more))
        self.process.start()
