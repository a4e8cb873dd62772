"""Checkpoints of training: written aside, flushed, listed in a manifest, then renamed; checked before they are used.

While a checkpoint is written it is `checkpoints/.partial/checkpoint-STEP`. A kill or a full disk therefore leaves the
ones before as they were.
"""

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io import manifest
from rl_rerank.io.files import DISK_ERRORS, WriteError, flush, free
from rl_rerank.training.loop.preemption import Preemption

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
"""In the folder of checkpoints: those that are being written."""


class CheckpointError(OSError):
    """Raised where a checkpoint or a record cannot be written; says which checkpoint is the last good one."""


def layout(accelerator: Accelerator) -> str:
    """Describe the sharding of a checkpoint's states: only the same sharding over as many processes can load it.

    Without sharding the number of processes may change between a kill and the resumption.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "unsharded"
    plugin = accelerator.state.deepspeed_plugin
    assert plugin is not None
    return f"zero{plugin.zero_stage} over {accelerator.num_processes} processes"


def checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the current step's checkpoint, from which a run is resumed."""
    return _folder(args) / f"checkpoint-{state.global_step}"


def written_checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder in which the current step's checkpoint is being written; callbacks add their parts to it."""
    return _folder(args) / PARTIAL / f"checkpoint-{state.global_step}"


def last_checkpoint(checkpoints: Path, *, before: float = float("inf")) -> Path | None:
    """Find the newest complete checkpoint before a step."""
    return next((folder for folder in _complete(checkpoints) if _step(folder) < before), None)


def resumable_checkpoint(checkpoints: Path, accelerator: Accelerator) -> str | None:
    """Find the newest checkpoint whose files are those that were written; every process must call it.

    Damaged ones above it are logged and renamed to damaged-STEP. Unfinished ones are deleted.

    Raises:
        ValueError: if its layout is not that of this run, or if there are checkpoints and all of them are damaged.
    """
    shared: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            shared[0] = _newest_good(checkpoints, layout(accelerator))
        except ValueError as e:
            shared[1] = str(e)
    broadcast_object_list(shared)
    if shared[1] is not None:
        raise ValueError(shared[1])
    return shared[0]


class WritesAside:
    """For a trainer in front of transformers' Trainer: its checkpoints are written where `Checkpoints` finds them."""

    args: Any
    state: Any

    def _get_output_dir(self, trial: Any) -> str:
        return str(_folder(self.args) / PARTIAL)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        with writing(self.args, self.state):
            super()._maybe_log_save_evaluate(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def writing(args: TrainingArguments, state: TrainerState, what: str = "a record or the checkpoint") -> Iterator[None]:
    """Turn what the libraries raise where `what` cannot be written into one sentence.

    Raises:
        CheckpointError: with the reason, the free space and the last good checkpoint.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as e:
        if not _is_of_the_disk(e):
            raise
        folder = _folder(args)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        good = last_checkpoint(folder)
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint from before"
        why = f"{e.filename}: {e.strerror}" if isinstance(e, WriteError) else str(e).partition("\n")[0]
        reason = f"{why}; {free(folder.parent)} are free there"
        raise CheckpointError(
            f"stages.{folder.parent.name}, step {state.global_step}: {what} cannot be written to "
            f"{folder.parent} ({reason}); {kept}. Make room, and the same command goes on"
        ) from e


class Checkpoints(TrainerCallback):
    """Finishes checkpoints: lists and renames them, and deletes old ones behind the newest.

    It must be the last callback: others add their parts to a checkpoint, or ask for one at a step's end.

    Args:
        preemption: may end the process when a checkpoint is finished.
        read: steps whose checkpoints later stages read: they stay, and do not count towards the limit.
    """

    def __init__(
        self, accelerator: Accelerator, preemption: Preemption | None = None, read: Collection[int] = ()
    ) -> None:
        self.accelerator = accelerator
        self.preemption = preemption
        self.read = read
        self.limit: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # transformers deletes old checkpoints before the new one is finished, so a kill in between could leave none.
        self.limit, args.save_total_limit = args.save_total_limit or self.limit, None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save:  # what is not logged yet would be missing from the row that a resumed run logs next
            control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.accelerator.wait_for_everyone()  # every process writes its part
        if state.is_world_process_zero:
            _finish(written_checkpoint(args, state), checkpoint_of(args, state), layout(self.accelerator))
            if self.limit:
                keep = {state.global_step, state.best_global_step or state.global_step}
                _rotate(_folder(args), self.limit, keep, self.read)
        if self.preemption is not None:
            self.preemption.leave(state.global_step)


def _newest_good(checkpoints: Path, wanted: str) -> str | None:
    shutil.rmtree(checkpoints / PARTIAL, ignore_errors=True)
    damaged: list[tuple[Path, str]] = []
    for folder in _all(checkpoints):
        if (reason := manifest.damage(folder)) is None:
            if (found := manifest.read(folder).get("layout")) != wanted:
                raise ValueError(
                    f"{folder} was written {found}, and this run is {wanted}, which cannot read it; start it with the "
                    f"same launcher.strategy and launcher.num_processes, or remove {checkpoints.parent} to redo the "
                    "stage"
                )
            for bad, why in damaged:
                aside = bad.with_name(f"damaged-{_step(bad)}")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
                logger.warning("%s is damaged and now %s: %s; training goes on from %s", bad, aside.name, why, folder)
            return str(folder)
        damaged.append((folder, reason))
    if damaged:
        raise ValueError(
            f"no checkpoint in {checkpoints} is whole: {'; '.join(why for _, why in damaged)}. Remove "
            f"{checkpoints.parent} to redo the stage"
        )
    return None


def _finish(written: Path, finished: Path, found: str) -> None:
    manifest.write(written, {"layout": found})
    written.rename(finished)
    flush(finished.parent)


def _rotate(checkpoints: Path, limit: int, keep: set[int], read: Collection[int]) -> None:
    """Delete the oldest checkpoints above the limit, less those of the steps to keep; those to read do not count.

    A manifest goes before its checkpoint, so that a kill leaves no part of one that looks complete.
    """
    steps = sorted(step for step in map(_step, _all(checkpoints)) if step not in read)
    old = [step for step in steps if step not in keep]
    for step in old[: max(len(steps) - max(limit, len(keep - set(read))), 0)]:
        folder = checkpoints / f"checkpoint-{step}"
        (folder / manifest.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _all(checkpoints: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)


def _complete(checkpoints: Path) -> list[Path]:
    return [folder for folder in _all(checkpoints) if (folder / manifest.MANIFEST).is_file()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _folder(args: TrainingArguments) -> Path:
    assert args.output_dir is not None
    return Path(args.output_dir)


def _is_of_the_disk(error: Exception) -> bool:
    if isinstance(error, OSError):  # trackers raise others, of the network
        return error.errno in DISK_ERRORS
    # torch.save raises RuntimeError for all that its writer of zip files, or the stream below it, meets.
    is_of_torch = any(part in str(error) for part in ("PytorchStreamWriter", "inline_container", "basic_ios"))
    return isinstance(error, SafetensorError) or is_of_torch
