"""The command line: `rl-rerank COMMAND KEY=VALUE ...`. The only place that prints."""

import dataclasses
import difflib
import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rl_rerank import __version__, registry, requirements
from rl_rerank.cli import data, doctor, new, parse, rewards, serve, stage_log, usage, verify
from rl_rerank.config import Config, ConvertFiles, EvaluateFiles, ReportRuns, StageConfig, file_arguments
from rl_rerank.data.convert import convert
from rl_rerank.experiment import memory, preflight, run_state, runner, worker_node
from rl_rerank.experiment.compose import compose, files, options
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.experiment.run_lock import shared
from rl_rerank.io import build_locks, subprocesses
from rl_rerank.io.cache import cache_dir
from rl_rerank.io.files import conf_dir, write_text
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.training.memory import cards


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 1 for a failed check; 2 for an error, printed as a sentence; 130 for an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _log_to_stderr()
    try:
        return _dispatch(arguments)
    except (KeyError, IndexError):
        raise  # A bug of ours, not a name that does not exist.
    except (ValueError, LookupError, ImportError, OSError) as e:
        if os.environ.get("RL_RERANK_TRACEBACK") == "1":
            raise
        print(f"rl-rerank: {e}{_extra(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rl-rerank: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    config_dir = _take_config_dir(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage.usage(config_dir), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"rl-rerank {__version__}")
        return 0
    command, *overrides = arguments
    if command not in (known := _commands()):
        close = difflib.get_close_matches(command, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise LookupError(f"there is no command {command!r}.{hint} The commands are: {', '.join(known)}.")
    if any(o in ("-h", "--help") for o in overrides):
        print(usage.of_command(command), end="")
        return 0
    return _commands()[command](command, overrides, config_dir)


def _commands() -> dict[str, Callable[[str, list[str], str | None], int]]:
    return {
        "run": _run,
        "plan": _plan,
        "data": _lines,
        **dict.fromkeys(registry.names("stage"), _stage),
        "parse": _parse,
        "convert": _convert,
        "rewards": _lines,
        "new": _lines,
        "verify": _lines,
        "serve": serve.run,
        "init": _init,
        "doctor": _lines,
    }


def _run(command: str, overrides: list[str], config_dir: str | None) -> int:
    config = _experiment(command, overrides, config_dir)
    if config.dry_run:
        return _dry_run(config, list(config.stages))
    whole = [*([] if config_dir is None else [f"--config-dir={config_dir}"]), *overrides]
    if config.launcher.machine_rank:
        return worker_node.follow(config, whole)
    status = runner.run(config, whole)
    if status == 0:
        print("\n".join(runner.results(config)))
    return status


def _stage(command: str, overrides: list[str], config_dir: str | None) -> int:
    if command == "evaluate" and isinstance(given := compose(command, overrides, config_dir), EvaluateFiles):
        return _evaluate_files(given)
    if command == "report" and isinstance(given := compose(command, overrides, config_dir), ReportRuns):
        return _report_runs(given)
    config = _experiment(command, overrides, config_dir)
    name = _chosen(config, command)
    hub = None if config.push is None else requirements.load("rl_rerank.serving.hub", "push=")
    if hub is not None:
        hub.check(config.push, config.hub)
    if config.dry_run:
        return _dry_run(config, [name])
    if "LOCAL_RANK" in os.environ:  # torchrun gives its processes sessions of their own, where no signal finds them
        subprocesses.end_with_parent()
        build_locks.prepare(cache_dir())
    experiment = Experiment.of(config)
    if os.environ.get("RANK", "0") != "0":
        _module(config.stages[name]).run(config, name, config.stages[name])
        return 0
    with shared(Path(config.run_dir)):
        _work(experiment, name, hub)
    return 0


def _work(experiment: Experiment, name: str, hub: Any) -> None:
    """Run one stage in its locked run folder, and upload what it leaves if `hub` is the module that does."""
    config = experiment.config
    runner.prepared(experiment)
    log = Path(config.run_dir) / name / runner.LOG
    if hub is None or run_state.done(experiment, name) is None:  # What is finished is uploaded as it is.
        run_state.refuse_stale(experiment, name)
        run_state.begin(experiment, name)
        started = time.monotonic()
        with stage_log.kept(log):
            _module(config.stages[name]).run(config, name, config.stages[name])
        run_state.finish(experiment, name, time.monotonic() - started)
    if hub is not None:
        with stage_log.kept(log):
            folder = _module(config.stages[name]).hub_folder(config, name, config.stages[name])
            hub.upload(folder, config.push, config.stages[name].uploads, config.hub)


def _module(stage: StageConfig) -> Any:
    """The module `run` beside a stage's settings, imported when it is needed: most commands run without torch."""
    return importlib.import_module(f"{type(stage).__module__.rpartition('.')[0]}.run")


def _experiment(command: str, overrides: list[str], config_dir: str | None) -> Config:
    config = compose(command, overrides, config_dir)
    assert isinstance(config, Config)
    uploading = [kind for kind in registry.names("stage") if registry.find("stage", kind).uploads]
    if config.push is not None and command not in uploading:
        raise ValueError(
            f"push={config.push} belongs to the commands {' and '.join(uploading)}; {command} uploads nothing"
        )
    if not config.stages and config.experiment not in ("", "default"):
        first = "`# @package _global_`"
        raise ValueError(f"{command}: experiment={config.experiment} has no stages; does its file begin with {first}?")
    if not config.stages:
        known = ", ".join(options("experiment", config_dir))
        files = "run=FILE qrels=FILE, or " if command == "evaluate" else ""
        raise ValueError(f"{command}: there are no stages; give {files}experiment=NAME, one of: {known}")
    return config


def _chosen(config: Config, kind: str) -> str:
    names = [name for name, stage in config.stages.items() if stage.kind == kind]
    if config.stage is not None and config.stage not in names:
        raise LookupError(f"stage={config.stage} is no {kind} stage; there are: {', '.join(names) or 'none'}")
    if config.stage is None and len(names) != 1:
        raise LookupError(f"the experiment has {len(names)} {kind} stages; give stage=NAME, one of: {', '.join(names)}")
    return config.stage or names[0]


def _dry_run(config: Config, names: list[str]) -> int:
    experiment = Experiment.of(config)
    run_state.refuse_changes(experiment, names)
    print(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config), default=str)), sort_keys=False), end="")
    print("\n# The plan; nothing was started")
    for line in experiment.describe(names):
        print(f"# {line}")
    for line in preflight.lines(experiment, names):
        print(f"# {line}", flush=True)
    return 0


