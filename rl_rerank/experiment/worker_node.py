"""`rl-rerank run` on a machine other than the first: joins the training stages of a run that machine 0 conducts.

The machines share the run folder. Machine 0 goes through the stages in order, so a training stage starts there as soon
as every stage before it is in the ledger; that is what this machine waits for. It writes nothing itself but a request
to stop.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.experiment import run_state, runner
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import subprocesses

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


def follow(config: Config, overrides: Sequence[str]) -> int:
    """Join every training stage that is not done yet.

    Args:
        config: the experiment, as composed from `overrides`.
        overrides: the command line, which differs from that of machine 0 in launcher.machine_rank alone.

    Returns:
        0, the exit status of the stage that failed, or `requeue.STATUS` for a run that a scheduler has stopped.
    """
    experiment = Experiment.of(config)
    run_state.refuse_changes(experiment, experiment.stages)
    names = [name for name, stage in experiment.stages.items() if stage.settings.is_launched]
    experiment.check_installed(names)
    for name in names:
        _wait(experiment, name)
        if run_state.done(experiment, name) is not None:
            logger.info("%s: done, skipped", name)
            continue
        logger.info("%s: joins as machine %d of %d", name, config.launcher.machine_rank, config.launcher.num_machines)
        try:
            status = runner.conduct(config, name, overrides)
        except subprocesses.Stopped:
            return runner.requeued()
        if status:
            return runner.explain(config, name, status)
    return 0


def _wait(experiment: Experiment, name: str) -> None:
    told = ""
    while (missing := _missing(experiment, name)) is not None:
        if missing != told:
            logger.info("%s: waits for machine 0 to finish %s", name, missing)
            told = missing
        time.sleep(POLL_SECONDS)


def _missing(experiment: Experiment, name: str) -> str | None:
    """What has to be there before machine 0 starts stage `name`: the data and every stage before it."""
    config = experiment.config
    if not (Path(config.run_dir) / "data").is_dir():
        return "the data"
    order = list(config.stages)
    return next((n for n in order[: order.index(name)] if run_state.done(experiment, n) is None), None)
