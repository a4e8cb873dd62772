"""The data card of a synthesis: the data, their source, counts after every step, and cost. In Markdown as a dataset
card of the hub, and as a page with plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rl_rerank import __version__
from rl_rerank.config import Config, EngineConfig
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.protocol import template
from rl_rerank.io.files import write_text
from rl_rerank.io.markdown import code, plain
from rl_rerank.pages import figures
from rl_rerank.pages.cards import front_matter, model_name, source
from rl_rerank.pages.figures import Plot
from rl_rerank.pages.templates import environment
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.synthesis.corpus_stats import DOUBLINGS, TENTHS

if TYPE_CHECKING:
    from rl_rerank.stages.synth.spec import SynthStage

HERE = Path(__file__).resolve().parent
FILES = {
    "examples.jsonl": "ranking examples with texts, labels, teachers' answers and provenance; `data=jsonl` reads it",
    "examples.parquet": "the same as a table",
    "rows.jsonl": "prompts, by id, with answers: what an `sft` stage reads",
    "retriever.jsonl": "a query, a positive and hard negatives with scores, for training retrievers",
}
COLUMNS = {
    "qid": "the query's id",
    "paradigm": "how the prompt asks",
    "docids": "the ids of the documents that the prompt shows, in its order",
    "target": "the answer",
    "teacher": "what gave it",
}


@dataclasses.dataclass(frozen=True)
class StepRow:
    """One step of the recipe."""

    name: str
    plugin: str
    params: str
    came: int
    left: int
    counts: str


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a card, formatted for display."""

    title: str
    about: tuple[tuple[str, str], ...]
    stopped: str
    steps: tuple[StepRow, ...]
    paradigms: Mapping[str, Mapping[str, int]]
    agreement: Mapping[str, Any]
    few: str
    """What is said instead of the agreement of too few examples."""
    usage: Mapping[str, float]
    failures: Mapping[str, int]
    files: Mapping[str, str]
    columns: Mapping[str, str]
    descriptions: Mapping[str, str]
    warnings: Sequence[str]
    version: str = __version__


def write(config: Config, name: str, summary: Mapping[str, Any], folder: Path) -> None:
    """Write README.md and index.html.

    Args:
        summary: the stage's summary.json.
    """
    write_text(folder / "README.md", markdown(config, name, summary))
    write_text(folder / "index.html", html(config, name, summary))


def markdown(config: Config, name: str, summary: Mapping[str, Any]) -> str:
    """Render the card in the hub's Markdown."""
    stage = cast("SynthStage", config.stages[name])
    matter: dict[str, Any] = {
        **({"license": stage.licence} if stage.licence else {}),
        "task_categories": ["text-ranking"],
        "tags": ["rl-rerank", "reranker", "synthetic"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "rows.jsonl"}]}],
    }
    body = (
        environment(HERE, autoescape=False).get_template("card.md.j2").render(card=_card(config, name, stage, summary))
    )
    return front_matter(matter) + body


def html(config: Config, name: str, summary: Mapping[str, Any]) -> str:
    """Render the card as a separate page with plots."""
    stage = cast("SynthStage", config.stages[name])
    rendered = environment(HERE, autoescape=True).get_template("card.html.j2")
    return rendered.render(card=_card(config, name, stage, summary), plots=plots(summary))


def plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Plot the examples left after every step and their statistics, except for those with a single value."""
    found = summary["statistics"]
    drawn: list[tuple[str, str, list[str], list[int], str]] = []
    if steps := summary["steps"]:
        left = [next(iter(steps.values()))["in"], *(counts["out"] for counts in steps.values())]
        drawn.append(("steps", "examples after every step", ["in", *steps], left, ""))
    tenths = [f"{i / TENTHS:.1f}" for i in range(TENTHS)]
    agreement = "agreement of the gold order with the judgments"
    if not too_few(found["agreement"]["examples"]):
        drawn.append(("agreement", agreement, tenths, found["agreement"]["histogram"], "nDCG@10, from"))
    grades, sizes = found["grades"], found["candidates"]
    drawn.append(("grades", "judgments of the candidates", list(grades), list(grades.values()), "grade"))
    drawn.append(("sizes", "candidates of an example", list(sizes), list(sizes.values()), "candidates"))
    for what in ("query", "document", "answer"):
        counts = found[f"{what}_words"]
        there = [place for place, count in enumerate(counts) if count]
        shown = range(min(there, default=0), max(there, default=0) + 1)
        labels = [f"{2**place}" if place < DOUBLINGS - 1 else "more" for place in shown]
        drawn.append((what, f"words of a {what}", labels, [counts[place] for place in shown], "up to"))
    return [figures.columns(*plot) for plot in drawn if sum(count > 0 for count in plot[3]) > 1]


def _card(config: Config, name: str, stage: SynthStage, summary: Mapping[str, Any]) -> Card:
    return Card(
        title=f"{name if config.experiment in ('', 'default') else config.experiment}: data for training a reranker",
        about=tuple(_about(config, name, stage, summary)),
        stopped=summary["stopped"],
        steps=tuple(_steps(stage, summary["steps"])),
        paradigms=summary["paradigms"],
        agreement=summary["statistics"]["agreement"],
        few=too_few(summary["statistics"]["agreement"]["examples"], "example", "examples"),
        usage=summary.get("usage", {}),
        failures=summary["failures"],
        files=summary["files"],
        columns=COLUMNS,
        descriptions=FILES,
        warnings=summary["warnings"],
    )


def _about(config: Config, name: str, stage: SynthStage, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    entered = "its training queries" if stage.inputs == "queries" else "its passages"
    about = [
        (
            "Examples",
            f"{summary['examples']}, made by rl-rerank {__version__} (stage {code(name)}) on "
            f"{summary['finished'][:10]}",
        ),
        ("Data", f"{source(config)}, {entered}, fingerprint `{summary['data']}`"),
        ("Licence of the texts", plain(stage.licence) or "not stated; that of the data above"),
        ("Teacher", _teacher(config, stage)),
        ("Seed", str(summary["seed"])),
    ]
    about += [(f"Engine {code(key)}", _engine(config, engine)) for key, engine in stage.engines.items()]
    asked = {str(plugin.params["paradigm"]) for plugin in stage.steps.values() if "paradigm" in plugin.params}
    for paradigm in sorted({*stage.mixture, *asked}):
        about.append((f"Prompt of {code(paradigm)}", f"sha256 `{template(build_paradigm(config, paradigm))}`"))
    return about


def _teacher(config: Config, stage: SynthStage) -> str:
    if stage.teacher == "labels":
        return (
            f"an oracle over the data's judgments, with errors of {stage.noise:g} grades" if stage.noise else "labels"
        )
    return f"{stage.teacher} ({_engine(config, stage.engine or config.engine)})"


def _engine(config: Config, engine: EngineConfig) -> str:
    label = engine.settings().model_label
    return plain(label) if label else f"{code(model_name(config.model))} through {engine.kind}"


def _steps(stage: SynthStage, counts: Mapping[str, Mapping[str, int]]) -> list[StepRow]:
    found = []
    for name, plugin in stage.steps.items():
        told = dict(counts.get(name, {}))
        came, left = told.pop("in", 0), told.pop("out", 0)
        params = ", ".join(f"{key}={_short(value)}" for key, value in plugin.params.items())
        said = ", ".join(f"{key.replace('_', ' ')} {number}" for key, number in told.items())
        kind = Path(plugin.target).name if plugin.target else plugin.name or name
        found.append(StepRow(name, kind, params, came, left, said))
    return found


def _short(value: Any) -> str:
    """Format a parameter; a path as its last part, because a card is read elsewhere."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)
