# ruff: noqa: T201 (a script whose output is its table)
"""Run the experiments of published systems on two CPU cores, one after another, and write docs/systems.md.

    python benchmarks/systems.py RUNS [--only NAME ...] [SETTING=VALUE ...]

A run folder RUNS/NAME is continued where it is; what is finished is not run again. With --only the page keeps what the
other folders hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.io.files import read_jsonl, write_text

DOCS = Path(__file__).parent.parent / "docs"


@dataclass(frozen=True)
class System:
    """What cannot be read from a run."""

    name: str
    title: str
    claim: str
    """What its paper says, with its number."""
    stages: Sequence[str]
    """The rows of its evaluation that the page shows, beside the first stage."""
    variants: str
    open: str
    """What nobody could verify on two cores without its models and data."""


SYSTEMS = (
    System(
        "reasonrank",
        "ReasonRank",
        "A listwise reranker that reasons over sliding windows of 20, trained by SFT and then by GRPO with a reward "
        "that combines several views of an order: 35.7 nDCG@10 on BRIGHT with 7B, 38.0 with 32B",
        ("untrained", "sft_eval", "grpo_eval"),
        "`reasonrank_32b`: adapters in both stages, rates of the 32B model",
        "its teacher's reasoning, its 13.5k queries, the gain of reasoning; whether its overlap is rank-biased (paper) "
        "or average (code)",
    ),
    System(
        "grouprank",
        "GroupRank",
        "One answer scores a random group of documents, as flexible as pointwise reranking and as aware of other "
        "documents as listwise reranking: 34.3 nDCG@10 on BRIGHT with 7B",
        ("untrained", "sft_eval", "grpo_eval", "fused"),
        "none",
        "its two teachers, its 13.6k queries, and every detail of training, whose code was never released",
    ),
    System(
        "rank_r1",
        "Rank-R1",
        "GRPO alone, rewarded for naming the most relevant document of a set, teaches a setwise reranker to reason: "
        ".727 nDCG@10 on TREC DL 2019 with 7B",
        ("untrained", "sft_eval", "grpo_eval"),
        "`rank_r1_v02`: prompts of 2 to 10 documents, groups of 16, Qwen3-32B",
        "learning without a cold start: a model of 135M parameters never writes the tags, so no completion would be "
        "rewarded, and GRPO starts from SFT here",
    ),
    System(
        "erank",
        "ERank",
        "A pointwise reranker that reasons and answers with a grade, trained on the ranks of a query's documents by "
        "these grades: 38.7 nDCG@10 on BRIGHT with 4B, fused with BM25",
        ("untrained", "sft_eval", "grpo_eval", "fused"),
        "none",
        "its teacher, its 20,000 queries, the constants of its reward, which are reconstructed",
    ),
    System(
        "prorank",
        "ProRank",
        "Reinforcement learning teaches a small model two answers; their logits are then trained into a fine-grained "
        "score: 0.5B beats a fine-tuned 32B reranker on BEIR",
        ("untrained", "warmup_eval", "scores_eval"),
        "none",
        "its data, rates and losses, none of which the paper gives",
    ),
    System(
        "rankify",
        "Rankify",
        "One file format for retrieved passages, reranked passages and answers, with Top@k by the passages that hold "
        "an answer; 24 methods of reranking over 1,000 passages a question",
        ("untrained", "fused"),
        "none",
        "its retrievers, its generation and its pre-retrieved files, which are downloads",
    ),
    System(
        "screening",
        "Screening prioritisation",
        "A cross-encoder trained on the records of other reviews ranks all records of a review for its screeners "
        "better than earlier methods, where rankers without training do not beat BM25",
        ("untrained", "sft_eval", "fused"),
        "`data.fields=title` or `text`; `data.fold` for the other topics",
        "its BERT models and the abstracts of CLEF TAR, which are not published with its judgments",
    ),
    System(
        "prp",
        "Pairwise ranking prompting",
        "A 20B model that compares two documents at a time, in both orders, ranks as well as the largest from lists, "
        "whatever the initial order: .7242 nDCG@10 on TREC DL 2019 with all pairs, .7240 from the reversed order",
        ("untrained", "allpairs", "soft", "sliding", "student"),
        "all pairs, heapsort, sliding passes; hard and soft decisions; a pointwise student of the preferences",
        "its models, encoder-decoders of 3B and more; a model of 135M parameters answers by position, so that most "
        "comparisons are ties",
    ),
    System(
        "first",
        "FIRST",
        "The first identifier's logits alone order a window, if a ranking loss on them is trained beside the language "
        "model's: 54.3 nDCG@10 on BEIR with 7B, and an answer costs no decoding",
        ("untrained", "joint_eval", "rank_only_eval", "lm_only_eval"),
        "twins with one of the two losses",
        "its teacher, its 40,000 windows, the gain in time, its feedback to a retriever",
    ),
    System(
        "fullrank",
        "FullRank",
        "A model that learned from orders of whole lists ranks 100 documents in one prompt better than in sliding "
        "windows, and for half the tokens: .7255 nDCG@10 on TREC DL 2019 with 7B, .7034 in windows",
        ("untrained", "full_eval", "plain_eval", "windowed_eval", "top_eval"),
        "twins without weights of places and with windows; decoding of the first places alone",
        "its teacher, its 1,000 queries, the gain in time, lists of 100 documents",
    ),
    System(
        "curricula",
        "Training curricula",
        "Pairs that the first stage has right weigh more at first, which is worth up to 4% of MRR and 9% of P@1 to a "
        "BERT ranker; hard pairs first is the control",
        ("untrained", "none_eval", "reciprank_eval", "normscore_eval", "kdescore_eval", "anti_eval"),
        "five seeds, by the loop in its file",
        "its BERT and ConvKNRM models, its three collections, early stopping by MRR",
    ),
    System(
        "losses",
        "A Deep Look",
        "A survey: listwise losses rank at least as well as pairwise ones, these better than pointwise ones, whose "
        "scores are the best calibrated; BM25 as the only teacher can be surpassed by its student",
        ("untrained", *(f"{loss}_eval" for loss in ("bce", "ranknet", "softmax", "margin_mse"))),
        "three seeds, by the loop in its file",
        "the architectures that it compares, and its collections",
    ),
    System(
        "multistage",
        "BERT and beyond",
        "A survey whose pipeline scores BM25's documents one by one with an encoder (mono) and compares the best of "
        "them pairwise (duo): MRR@10 on MS MARCO rises from .187 to .38 and .39 with T5 base",
        ("mono_eval", "duo_eval", "duo_sum", "one_order"),
        "`aggregation` of its paradigms",
        "its encoders and MS MARCO; mono and duo start from MiniLM here",
    ),
    System(
        "ranklist",
        "RankList",
        "RankNet over lists: pairs of neighbours and of distant documents, a log-sum-exp of their losses, and skips "
        "that grow during training agree better with ordinal labels than pairs alone do",
        ("untrained", "neighbours_eval", "skips_eval", "growing_eval", "smooth_eval", "all_pairs_eval"),
        "five seeds, by the loop in its file",
        "its formulas, its data (speech and pictures) and its numbers; MiniLM's order takes the place of ordinal "
        "labels",
    ),
    System(
        "recgaze",
        "RecGaze",
        "Gaze, cursor and clicks of 87 people on 40 screens of carousels: what is examined depends on row and column, "
        "so that a click, and no click, mean different things at different places",
        ("untrained", "naive_eval", "clicks_ips_eval", "looks_eval", "looks_ips_eval", "full_eval"),
        "none",
        "its tables, which are a download; that examination depends on the place alone, which later work contradicts",
    ),
    System(
        "baidu",
        "Baidu Search",
        "Clicks calibrated by a few judgments pre-train a model, judgments anchor its scores, documents are summaries "
        "for the query, and a pyramid that encodes query and summary apart in its lower layers serves it",
        ("untrained", "pretrained_eval", "anchored_eval", "plain_eval", "head_eval", "pyramid_eval"),
        "none",
        "its logs, its encoders and its numbers; the paper's constants, which are from an account of it",
    ),
)


def run(system: System, folder: Path, settings: Sequence[str]) -> int:
    """Run the experiment to its end."""
    command = [sys.executable, "-m", "rl_rerank", "run", f"experiment={system.name}", "scale=cpu"]
    print(f"\n{system.title}: {' '.join(command[2:])}", flush=True)
    begin = time.monotonic()
    code = subprocess.run([*command, f"run_dir={folder}", *settings], check=False).returncode
    print(f"{system.title}: exit status {code} after {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    return code


def page(runs: Path, settings: Sequence[str]) -> str:
    """The text of docs/systems.md."""
    folders = {system: runs / system.name for system in SYSTEMS}
    done = {system: folder for system, folder in folders.items() if (folder / "mechanism/checks.json").exists()}
    lines = [
        "# Published systems",
        "",
        "Each system is one experiment. `rl-rerank run experiment=NAME dry_run=true` "
        "prints the plan at the scale of its paper;",
        "`scale=cpu` runs it with SmolLM2-135M on two CPU cores. "
        "The latter shows that every stage and every mechanism behaves as",
        "the paper describes. It does not reproduce the paper's results, "
        "which need its models, data and hardware. The source of",
        "each value stands beside it in `conf/experiment/NAME.yaml`.",
        "",
        f"All but the section `How they train` is written by "
        f"`python benchmarks/systems.py RUNS{''.join(f' {s}' for s in settings)}`.",
        "",
        "| system | claim | recipe | variants | checks passed | minutes | not verified here |",
        "| --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for system, folder in folders.items():
        measured = ("not run", "") if system not in done else (passed(folder), f"{minutes(folder):.1f}")
        recipe = f"`experiment={system.name}`"
        cells = [system.title, system.claim, recipe, system.variants, *measured, system.open]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *kept()]
    for system, folder in done.items():
        lines += ["", f"## {system.title}", "", f"`rl-rerank run experiment={system.name} scale=cpu`", ""]
        lines += [*results(system, json.loads((folder / "evaluate/metrics.json").read_text())), *learned(system), ""]
        lines.append((folder / "mechanism/checks.md").read_text().rstrip())
    return "\n".join([*lines, ""])


def kept() -> list[str]:
    """The lines of the page's section that is written by hand."""
    lines = (DOCS / "systems.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("## How they train")
    end = next((number for number in range(first + 1, len(lines)) if lines[number].startswith("## ")), len(lines))
    return "\n".join(lines[first:end]).rstrip().split("\n")


def passed(folder: Path) -> str:
    """How many of the mechanism's checks."""
    found = json.loads((folder / "mechanism/checks.json").read_text())
    return f"{sum(row['passed'] for row in found)} of {len(found)}"


def minutes(folder: Path) -> float:
    """That the stages took, as the ledger has it."""
    return sum({row["stage"]: row["seconds"] for row in read_jsonl(folder / "ledger.jsonl")}.values()) / 60


def results(system: System, metrics: Mapping[str, Any]) -> list[str]:
    """The evaluation's rows, then its comparisons; without values if there are too few queries."""
    count = len(next(iter(metrics["per_query"].values())))
    if few := too_few(count):
        return [f"Held-out queries of the data at hand: {few}."]
    measure = metrics["measures"][0]
    rows = {row["run"]: row for row in metrics["rows"]}
    shown = [rows[name] for name in ("first_stage", *system.stages) if name in rows]
    values = ", ".join(f"{row['label']} {row['mean'][measure]:.3f}" for row in shown)
    lines = [f"{measure} on {count} held-out queries of the data at hand: {values}."]
    for row in metrics["comparisons"]:
        low, high = row["interval"]
        lines.append(
            f"{rows[row['system']]['label']} against {rows[row['baseline']]['label']}: {row['difference']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], p = {row['p_value']:.3g}."
        )
    return lines


def learned(system: System) -> list[str]:
    """What its path teaches where it was trained for longer; empty where it was not."""
    record = DOCS / f"experiments/systems/{system.name}.jsonl"
    if not record.exists():
        return []
    values: dict[str, dict[str, float]] = {}
    for row in read_jsonl(record):
        values.setdefault(row["system"], {})[row["qid"]] = row["nDCG@10"]
    trained = next(name for name in reversed(system.stages) if name in values and name != "fused")
    queries = list(values["untrained"])
    test = paired_test(*([values[name][qid] for qid in queries] for name in (trained, "untrained")), seed=1)
    means = ", ".join(
        f"{name} {statistics.fmean(values[name].values()):.3f}" for name in ("first_stage", "untrained", trained)
    )
    p_value = "p < .001" if test.p_value < 0.001 else f"p = {test.p_value:.2g}"
    return [
        f"Trained on wikiqa, nDCG@10 on {len(queries)} of its test queries: {means}; {trained} against untrained "
        f"{test.difference:+.3f}, {p_value}. Commands and earlier runs are in docs/experiments.md; every query's "
        f"values in docs/{record.relative_to(DOCS)}."
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="+", choices=[system.name for system in SYSTEMS])
    parser.add_argument("settings", nargs="*", help="of every run, such as data=collection data.path=FOLDER")
    given = parser.parse_args()
    codes = [
        run(system, given.runs / system.name, given.settings)
        for system in SYSTEMS
        if given.only is None or system.name in given.only
    ]
    write_text(DOCS / "systems.md", page(given.runs, given.settings))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
