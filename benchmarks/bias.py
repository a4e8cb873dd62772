# ruff: noqa: T201 (a script whose output is its table)
"""Calibration and position bias before and after training, from a run of `experiment=bias`: two figures and a table.

    python benchmarks/bias.py RUN_DIR [FOLDER_OF_THE_FIGURES]

Calibration is that of log-odds between yes and no, as probabilities, on judged candidates. Position bias is how often a
relevant document, shown at a random place of a list, is ranked among the first three; agreement is Kendall's tau of a
query's rankings under three orders.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from rl_rerank.data import Store
from rl_rerank.evaluation.functions.calibration import Bin, expected_calibration_error, reliability_curve
from rl_rerank.evaluation.functions.positions import PositionHits, agreement, hits_by_position
from rl_rerank.io.files import read_jsonl

SYSTEMS = {"untrained": "untrained", "trained": "SFT"}
COLOURS = {"untrained": "#b04a12", "trained": "#1a659f"}
FIGURES = Path(__file__).parent.parent / "docs/img"
TOP = 3


def calibration(run: Path, store: Store) -> list[Bin]:
    """The reliability curve of a pointwise stage."""
    scores, relevant = [], []
    judged = store.qrels("test")
    for row in read_jsonl(run / "rankings.jsonl"):
        for docid, log_odds in row["raw_scores"].items():
            if docid in judged.get(row["qid"], {}):
                scores.append(1 / (1 + math.exp(-log_odds)))
                relevant.append(judged[row["qid"]][docid] >= 1)
    return reliability_curve(scores, relevant)


def lists(run: Path) -> list[tuple[str, Sequence[str], Sequence[str]]]:
    """(qid, docids as shown, docids as ranked) of every prompt of a first-token stage."""
    found = []
    for row in read_jsonl(run / "rollouts.jsonl"):
        letters = sorted(row["continuations"])[: len(row["docids"])]
        scores = [row["continuations"][letter] for letter in letters]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        found.append((row["qid"], row["docids"], [row["docids"][i] for i in order]))
    return found


def mean_agreement(rankings: Sequence[tuple[str, Sequence[str], Sequence[str]]]) -> float:
    """Mean over queries of Kendall's tau between their rankings."""
    by_query: dict[str, list[Sequence[str]]] = {}
    for qid, _, ranked in rankings:
        by_query.setdefault(qid, []).append(ranked)
    return statistics.fmean(agreement(found) for found in by_query.values() if len(found[0]) > 1)


def draw(
    path: Path, lines: dict[str, tuple[list[float], list[float]]], axes: dict[str, Any], *, diagonal: bool
) -> None:
    """One figure: a line with points for each system."""
    figure, area = plt.subplots(figsize=(5, 3.6), layout="constrained")
    if diagonal:
        area.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--", label="calibrated")
    for name, (x, y) in lines.items():
        area.plot(x, y, color=COLOURS[name], marker="o", markersize=5, linewidth=1.8, label=SYSTEMS[name])
    area.set(**axes)
    area.spines[["top", "right"]].set_visible(False)
    area.grid(alpha=0.25)
    area.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    run = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else FIGURES
    store = Store(run / "data")
    curves = {name: calibration(run / f"{name}_pointwise", store) for name in SYSTEMS}
    rankings = {name: lists(run / f"{name}_list") for name in SYSTEMS}
    hits: dict[str, list[PositionHits]] = {
        name: hits_by_position(found, store.qrels("test"), k=TOP) for name, found in rankings.items()
    }
    draw(
        folder / "reliability.png",
        {name: ([b.mean_score for b in curve], [b.share_relevant for b in curve]) for name, curve in curves.items()},
        {"xlabel": "probability of yes", "ylabel": "share of relevant documents", "xlim": (0, 1), "ylim": (0, 1)},
        diagonal=True,
    )
    draw(
        folder / "position_bias.png",
        {name: ([h.position for h in found], [h.hit_rate for h in found]) for name, found in hits.items()},
        {
            "xlabel": "place at which it was shown",
            "ylabel": f"relevant documents ranked in the top {TOP}",
            "ylim": (0, 1),
        },
        diagonal=False,
    )
    print(
        f"| system | calibration error | top {TOP} if shown first | if shown last | largest less smallest "
        "| agreement of three orders |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, label in SYSTEMS.items():
        rates = [h.hit_rate for h in hits[name]]
        cells = [expected_calibration_error(curves[name]), rates[0], rates[-1], max(rates) - min(rates)]
        cells.append(mean_agreement(rankings[name]))
        print(f"| {label} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    documents = sum(b.num_documents for b in curves["trained"])
    print(f"\n{documents} judged documents; relevant ones by place: {[h.num_documents for h in hits['trained']]}")


if __name__ == "__main__":
    main()
