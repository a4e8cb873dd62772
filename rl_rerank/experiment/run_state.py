"""The record of finished stages: run_dir/ledger.jsonl, and stage.json in each stage's folder.

A stage is done when the ledger has an entry for it with the same configuration and the same inputs. A stage
writes `stage.json` when it starts, so a half-finished stage cannot continue with another configuration either.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from rl_rerank.data import Store
from rl_rerank.data.prepare import reopened
from rl_rerank.experiment import identity
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import digest
from rl_rerank.io.files import read_jsonl, write_json, write_jsonl

logger = logging.getLogger(__name__)


def record(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the part of the configuration that determines the output of stage `name`, laid out like the whole."""
    # Everything left out here may change between two commands without costing a rerun, and any change of what is kept
    # makes the run refuse to continue: the model matters only to stages that load it, and the launcher to none.
    stage, config = experiment.stages[name], experiment.config
    settings, whole = stage.settings, dataclasses.asdict(config)
    own = settings.recorded(whole["stages"][name])
    kept: dict[str, Any] = {"stages": {name: own}}
    if settings.reads_data:
        kept |= {"seed": config.seed, "data": config.data.recorded()}
    if stage.engine is not None or settings.is_launched or settings.loads_model:
        # Runs from before images could be shown stay what they are.
        kept["model"] = {k: v for k, v in whole["model"].items() if k != "max_image_tokens" or v is not None}
    if stage.engine is not None:
        # Only settings that answers depend on are kept, so that more concurrency or a higher cap on cost does not
        # invalidate answers that are paid for. Identity tells the experiment's engine from an equal one of the stage
        # itself, which stays among the stage's settings, so that a reported difference names the setting that the user
        # wrote.
        (kept if stage.engine is config.engine else own)["engine"] = stage.engine.answering()
    if stage.paradigms:
        kept["paradigms"] = {p: whole["paradigms"][p] for p in stage.paradigms if p in whole["paradigms"]}
        if settings.uses_default_paradigm:
            kept["paradigm"] = config.paradigm
    if settings.reads_rewards:
        kept["rewards"] = whole["rewards"]
    # The record is compared with one that was read from stage.json. JSON turns tuples into lists and paths into text,
    # so without this round trip an unchanged configuration would differ from itself. A plugin in the user's own file
    # keeps its name when its code changes, and so does a model folder; only digests show it.
    return identity.with_digests(json.loads(json.dumps(kept, default=str)))


def done(experiment: Experiment, name: str) -> dict[str, Any] | None:
    """Return the ledger's entry for stage `name` if it finished with this configuration and these inputs."""
    entry = _entries(experiment).get(name)
    # The way to redo a stage is to remove its folder, which leaves its entry in the ledger: the entry alone proves
    # nothing.
    if entry is None or (begun := _begun(experiment, name)) is None:
        return None
    is_of_entry = entry["config"] == digest.of_json(begun["config"])
    is_same = is_of_entry and not any(identity.differences(begun["config"], record(experiment, name)))
    return entry if is_same and entry["inputs"] == _inputs(experiment, name) else None


def refuse_changes(experiment: Experiment, names: Iterable[str]) -> None:
    """Refuse to continue where a stage was started with another configuration.

    Raises:
        ValueError: listing every difference, and the folders to remove in order to start afresh.
    """
    found: dict[str, None] = {}
    folders: list[str] = []
    holds_data = cache(lambda: reopened(experiment.config.data, Path(experiment.config.run_dir) / "data") is not None)
    for name in names:
        if (begun := _begun(experiment, name)) is None:
            continue
        # Checked against stage.json rather than the ledger: it exists for unfinished stages too, and it has the values,
        # where the ledger has their digest alone.
        now = record(experiment, name)
        differences = list(identity.differences(begun["config"], now))
        old, new = (one.get("data", {}).get("path") for one in (begun["config"], now))
        if old != new and not holds_data():  # the same data in another place are the same data
            differences.append(f"data.path: {old} -> {new}")
        found |= dict.fromkeys(differences)
        if differences:
            folders.append(str(_stage_file(experiment, name).parent))
    if found:
        raise ValueError(
            f"{experiment.config.run_dir} was made with another configuration: {'; '.join(found)}. Give another "
            f"run_dir=, or remove {', '.join(folders)} to redo {'it' if len(folders) == 1 else 'them'}"
        )


