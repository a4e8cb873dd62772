# ruff: noqa: T201 (a script whose output is its progress)
"""The study of the 135M model: what each way of training gives, on five collections, and what peers give.

    python benchmarks/study.py RUNS --data FOLDER [--only NAME ...] [--hours 24] [SETTING=VALUE ...]
    python benchmarks/study.py RUNS --page [--docs docs]

Runs what is missing, one run after another; what is done is skipped, and what was killed goes on from its last
checkpoint. FOLDER has a folder of each collection (conf/data/study.yaml). No run is started once all have taken
--hours. Further arguments are settings of every run, such as budget.sft_steps=20 or model.path=FOLDER.

--page writes docs/results.md from what is there, and the values of every query beside it. A run that was written there
before keeps its row when its folder is gone. A row that has not been run is "not run".
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import study_page
import study_peers
from study_page import SECONDS, taken
from study_runs import HOURS, RUNS, Run

from rl_rerank.config import Config
from rl_rerank.experiment import run_state, runner
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import subprocesses
from rl_rerank.io.files import write_json

CHOSEN = "chosen.json"
"""In the folder of a peer with several losses: the one with the best nDCG@10 on development queries, and all values."""


def composed(run: Run, folder: Path, data: Path, settings: Sequence[str]) -> tuple[Config, list[str]]:
    """A run's experiment, and the settings that it is composed of."""
    overrides = [f"experiment={run.experiment}", f"seed={run.seed}", f"data.path={data}", f"run_dir={folder}"]
    overrides += ["report_to=[]", *settings]
    config = compose("run", overrides)
    assert isinstance(config, Config)
    Experiment.of(config)
    return config, overrides


def folders(run: Run, runs: Path) -> list[Path]:
    """The run folders of a run."""
    return [runs / run.name / loss for loss in run.losses] if run.losses else [runs / run.name]


def hours(run: Run, runs: Path, kind: str) -> float:
    """Hours that a run has taken so far, of `processors` or of the `clock`."""
    return sum(stage[kind] for folder in folders(run, runs) for stage in taken(folder).values()) / 3600


@contextmanager
def timed(folder: Path, name: str) -> Any:
    """Add what happens inside to the seconds of stage `name`, also where it is interrupted."""
    start, before = time.monotonic(), _processors()
    try:
        yield
    finally:
        spent = taken(folder)
        own = spent.setdefault(name, {"processors": 0.0, "clock": 0.0})
        own["processors"] = round(own["processors"] + _processors() - before, 1)
        own["clock"] = round(own["clock"] + time.monotonic() - start, 1)
        write_json(folder / SECONDS, spent)


def _processors() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_stages(config: Config, overrides: Sequence[str], names: Sequence[str]) -> None:
    """Run the stages that are not done."""
    experiment = Experiment.of(config)
    runner.prepared(experiment)
    for name in names:
        if run_state.done(experiment, name) is not None:
            continue
        print(f"{time.strftime('%H:%M')}   {name}", flush=True)
        run_state.begin(experiment, name)
        with timed(Path(config.run_dir), name):
            status = subprocesses.run(runner.command(config, name, overrides))
        if status:
            raise SystemExit(runner.explain(config, name, status))


def is_done(run: Run, runs: Path) -> bool:
    """Whether a run has been measured on the test queries."""
    folder = study_page.folder(run, runs)
    return folder is not None and (folder / "evaluate/metrics.json").is_file()


def go(run: Run, runs: Path, data: Path, docs: Path, settings: Sequence[str]) -> None:
    """Run what is missing of a run."""
    found: dict[str, float] = {}
    for folder in folders(run, runs):
        config, overrides = composed(run, folder, data, settings)
        names = list(config.stages)
        if run.peer and not (folder / "model/config.json").is_file():
            seconds = pace(run, runs, docs)
            runner.prepared(Experiment.of(config))
            with timed(folder, "training"):
                study_peers.train(run.peer, folder.name, config, seconds)
        if not run.losses:
            run_stages(config, overrides, names)
            return
        run_stages(config, overrides, ["dev", "evaluate_dev"])
        values = json.loads((folder / "evaluate_dev/metrics.json").read_text(encoding="utf-8"))
        found[folder.name] = next(row["mean"]["nDCG@10"] for row in values["rows"] if row["run"] == "dev")
    best = max(found, key=found.__getitem__)
    config, overrides = composed(run, runs / run.name / best, data, settings)
    run_stages(config, overrides, ["first_stage", "test", "evaluate"])
    write_json(runs / run.name / CHOSEN, {"loss": best, "dev": found})


def pace(run: Run, runs: Path, docs: Path) -> float:
    """The CPU seconds that a peer trains for, with each of its losses."""
    name, stage = run.pace
    if stage in (known := taken(runs / name)):
        return known[stage]["processors"]
    if (earlier := study_page.recorded(docs).get(name)) is not None:
        return earlier.seconds[stage]
    raise SystemExit(
        f"{run.name} receives the CPU time of {name}'s stage {stage}, which has not been run: --only {name}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, help="the folder of the collections")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS], metavar="NAME")
    parser.add_argument("--hours", type=float, default=HOURS, help="at most, of all runs, on the clock")
    parser.add_argument("--page", action="store_true", help="write the page, and run nothing")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    # Before argparse, whose --only would take them for names.
    settings = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    given = parser.parse_args([argument for argument in sys.argv[1:] if argument not in settings])
    if given.page:
        study_page.write(given.runs, given.docs, {run.name: hours(run, given.runs, "processors") for run in RUNS})
        return 0
    if given.data is None:
        parser.error("--data is needed to run: the folder of the collections")
    if not given.data.is_dir():
        parser.error(f"--data: there is no folder {str(given.data)!r}")
    waiting = [r for r in RUNS if (given.only is None or r.name in given.only) and not is_done(r, given.runs)]
    for place, run in enumerate(waiting):
        spent = sum(hours(each, given.runs, "clock") for each in RUNS)
        left = sum(max(each.hours - hours(each, given.runs, "clock"), 0.0) for each in waiting[place:])
        if spent >= given.hours:
            print(f"{spent:.1f} hours are spent, of {given.hours:g}: {', '.join(r.name for r in waiting[place:])} wait")
            return 3
        print(
            f"{time.strftime('%H:%M')} {run.name}: about {run.hours:.1f} of {left:.1f} hours that are left", flush=True
        )
        (given.runs / run.name).mkdir(parents=True, exist_ok=True)
        go(run, given.runs, given.data.resolve(), given.docs, settings)
        print(f"{time.strftime('%H:%M')} {run.name}: done, {hours(run, given.runs, 'processors'):.2f} CPU hours")
    print(f"all {len(waiting)} runs are done" if waiting else "nothing is missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
