"""From a command line to a `Config`: hydra composes conf/, and `config.build` checks the result strictly.

Hydra's compose API is used instead of its decorator, so that no run folders, log files or changes of directory come
with it. Every override of a key is forced (`++`): `config.build` knows all keys and says what is wrong with one in a
sentence, and open sub-trees such as `stages.sft.trl` need no plus sign.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rl_rerank import registry
from rl_rerank.config import Config, EvaluateFiles, ReportRuns, build, unknown_key
from rl_rerank.experiment import run_names, unions
from rl_rerank.experiment.overrides import parse, refuse_unknown_stages, split
from rl_rerank.io.files import conf_dir
from rl_rerank.prompts.wordings import files as wordings

T = TypeVar("T")

GROUPS = ("data", "model", "engine", "launcher", "reward", "recipe", "budget", "experiment", "scale")
"""The folders of conf/: an override of one of these names chooses a file."""

SIZES = {"budget": None, "scale": "scale"}
"""Groups whose numbers experiments read by interpolation -> where in their files these stand."""

PRIMARY = "rl_rerank_config"
"""Our config.yaml goes by this name, so that another project's ./conf/config.yaml does not take its place."""


class UserFolders(SearchPathPlugin):
    """Has hydra look into the user's folders before ours."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by hydra; the last folder prepended is searched first."""
        for folder in reversed(self.folders):
            search_path.prepend(provider="rl-rerank", path=f"file://{folder}")


Plugins.instance().register(UserFolders)


def compose(
    command: str, overrides: Sequence[str], config_dir: str | None = None
) -> Config | EvaluateFiles | ReportRuns:
    """The configuration that a command line asks for.

    Args:
        command: the subcommand; `evaluate` with `run=`, `runs=` or `qrels=` measures files, `report` with `run_dirs=`
            reads finished runs, and both compose nothing.
        overrides: `key=value`, in hydra's grammar.
        config_dir: a folder laid out like conf/, searched before `./conf` and ours.

    Raises:
        ValueError: for a key, a value or an override that does not read.
        LookupError: for a name that does not exist: an experiment, a reward, ...
        ImportError: if a chosen reward does not import.
    """
    if command == "evaluate" and any(re.match(r"(runs?|qrels)=", o) for o in overrides):
        return files(EvaluateFiles, overrides)
    if command == "report" and any(o.startswith("run_dirs=") for o in overrides):
        return files(ReportRuns, overrides)
    UserFolders.folders = _user_folders(config_dir)
    parsed = [parse(o) for o in overrides]
    texts = _name_rewards(parsed)
    raw = _hydra([_force(text, o) for text, o in zip(texts, parsed, strict=True) if not unions.is_inside(o)])
    refuse_unknown_stages(raw.get("stages"), parsed)
    unions.override(raw, [o for o in parsed if unions.is_inside(o)])
    chosen = [str(o.value()) for o in parsed if o.key_or_group == "experiment" and o.value() is not None]
    raw["experiment"] = chosen[-1] if chosen else "default"
    config = build(Config, _complete(_resolve(raw)))
    if any(o.key_or_group == "run_dir" for o in parsed) or not (suffix := run_names.variant(parsed, config)):
        return config
    raw["run_dir"] += suffix  # before it resolves, because other settings may refer to it
    return build(Config, _complete(_resolve(raw)))


def options(group: str, config_dir: str | None = None) -> list[str]:
    """The files that can be chosen for a folder of conf/, such as the experiments."""
    UserFolders.folders = _user_folders(config_dir)
    return _options(group)


def _options(group: str) -> list[str]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), job_name="rl_rerank", version_base="1.3"):
        return GlobalHydra.instance().config_loader().get_group_options(group)


def files(cls: type[T], overrides: Sequence[str]) -> T:
    """`cls` from `KEY=VALUE`, without hydra's grammar: file names and measures hold characters that it reserves."""
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"cannot read {text!r}: an override is KEY=VALUE")
        if key in ("measures", "run_dirs", "runs", "targets"):
            values[key] = [item.strip("\"' ") for item in split(value.strip().removeprefix("[").removesuffix("]"))]
        elif value not in ("null", ""):
            values[key] = _typed(value) if key in ("force", "seed", "trust_remote_code") else value
    return build(cls, values)


def _typed(value: str) -> bool | int | str:
    """`true`, `false` and whole numbers as what they are."""
    words = {"true": True, "false": False}
    return words.get(value, int(value) if value.isdecimal() else value)


def _force(text: str, override: Override) -> str:
    key = override.key_or_group
    if override.type is not OverrideType.CHANGE or key in GROUPS or "/" in key or override.package is not None:
        return text
    return f"++{text}"


def _user_folders(config_dir: str | None) -> list[Path]:
    folders = [Path("conf").resolve()]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise LookupError(f"--config-dir: there is no folder {str(Path(config_dir).resolve())!r}")
        folders.insert(0, Path(config_dir).resolve())
    return [f for f in folders if f.is_dir() and f != conf_dir()]


def _name_rewards(overrides: Sequence[Override]) -> list[str]:
    """Store a node for every installed reward and for those given as `file.py:Class`; return the overrides as texts.

    A hydra choice is a file, and an entry point has none: the stored node takes its place. Its parameters' defaults are
    filled in after composing, for the chosen ones alone, so that a broken plugin that nobody chose does no harm.
    """
    for name in registry.names("reward"):
        _store_reward(name, None)
    return [_reward_choice(o) if o.key_or_group == "reward" else str(o.input_line) for o in overrides]


def _store_reward(name: str, target: str | None) -> None:
    node = {"weight": 1.0, "target": target, "params": {}}
    ConfigStore.instance().store(group="reward", name=name, package=f"rewards.{name}", node=node)


