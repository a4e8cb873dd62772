"""Stops training at the end of a step, with a checkpoint, when a scheduler takes the machine back."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io import requeue

logger = logging.getLogger(__name__)


class Preemption(TrainerCallback):
    """Asks for a checkpoint when a process has received one of `requeue.SIGNALS`, or the stage's folder has a request.

    It must come before the callbacks that look at checkpoints to be saved. The last of these calls `leave`.

    Args:
        folder: of the stage.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.is_due = False
        self._is_signalled = False
        self._process, self._parent = os.getpid(), os.getppid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals instead of ending by them."""
        before = {signum: signal.signal(signum, self._note) for signum in requeue.SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        here = self._is_signalled or requeue.is_requested(self.folder)
        # A process that was signalled within another step than the others must not wait for them alone.
        is_asked = any(gather_object([here]))
        # Behind the last step only the model is left to save.
        self.is_due = is_asked and state.global_step < state.max_steps
        if self.is_due:
            control.should_save = True

    def leave(self, step: int) -> None:
        """End the process if it is due; every process must call it when the checkpoint is finished.

        Raises:
            SystemExit: with `requeue.STATUS`.
        """
        if not self.is_due:
            return
        if self.accelerator.is_main_process:
            requeue.record_stop(self.folder)
            logger.warning("%s: stopped on request, with a checkpoint of step %d", self.folder.name, step)
        self.accelerator.wait_for_everyone()  # a launcher ends the others as soon as one has ended
        raise SystemExit(requeue.STATUS)

    def _note(self, signum: int, frame: Any) -> None:
        # A forked process has this handler too, and the kernel signals a process whose parent was killed: both end.
        if (os.getpid(), os.getppid()) != (self._process, self._parent):
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self._is_signalled = True
