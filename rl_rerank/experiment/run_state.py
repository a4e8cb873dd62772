"""Which stages of a run are finished, and with what: run_dir/ledger.jsonl, and stage.json in each stage's folder.

A stage is done when the ledger has an entry for it with the same configuration and the same inputs. `stage.json` is
written when a stage starts, so that a half-finished stage is not continued with another configuration either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl_rerank.config import CheckStage, Config, GRPOStage, ReportStage, RerankStage, SynthStage, TrainingStage
from rl_rerank.data import Store
from rl_rerank.experiment import validate
from rl_rerank.io.files import read_jsonl, write_json, write_jsonl

logger = logging.getLogger(__name__)

ABSENT = "(not set)"


def record(config: Config, name: str) -> dict[str, Any]:
    """The part of the configuration that the output of stage `name` depends on, laid out like the configuration."""
    stage, whole = config.stages[name], dataclasses.asdict(config)
    kept: dict[str, Any] = {"stages": {name: whole["stages"][name]}}
    if not isinstance(stage, ReportStage):
        kept |= {"seed": config.seed, "data": whole["data"]}
    engine = validate.engine(config, stage)
    if engine is not None or isinstance(stage, TrainingStage):
        kept["model"] = whole["model"]
    if engine is not None:
        place = kept if engine is config.engine else kept["stages"][name]
        place["engine"] = engine.answering()
    if isinstance(stage, SynthStage):
        kept["stages"][name] = _synthesis(stage, kept["stages"][name])
    if used := validate.paradigms(config, name):
        kept["paradigm"] = config.paradigm
        kept["paradigms"] = {p: whole["paradigms"][p] for p in used if p in whole["paradigms"]}
    if isinstance(stage, SynthStage) or (isinstance(stage, RerankStage) and stage.paradigm):
        kept.pop("paradigm", None)
    if isinstance(stage, (GRPOStage, CheckStage)):
        kept["rewards"] = {r: {**values, **_source(values["target"])} for r, values in whole["rewards"].items()}
    return json.loads(json.dumps(kept, default=str))


def _synthesis(stage: SynthStage, values: dict[str, Any]) -> dict[str, Any]:
    """Without what decides how fast the work is done and how far it goes at a time."""
    kept = {key: value for key, value in values.items() if key not in ("shards", "executor", "budget")}
    steps = {name: {**step, **_source(step["target"])} for name, step in values["steps"].items()}
    return {**kept, "steps": steps, "engines": {key: engine.answering() for key, engine in stage.engines.items()}}


def _source(target: str | None) -> dict[str, str]:
    """The contents of a reward's or a step's own file count, not its name alone."""
    if target is None or ".py:" not in target:
        return {}
    file = Path(target.rsplit(":", 1)[0])
    return {"file_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def done(config: Config, name: str) -> dict[str, Any] | None:
    """The ledger's entry for stage `name`, if it is finished with this configuration and these inputs."""
    entry = _entries(config).get(name)
    if entry is None or not _stage_file(config, name).is_file():
        return None
    same = entry["config"] == _digest(record(config, name)) and entry["inputs"] == _inputs(config, name)
    return entry if same else None


def refuse_changes(config: Config, names: Iterable[str]) -> None:
    """Refuse to go on where a stage was started with another configuration.

    Raises:
        ValueError: with every difference, and the folders to remove in order to start afresh.
    """
    found: dict[str, None] = {}
    folders: list[str] = []
    for name in names:
        if (begun := _begun(config, name)) is None:
            continue
        differences = list(_differences(begun["config"], record(config, name)))
        found |= dict.fromkeys(differences)
        if differences:
            folders.append(str(_stage_file(config, name).parent))
    if found:
        raise ValueError(
            f"{config.run_dir} was made with another configuration: {'; '.join(found)}. Give another run_dir=, or "
            f"remove {', '.join(folders)} to redo {'it' if len(folders) == 1 else 'them'}"
        )


def begin(config: Config, name: str) -> None:
    """Note that stage `name` starts. Output that was made from other inputs is moved out of its way."""
    refuse_changes(config, [name])
    inputs, path = _inputs(config, name), _stage_file(config, name)
    if done(config, name) is None:
        write_jsonl(_path(config), [e for e in _entries(config).values() if e["stage"] != name])
    if (begun := _begun(config, name)) is not None and begun["inputs"] != inputs:
        _set_aside(config, name)
    write_json(path, {"config": record(config, name), "inputs": inputs})


def finish(config: Config, name: str, seconds: float) -> None:
    """Note that stage `name` is finished. A stage that was done and ran again keeps its entry."""
    if done(config, name) is not None:
        return
    entry = {
        "stage": name,
        "kind": config.stages[name].kind,
        "config": _digest(record(config, name)),
        "inputs": _inputs(config, name),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(),
    }
    write_jsonl(_path(config), [*(e for e in _entries(config).values() if e["stage"] != name), entry])


def _set_aside(config: Config, name: str) -> None:
    """A trainer would continue from the checkpoints it finds, and those started from a model that is no more."""
    folder = Path(config.run_dir) / name
    attic = Path(config.run_dir) / "superseded"
    attic.mkdir(exist_ok=True)
    number = 1 + sum(1 for old in attic.iterdir() if old.name.rpartition("-")[0] == name)
    folder.rename(attic / f"{name}-{number}")
    logger.info("%s: its inputs are new; the old output is now %s", name, attic / f"{name}-{number}")


def _inputs(config: Config, name: str) -> dict[str, str | None]:
    """What the stage reads: the finished stages before it, and the data, which may change under the same name."""
    entries, data = _entries(config), Path(config.run_dir) / "data"
    inputs = {n: _digest(entries[n]) if n in entries else None for n in validate.upstream(config, name)}
    if "data" in record(config, name):
        inputs["data"] = Store(data).fingerprint if data.is_dir() else None
    return inputs


def _entries(config: Config) -> dict[str, dict[str, Any]]:
    path = _path(config)
    return {entry["stage"]: entry for entry in read_jsonl(path)} if path.is_file() else {}


def _begun(config: Config, name: str) -> dict[str, Any] | None:
    path = _stage_file(config, name)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not JSON ({e.msg}); remove {path.parent} to redo the stage") from None


def _path(config: Config) -> Path:
    return Path(config.run_dir) / "ledger.jsonl"


def _stage_file(config: Config, name: str) -> Path:
    return Path(config.run_dir) / name / "stage.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{place}.{key}".removeprefix("."))
    elif old != new:
        yield f"{place}: {old} -> {new}"
