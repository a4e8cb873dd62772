"""`rl-rerank new KIND NAME`: a package with one plugin, its entry point and its tests."""

import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from rl_rerank import registry
from rl_rerank.io.files import write_text

SCAFFOLDS = Path(__file__).parent / "scaffolds"
"""pyproject.txt and readme.txt, and a folder a kind with the texts of its files."""
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


USES: Mapping[str, str] = {
    "reward": "rl-rerank rewards check $name",
    "paradigm": "rl-rerank run experiment=quickstart_tokens paradigm=$name stages.sft.loss=completion dry_run=true",
    "source": "rl-rerank run experiment=quickstart data.source=$name data.path=pairs.tsv dry_run=true",
    "step": "rl-rerank run experiment=quickstart_tokens +stages.synth.steps.$name={} dry_run=true",
    "loss": "rl-rerank run experiment=quickstart stages.sft.loss=$name dry_run=true",
    "check": "rl-rerank run experiment=quickstart +stages.look.kind=check"
    " +stages.look.checks.$name.stage=untrained dry_run=true",
    "stage": "rl-rerank run experiment=quickstart +stages.mine.kind=$name"
    " '+stages.mine.runs=[untrained,rl_eval]' dry_run=true",
    "engine": "rl-rerank rerank experiment=quickstart_tokens stage=untrained stages.untrained.engine.kind=$name"
    " '~stages.untrained.format_prompts' dry_run=true",
}
"""Kind of plugin -> a command that uses the package once it is installed; `$name` stands for its name."""
MODULE = {"module.txt": "$name.py"}
FILES: Mapping[str, Mapping[str, str]] = {"stage": {"spec.txt": "$name/spec.py", "run.txt": "$name/run.py"}}
"""Kind -> text of its folder -> file in the package; one module where nothing is said."""
TARGETS: Mapping[str, str] = {"stage": "$name.spec:${cls}Stage"}
"""Kind -> what the entry point names within the package; `$name:$cls` where nothing is said."""


def run(arguments: Sequence[str], config_dir: str | None) -> tuple[list[str], int]:
    """Lines to print, and the exit status."""
    if len(arguments) != 2 or arguments[0] not in USES:
        raise ValueError(
            f"new takes a kind of plugin and a name, such as `rl-rerank new reward first_relevant`; got "
            f"{' '.join(arguments) or 'nothing'!r}. The kinds: {', '.join(USES)}"
        )
    kind, name = arguments
    files = new(kind, name, Path())
    package = files[0].parent
    return [*map(str, files), f"next: pip install -e {package} && pytest {package}, then see {package}/README.md"], 0


def new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package into `folder`/`name`_`kind`.

    Args:
        kind: one of `USES`.

    Returns:
        The files.

    Raises:
        ValueError: if the name is not snake_case, belongs to an installed plugin of this kind, or the folder exists.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a {kind}'s name is in snake_case, such as my_{kind}; got {name!r}")
    if keyword.iskeyword(name):
        raise ValueError(f"{name!r} is a word of Python, so a module cannot be called so; choose another name")
    if name in registry.names(kind):
        raise ValueError(f"a {kind} {name!r} is installed already; choose another name")
    package = f"{name}_{kind}"
    root, texts = folder / package, SCAFFOLDS / kind
    if root.exists():
        raise ValueError(f"{root} is there already; it was left alone")
    names = {"kind": kind, "name": name, "package": package, "dashed": package.replace("_", "-")}
    names["cls"] = "".join(part.capitalize() for part in name.split("_"))
    names["target"] = Template(TARGETS.get(kind, "$name:$cls")).substitute(names)
    inside = {text: Template(path).substitute(names) for text, path in FILES.get(kind, MODULE).items()}
    names["files"] = " and ".join(f"`{package}/{path}`" for path in inside.values())
    names["use"] = Template(USES[kind]).substitute(names)
    files = {
        root / "pyproject.toml": (SCAFFOLDS / "pyproject.txt").read_text(encoding="utf-8"),
        root / "README.md": (SCAFFOLDS / "readme.txt").read_text(encoding="utf-8"),
        root / package / "__init__.py": '"""The $kind $name."""\n',
        **{root / package / path: (texts / text).read_text(encoding="utf-8") for text, path in inside.items()},
        root / "tests" / f"test_{name}.py": (texts / "test.txt").read_text(encoding="utf-8"),
    }
    for path, text in files.items():
        write_text(path, Template(text).substitute(names))
    return list(files)