def _reward_choice(override: Override) -> str:
    value: Any = override.value()
    entries = [str(v) for v in value] if isinstance(value, list) else [] if value in (None, "") else [str(value)]
    installed, names = registry.names("reward"), []
    for entry in entries:
        name = _snake(entry.rsplit(":", 1)[1]) if ":" in entry else entry
        if ":" in entry:
            if name in installed:
                raise ValueError(
                    f"reward={entry} would go by the name {name!r}, which is an installed reward's; rename the class, "
                    f"or choose a name yourself: rewards.NAME.target={entry}"
                )
            _store_reward(name, entry)
        if name in names:
            raise ValueError(f"reward=[{','.join(entries)}]: {name!r} is named twice")
        names.append(name)
    return f"reward=[{','.join(names)}]"


def _snake(name: str) -> str:
    """`ExactMatch` -> `exact_match`, `MRRAt10` -> `mrr_at10`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _hydra(overrides: list[str]) -> dict[str, Any]:
    """The composed mapping, interpolations unresolved."""
    ConfigStore.instance().store(name=PRIMARY, node=OmegaConf.load(conf_dir() / "config.yaml"))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="rl_rerank", version_base="1.3"):
            composed: Any = OmegaConf.to_container(hydra_compose(PRIMARY, overrides=overrides))
    except MissingConfigException as e:
        raise LookupError(_missing(e)) from None
    except (HydraException, OmegaConfBaseException) as e:
        cause = f" ({_first_line(e.__cause__)})" if isinstance(e.__cause__, Exception) else ""
        raise ValueError(f"the configuration does not compose: {_first_line(e)}{cause}") from None
    except yaml.YAMLError as e:
        raise ValueError(f"a configuration file is not YAML: {' '.join(str(e).split())}") from None
    return composed


def _missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    group = group.removeprefix("/")
    if not group:
        return f"the configuration does not compose: {_first_line(error)}"
    known = registry.names("reward") if group == "reward" else _options(group)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    more = ""
    if group == "reward":
        more = " Code that is not installed is named by its file: 'reward=[path/to/file.py:Class]'."
    return f"no {group} is named {name!r}; there are: {', '.join(known) or 'none'}.{hint}{more}"


def _resolve(raw: dict[str, Any]) -> dict[str, Any]:
    _refuse_environment(raw, "")
    _check_sizes(raw)
    try:
        values: Any = OmegaConf.to_container(OmegaConf.create(raw), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as e:
        raise ValueError(f"{e.full_key} is required; give {e.full_key}=VALUE") from None
    except OmegaConfBaseException as e:
        raise ValueError(f"the configuration does not resolve: {_first_line(e)}") from None
    for sizes in SIZES:
        values.pop(sizes, None)
    known = [f.name for f in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise ValueError(unknown_key(key, key, {*known, *GROUPS} - {key}))
    return values


def _refuse_environment(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_environment(item, f"{place}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_environment(item, place)
    elif isinstance(value, str) and "oc.env" in value:
        raise ValueError(
            f"{place} reads the environment ({value}), and what it finds would be written to config.json and the "
            "report; give the value on the command line, and leave secrets to the libraries that read them there"
        )


def _check_sizes(raw: dict[str, Any]) -> None:
    """A budget's or a scale's number counts only where an interpolation reads it: any other is a typing error."""
    others = OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in raw.items() if k not in SIZES}))
    for sizes, place in SIZES.items():
        if sizes not in raw:
            continue
        texts = [file.read_text(encoding="utf-8") for file in sorted((conf_dir() / sizes).glob("*.yaml"))]
        # They may themselves read a number that experiments set.
        known = set(re.findall(rf"\$\{{(?:oc\.select:)?{sizes}\.(\w+)", "".join([others, *texts])))
        for written in map(OmegaConf.create, texts):
            known |= {str(key) for key in (written[place] if place else written)}
        for key in raw[sizes]:
            if key not in known:
                raise ValueError(unknown_key(f"{sizes}.{key}", str(key), map(str, known)))


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in what stands elsewhere: rewards' default parameters, wordings in files, and the seed of stages without."""
    rewards = values.get("rewards")
    for name, node in rewards.items() if isinstance(rewards, dict) else ():
        if not isinstance(node, dict):
            continue
        if "target" not in node and name in registry.names("reward"):
            raise ValueError(f"rewards.{name} is set, but {name!r} is not chosen; add it: 'reward=[...,{name}]'")
        given = node.get("params") or {}
        node["params"] = {**registry.defaults("reward", node.get("target") or name), **given}
    for name, plugin in (values.get("paradigms") or {}).items():
        _put_wordings_in(plugin, f"paradigms.{name}")
    stages = values.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        kind = stage.get("kind") if isinstance(stage, dict) else None
        if kind in registry.names("stage") and "seed" in registry.find("stage", str(kind)).__dataclass_fields__:
            stage.setdefault("seed", values.get("seed", 1))
    return values


def _put_wordings_in(settings: Any, place: str) -> None:
    """Replace the files of wordings by their content, which then belongs to the run: to its record and its exports."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(settings, list):
        inner = [*enumerate(settings, start=1)]
    elif isinstance(settings, dict):
        if "wording" in settings and wordings.is_file(file := settings["wording"]):
            try:
                settings["wording"] = {**wordings.content(file), "file": file}
            except LookupError as e:
                raise LookupError(f"{place}.wording: {e}") from None
        inner = [(key, value) for key, value in settings.items() if key != "wording"]
    for key, value in inner:
        _put_wordings_in(value, f"{place}.{key}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
