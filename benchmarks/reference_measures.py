# ruff: noqa: T201 (a script whose output is its table)
"""Check the evaluator against published outputs of trec_eval and other reference values, to the printed digits.

    python benchmarks/reference_measures.py FOLDER

FOLDER holds `_evalref/` (trec_eval's own test files, published runs, small cases, per-query values) and one folder a
collection with `qrels.tsv` and its runs. Prints one row a check and exits with 1 if any value differs.

One difference is known and exempt: trec_eval 10 rounds the recall points of iprec_at_recall to the nearest document,
trec_eval 9, which pytrec_eval wraps, rounds nearly always up.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from rl_rerank import trec
from rl_rerank.evaluation.measures import evaluate

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]
Values = Mapping[str, Mapping[str, float]]
"""qid (or `all`) -> trec_eval's name of a measure -> value."""

SIMPLE = {
    "map": "AP",
    "Rprec": "Rprec",
    "bpref": "Bpref",
    "recip_rank": "RR",
    "ndcg": "nDCG",
    "num_ret": "NumRet",
    "num_rel_ret": "NumRet",
    "num_rel": "NumRel",
    "num_q": "NumQ",
    "set_P": "SetP",
    "set_recall": "SetR",
    "set_map": "SetAP",
    "set_F": "SetF",
    "set_relative_P": "SetP",
    "infAP": "infAP",
}
CUT = {"P": "P", "recall": "R", "map_cut": "AP", "ndcg_cut": "nDCG", "success": "Success", "iprec_at_recall": "IPrec"}
NO_LEVEL = ("nDCG", "NumQ")


def ours(name: str, level: int) -> str | None:
    """Our notation for one of trec_eval's measures at a relevance level; None where ir_measures has none."""
    parameters = [f"rel={level}"] if level != 1 else []
    if name == "num_ret":
        return "NumRet"
    if name == "num_rel_ret":
        return f"NumRet(rel={level})"
    if name == "num_rel" and level != 1:
        return None
    if name == "set_relative_P":
        parameters.append("relative=True")
    base, cutoff = SIMPLE.get(name), ""
    if base is None and (found := re.fullmatch(r"(P|recall|map_cut|ndcg_cut|success|iprec_at_recall)_([\d.]+)", name)):
        base, cutoff = CUT[found[1]], "@" + found[2]
    if base is None:
        return None
    arguments = f"({', '.join(parameters)})" if parameters and base not in NO_LEVEL else ""
    return f"{base}{arguments}{cutoff}"


def read_output(path: Path) -> dict[str, dict[str, float]]:
    """trec_eval's printed output: qid -> measure -> value."""
    values: dict[str, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, qid, value = line.split("\t")
        if not name.startswith(("runid", "relstring")):
            values.setdefault(qid.strip(), {})[name.strip()] = float(value)
    return values


def check(title: str, run: Run, qrels: Qrels, expected: Values, *, level: int = 1, digits: int = 4) -> bool:
    """Compare every value that both sides know; print the row."""
    names = {n: o for values in expected.values() for n in values if (o := ours(n, level))}
    skipped = sorted({n for values in expected.values() for n in values if n not in names})
    result = evaluate(run, qrels, sorted(set(names.values())))
    wrong: list[str] = []
    exempt: list[str] = []
    compared = 0
    for qid, values in expected.items():
        for name, value in values.items():
            if name not in names:
                continue
            got = result.mean[names[name]] if qid == "all" else result.per_query[qid][names[name]]
            compared += 1
            if abs(got - value) > 0.5 * 10**-digits + 1e-9:
                difference = f"{name} {qid}: {value} expected, {got:.6f} got"
                (exempt if name.startswith("iprec_at_recall") else wrong).append(difference)
    return row(title, compared, wrong, exempt, skipped)


def row(title: str, compared: int, wrong: list[str], exempt: list[str], skipped: list[str]) -> bool:
    """Print one row of the table; True if nothing differs but what is exempt."""
    note = f"; {len(skipped)} not in ir_measures ({', '.join(skipped[:4])}, ...)" if skipped else ""
    note = (f"; {len(exempt)} known differences (iprec)" if exempt else "") + note
    print(f"{'ok' if not wrong else 'DIFFERS':8}{compared - len(wrong) - len(exempt):6} / {compared:<6} {title}{note}")
    for line in wrong[:12]:
        print(f"          {line}")
    return not wrong


def trec_eval_outputs(folder: Path) -> list[bool]:
    """trec_eval's own test outputs. Those without -c are of a run with every judged query, so the mean is the same."""
    checks: list[bool] = []
    for name, run, qrels, level in (
        ("out.test", "results.test", "qrels.test", 1),
        ("out.test.a", "results.test", "qrels.test", 1),
        ("out.test.aq", "results.test", "qrels.test", 1),
        ("out.test.aqc", "results.trunc", "qrels.test", 1),
        ("out.test.aql", "results.test", "qrels.rel_level", 2),
        ("out.test.meas_params", "results.test", "qrels.test", 1),
    ):
        expected = read_output(folder / name)
        loaded = trec.read_run(folder / run), trec.read_qrels(folder / qrels)
        checks.append(check(f"trec_eval {name}", *loaded, expected, level=level))
    return checks


def published_runs(folder: Path) -> list[bool]:
    """LLM reranking runs with the numbers that their authors published."""
    checks: list[bool] = []
    for entry in json.loads((folder / "_evalref/llm_runs/published.json").read_text(encoding="utf-8")):
        run = trec.read_run(folder / "_evalref/llm_runs" / entry["run"])
        qrels = trec.read_qrels(folder / entry["collection"] / "qrels.tsv")
        for published, levels in zip(entry["published"], entry["which_relevance_level"], strict=True):
            for level in (1, 2):
                # The published list does not say its level; the reference names the one that fits.
                expected = {n: v for n, v in published.items() if f"rel>={level}" in levels[n]}
                if expected:
                    title = f"published {entry['run'][:58]} rel={level}"
                    checks.append(check(title, run, qrels, {"all": expected}, level=level))
    return checks


def small_cases(folder: Path) -> list[bool]:
    """Ties, unjudged documents, negative grades, missing queries."""
    checks: list[bool] = []
    for case in json.loads((folder / "_evalref/mini_cases.json").read_text(encoding="utf-8")):
        for key, level in (("trec_eval", 1), ("trec_eval_l2", 2)):
            if key in case:
                checks.append(
                    check(
                        f"small case: {case['name']} rel={level}",
                        case["run"],
                        case["qrels"],
                        case[key],
                        level=level,
                        digits=6,
                    )
                )
    return checks


def per_query(folder: Path) -> list[bool]:
    """Per-query values of first-stage runs."""
    checks: list[bool] = []
    for path in sorted((folder / "_evalref").glob("perquery.*.json")):
        _, collection, run, _ = path.name.split(".")
        [run_path] = sorted((folder / collection).glob(f"run.{run}.trec*"))
        expected = json.loads(path.read_text(encoding="utf-8"))
        loaded = trec.read_run(run_path), trec.read_qrels(folder / collection / "qrels.tsv")
        checks.append(check(f"per query: {collection} {run}", *loaded, expected, digits=6))
    return checks


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1])
    checks = (
        trec_eval_outputs(folder / "_evalref/trec_eval")
        + published_runs(folder)
        + small_cases(folder)
        + per_query(folder)
    )
    print(f"{sum(checks)} of {len(checks)} checks agree")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