def refuse_stale(experiment: Experiment, name: str) -> None:
    """Refuse to run stage `name` on the output of stages that would be done again by now.

    Raises:
        ValueError: naming the stage whose output is stale.
    """
    entries, waiting, seen = _entries(experiment), [name], set[str]()
    while waiting:
        for read in experiment.stages[waiting.pop()].inputs:
            if read in seen:
                continue
            seen.add(read)
            waiting.append(read)
            if read in entries and done(experiment, read) is None:
                kind = experiment.config.stages[read].kind
                raise ValueError(
                    f"stage {name!r} follows from {read!r}, whose output is stale: the data or what it was made from "
                    "have changed since, or its folder is gone. `rl-rerank run` makes all that follows from it anew, "
                    f"`rl-rerank {kind} stage={read}` this stage alone"
                )


def begin(experiment: Experiment, name: str) -> None:
    """Record that stage `name` starts, and move output that was made from other inputs out of its way."""
    # A run calls this twice for each stage, in the runner and in the stage's own process, so the second call must
    # change nothing: by then stage.json has the current inputs, and nothing is moved.
    refuse_changes(experiment, [name])
    inputs, path = _inputs(experiment, name), _stage_file(experiment, name)
    if done(experiment, name) is not None:
        return  # stage.json stays as it is: the entry has its digest
    # The entry goes first and stage.json is written last. A process killed in between leaves a stage that is not done
    # and still has its old inputs on record, so the next call moves the old output all the same.
    write_jsonl(_path(experiment), [e for e in _entries(experiment).values() if e["stage"] != name])
    if (begun := _begun(experiment, name)) is not None and begun["inputs"] != inputs:
        _set_aside(experiment, name)
    write_json(path, {"config": record(experiment, name), "inputs": inputs})


def finish(experiment: Experiment, name: str, seconds: float) -> None:
    """Record that stage `name` is finished. A stage that was done and ran again keeps its entry."""
    # Later stages record the digest of this entry as their input, its time of finishing included. A new entry for the
    # same output would make every one of them run again.
    if done(experiment, name) is not None:
        return
    entry = {
        "stage": name,
        "kind": experiment.config.stages[name].kind,
        "config": digest.of_json(record(experiment, name)),
        "inputs": _inputs(experiment, name),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(),
    }
    write_jsonl(_path(experiment), [*(e for e in _entries(experiment).values() if e["stage"] != name), entry])


def _set_aside(experiment: Experiment, name: str) -> None:
    """Move the stage's output into run_dir/superseded.

    A trainer resumes from any checkpoint in its folder, and these were trained from a model that no longer exists.
    """
    folder = Path(experiment.config.run_dir) / name
    attic = Path(experiment.config.run_dir) / "superseded"
    attic.mkdir(exist_ok=True)
    # Compared without the number at the end, as a stage's name may contain dashes: grpo-2-1 belongs to grpo-2, not to
    # grpo.
    number = 1 + sum(1 for old in attic.iterdir() if old.name.rpartition("-")[0] == name)
    folder.rename(attic / f"{name}-{number}")
    logger.info("%s: its inputs are new; the old output is now %s", name, attic / f"{name}-{number}")


def _inputs(experiment: Experiment, name: str) -> dict[str, str | None]:
    """Return digests of what the stage reads: finished stages, and the data, which may change under the same name."""
    entries, data = _entries(experiment), Path(experiment.config.run_dir) / "data"
    # The whole entry is digested, with its own inputs: whatever runs again upstream therefore reaches every stage
    # behind it.
    inputs = {n: digest.of_json(entries[n]) if n in entries else None for n in experiment.stages[name].inputs}
    if "data" in record(experiment, name):
        inputs["data"] = Store(data).fingerprint if data.is_dir() else None
    return inputs


def _entries(experiment: Experiment) -> dict[str, dict[str, Any]]:
    path = _path(experiment)
    return {entry["stage"]: entry for entry in read_jsonl(path)} if path.is_file() else {}


def _begun(experiment: Experiment, name: str) -> dict[str, Any] | None:
    path = _stage_file(experiment, name)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not JSON ({e.msg}); remove {path.parent} to redo the stage") from None


def _path(experiment: Experiment) -> Path:
    return Path(experiment.config.run_dir) / "ledger.jsonl"


def _stage_file(experiment: Experiment, name: str) -> Path:
    return Path(experiment.config.run_dir) / name / "stage.json"
