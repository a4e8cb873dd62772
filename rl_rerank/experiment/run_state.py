"""Which stages of a run are finished, and with what: run_dir/ledger.jsonl, and stage.json in each stage's folder.

A stage is done when the ledger has an entry for it with the same configuration and the same inputs. `stage.json` is
written when a stage starts, so that a half-finished stage is not continued with another configuration either.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl_rerank.data import Store
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import digest
from rl_rerank.io.files import read_jsonl, write_json, write_jsonl

logger = logging.getLogger(__name__)

ABSENT = "(not set)"


def record(experiment: Experiment, name: str) -> dict[str, Any]:
    """The part of the configuration that the output of stage `name` depends on, laid out like the configuration."""
    stage, config = experiment.stages[name], experiment.config
    settings, whole = stage.settings, dataclasses.asdict(config)
    own = settings.recorded(whole["stages"][name])
    kept: dict[str, Any] = {"stages": {name: own}}
    if settings.reads_data:
        kept |= {"seed": config.seed, "data": whole["data"]}
    if stage.engine is not None or settings.is_launched:
        kept["model"] = whole["model"]
    if stage.engine is not None:
        # A stage's own engine stays in its settings; what its answers do not depend on is left out of either.
        (kept if stage.engine is config.engine else own)["engine"] = stage.engine.answering()
    if stage.paradigms:
        kept["paradigms"] = {p: whole["paradigms"][p] for p in stage.paradigms if p in whole["paradigms"]}
        if settings.uses_default_paradigm:
            kept["paradigm"] = config.paradigm
    if settings.reads_rewards:
        kept["rewards"] = {
            r: {**values, **digest.of_target(values["target"])} for r, values in whole["rewards"].items()
        }
    return json.loads(json.dumps(kept, default=str))


def done(experiment: Experiment, name: str) -> dict[str, Any] | None:
    """The ledger's entry for stage `name`, if it is finished with this configuration and these inputs."""
    entry = _entries(experiment).get(name)
    if entry is None or not _stage_file(experiment, name).is_file():
        return None
    same = entry["config"] == digest.of_json(record(experiment, name)) and entry["inputs"] == _inputs(experiment, name)
    return entry if same else None


def refuse_changes(experiment: Experiment, names: Iterable[str]) -> None:
    """Refuse to go on where a stage was started with another configuration.

    Raises:
        ValueError: with every difference, and the folders to remove in order to start afresh.
    """
    found: dict[str, None] = {}
    folders: list[str] = []
    for name in names:
        if (begun := _begun(experiment, name)) is None:
            continue
        differences = list(_differences(begun["config"], record(experiment, name)))
        found |= dict.fromkeys(differences)
        if differences:
            folders.append(str(_stage_file(experiment, name).parent))
    if found:
        raise ValueError(
            f"{experiment.config.run_dir} was made with another configuration: {'; '.join(found)}. Give another "
            f"run_dir=, or remove {', '.join(folders)} to redo {'it' if len(folders) == 1 else 'them'}"
        )


def begin(experiment: Experiment, name: str) -> None:
    """Note that stage `name` starts. Output that was made from other inputs is moved out of its way."""
    refuse_changes(experiment, [name])
    inputs, path = _inputs(experiment, name), _stage_file(experiment, name)
    if done(experiment, name) is None:
        write_jsonl(_path(experiment), [e for e in _entries(experiment).values() if e["stage"] != name])
    if (begun := _begun(experiment, name)) is not None and begun["inputs"] != inputs:
        _set_aside(experiment, name)
    write_json(path, {"config": record(experiment, name), "inputs": inputs})


def finish(experiment: Experiment, name: str, seconds: float) -> None:
    """Note that stage `name` is finished. A stage that was done and ran again keeps its entry."""
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
    """A trainer would continue from the checkpoints it finds, and those started from a model that is no more."""
    folder = Path(experiment.config.run_dir) / name
    attic = Path(experiment.config.run_dir) / "superseded"
    attic.mkdir(exist_ok=True)
    number = 1 + sum(1 for old in attic.iterdir() if old.name.rpartition("-")[0] == name)
    folder.rename(attic / f"{name}-{number}")
    logger.info("%s: its inputs are new; the old output is now %s", name, attic / f"{name}-{number}")


def _inputs(experiment: Experiment, name: str) -> dict[str, str | None]:
    """What the stage reads: the finished stages before it, and the data, which may change under the same name."""
    entries, data = _entries(experiment), Path(experiment.config.run_dir) / "data"
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


def _differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{place}.{key}".removeprefix("."))
    elif old != new:
        yield f"{place}: {old} -> {new}"
