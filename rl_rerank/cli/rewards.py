"""The subcommands of `rl-rerank rewards`: what each prints, and its exit status."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rl_rerank import registry
from rl_rerank.cli import listing
from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import write_jsonl
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.reward import check, replay
from rl_rerank.reward.base import Term
from rl_rerank.reward.build import reward_terms

Command = Callable[[list[str], str | None], tuple[list[str], int]]


def run(arguments: Sequence[str], config_dir: str | None) -> tuple[list[str], int]:
    """Lines to print, and the exit status: 1 where a check failed or an installed reward is broken.

    Raises:
        LookupError: if there is no such subcommand.
    """
    name, *rest = arguments or ["list"]
    if name not in COMMANDS:
        raise LookupError(f"rewards has no subcommand {name!r}; it has: {', '.join(COMMANDS)}")
    return COMMANDS[name](rest, config_dir)


def _list(arguments: list[str], config_dir: str | None) -> tuple[list[str], int]:
    if arguments:
        raise ValueError(f"rewards list takes nothing else; got {' '.join(arguments)!r}")
    found = listing.listed()
    lines = [line for heading, group in found.items() for line in ("", heading, "", *group)]
    return lines[1:], int(listing.HEADINGS["broken"] in found)


def _check(arguments: list[str], config_dir: str | None) -> tuple[list[str], int]:
    if not arguments or "=" in arguments[0]:
        raise ValueError("rewards check needs a name: rl-rerank rewards check ndcg")
    name, *overrides = arguments
    config = _config([f"reward=[{name}]", *overrides], config_dir)
    [term] = reward_terms(config)
    lines, failed = [f"{term.name}: {term.reward}", ""], False
    for paradigm in _paradigms(term, config, overrides):
        report = check.check(term, paradigm)
        failed = failed or bool(report.failures)
        lines += [*report.lines(), ""]
    lines.append(
        f"{term.name}: {'it FAILED what is named above' if failed else 'it has every property that it claims'}"
    )
    return lines, int(failed)


def _replay(arguments: list[str], config_dir: str | None) -> tuple[list[str], int]:
    files, overrides = replay.split(arguments)
    config = _config(overrides, config_dir)
    terms, paradigm = reward_terms(config), build_paradigm(config, config.paradigm)
    rows = replay.replay(Path(files["completions"]), Path(files["examples"]), terms, paradigm)
    if "output" in files:
        write_jsonl(Path(files["output"]), rows)
    shown = [] if "output" in files else [json.dumps(row) for row in rows]
    return [*replay.summary(terms, rows), *shown], 0


COMMANDS: dict[str, Command] = {"list": _list, "check": _check, "replay": _replay}


def _config(overrides: list[str], config_dir: str | None) -> Config:
    config = compose("rewards", overrides, config_dir)
    assert isinstance(config, Config)
    return config


def _paradigms(term: Term, config: Config, overrides: Sequence[str]) -> list[Paradigm]:
    """The paradigm that was chosen, or those that the reward names, with reasoning where they can; else listwise."""
    if any(override.partition("=")[0] == "paradigm" for override in overrides):
        return [build_paradigm(config, config.paradigm)]
    found = []
    for name in term.traits.paradigms or ("listwise",):
        fields = {field.name for field in dataclasses.fields(registry.find("paradigm", name))}
        found.append(registry.build("paradigm", name, {"reasoning": True} if "reasoning" in fields else {}))
    return found