def _plan(command: str, overrides: list[str], config_dir: str | None) -> int:
    """Show the work of a run and the memory of its training stages: 1 if one does not fit the hardware."""
    given, others = file_arguments(command, overrides, ("hardware",), required=())
    hardware = cards.parse(given["hardware"]) if "hardware" in given else None
    experiment = Experiment.of(_experiment("run", others, config_dir))
    print("\n".join(experiment.describe(list(experiment.stages))))
    refused = 0
    for planned in memory.plan(experiment, list(experiment.stages), hardware):
        print("\n" + "\n".join(planned.lines), flush=True)
        refused += planned.refusal is not None
    return 1 if refused else 0


def _evaluate_files(config: EvaluateFiles) -> int:
    module = importlib.import_module("rl_rerank.stages.evaluate.files")
    values = module.evaluate_files(config)
    # Without a file the JSON has standard output to itself, so that it can be piped.
    print("\n".join(module.lines(values)), file=sys.stderr if config.output is None else sys.stdout)
    if config.output is None:
        print(json.dumps(values, indent=2, ensure_ascii=False))
    return 0


def _report_runs(wanted: ReportRuns) -> int:
    evidence = importlib.import_module("rl_rerank.stages.report.run").report_runs(wanted)
    folder = Path(wanted.output)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"report: {folder / 'index.html'}")
    for regression in evidence.regressions:
        print(
            f"regression: {regression.system} is worse in {regression.run} than in {regression.baseline}",
            file=sys.stderr,
        )
    return 0


def _parse(command: str, overrides: list[str], config_dir: str | None) -> int:
    given, others = parse.split(overrides)
    config = compose(command, others, config_dir)
    assert isinstance(config, Config)
    rows = list(parse.parse_file(Path(given["completions"]), build_paradigm(config, config.paradigm)))
    if "output" in given:
        parse.write(Path(given["output"]), rows)
    # Without a file the rows have standard output to themselves, so that they can be piped.
    print("\n".join(parse.summary(rows)), file=sys.stdout if "output" in given else sys.stderr)
    if "output" not in given:
        print("\n".join(map(parse.line, rows)))
    return 0


def _convert(command: str, overrides: list[str], config_dir: str | None) -> int:
    wanted = files(ConvertFiles, overrides)
    print(f"{wanted.output}: {convert(wanted)} queries")
    return 0


def _lines(command: str, overrides: list[str], config_dir: str | None) -> int:
    commands = {"data": data.run, "doctor": doctor.run, "new": new.run, "rewards": rewards.run, "verify": verify.run}
    lines, status = commands[command](overrides, config_dir)
    print("\n".join(lines))
    return status


def _init(command: str, overrides: list[str], config_dir: str | None) -> int:
    target = Path("conf/experiment/my_experiment.yaml")
    if target.exists():
        raise ValueError(f"{target} is there already; it was left alone")
    text = (conf_dir() / "experiment/quickstart.yaml").read_text(encoding="utf-8")
    write_text(target, text.replace("experiment=quickstart", "experiment=my_experiment"))
    print(f"{target} is yours to edit: rl-rerank run experiment=my_experiment")
    return 0


def _take_config_dir(arguments: list[str]) -> str | None:
    """Remove `--config-dir DIR` or `--config-dir=DIR` from `arguments` and return DIR."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--config-dir="):
            return arguments.pop(i).partition("=")[2]
        if argument == "--config-dir":
            if i + 1 == len(arguments):
                raise ValueError("--config-dir needs a folder")
            arguments.pop(i)
            return arguments.pop(i)
    return None


def _extra(error: Exception) -> str:
    """What to install, where an import failed for want of an optional package."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if not package or package == "rl_rerank" or "pip install" in str(error):
        return ""
    return f". Install it with: {requirements.install(package)}"


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("bm25s", "httpx", "httpx2", "matplotlib", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # DeepSpeed's calls, told at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
