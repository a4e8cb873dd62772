# ruff: noqa: T201 (a script whose output is its table)
"""Check the evaluator against published outputs of trec_eval and other reference values, to the printed digits.

    python benchmarks/reference_measures.py --reference DIR [--write]

DIR holds `_evalref/` (trec_eval's own test files, published runs, small cases, per-query values) and one folder a
collection with `qrels.tsv` and its runs. Prints one row a case and exits with 1 if any value differs, or if the tables
in docs/evaluation.md are not those of this check; with --write they are written there first.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rl_rerank.evaluation.measures import evaluate
from rl_rerank.io import trec

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]
Values = Mapping[str, Mapping[str, float]]
"""qid (or `all`) -> name of a measure -> value."""

DOCS = Path(__file__).parent.parent / "docs/evaluation.md"
BEGIN, END = "<!-- reference cases: begin -->", "<!-- reference cases: end -->"

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
CUT = {
    "P": "P",
    "recall": "R",
    "map_cut": "AP",
    "ndcg_cut": "nDCG",
    "success": "Success",
    "iprec_at_recall": "IPrec",
}
NO_LEVEL = ("nDCG", "NumQ")
EXEMPT = "iprec_at_recall"
REASONS = {
    "iprec_at_recall": "trec_eval 9, which pytrec_eval wraps, rounds recall points another way than trec_eval 10",
    "11pt_avg": "the mean of iprec_at_recall, not in ir_measures",
    "gm_": "a geometric mean over queries, not in ir_measures",
    "num_rel": "pytrec_eval counts at level 1 only",
    "Rprec_mult": "not in ir_measures",
    "relative_P": "not in ir_measures",
    "utility": "not in ir_measures",
    "rbp_resid": "not in ir_measures",
    "rbp": "at level 2 trec_eval 10 weights grades, while RBP with `rel` is binary",
    "unj": "the complement of Judged@k, except that a query without documents counts 0 in both",
}
OTHER_FILES = {
    "out.test.aqZ": "z-scores of values against means and deviations of other systems",
    "out.test.prefs` and `out.test.qrels_prefs": "preferences instead of grades",
    "out.test.qrels_jg": "averages over several assessors' qrels",
}
"""trec_eval's test outputs without a single value that we offer."""


@dataclass(frozen=True)
class Case:
    """Reference values of one run."""

    title: str
    run: Run
    qrels: Qrels
    expected: Values
    """Measures in the source's names."""
    names: Mapping[str, str]
    """The source's name of a measure -> ours, for those that we offer."""
    digits: int = 4

    def compared(self) -> Iterator[tuple[str, str, float, float]]:
        """qid (or `all`), the source's name, its value, our value."""
        result = evaluate(self.run, self.qrels, sorted(set(self.names.values())))
        for qid, values in self.expected.items():
            for name in (n for n in values if n in self.names):
                ours = result.mean if qid == "all" else result.per_query[qid]
                yield qid, name, values[name], ours[self.names[name]]

    def left_out(self) -> set[str]:
        """Names of measures that we do not offer."""
        return {name for values in self.expected.values() for name in values} - set(self.names)


@dataclass
class Outcome:
    """What came of one case."""

    case: Case
    agree: list[tuple[str, str, float, float]] = field(default_factory=list)
    exempt: list[tuple[str, str, float, float]] = field(default_factory=list)
    wrong: list[tuple[str, str, float, float]] = field(default_factory=list)


def trec_names(expected: Values, level: int) -> dict[str, str]:
    """trec_eval's names -> our notation at a relevance level, for those that ir_measures has."""
    names = {name for values in expected.values() for name in values}
    return {name: found for name in sorted(names) if (found := our_name(name, level))}


def our_name(name: str, level: int) -> str | None:
    """Our notation for one of trec_eval's measures at a relevance level; None where there is none."""
    parameters = [f"rel={level}"] if level != 1 else []
    if name == "num_ret":
        return "NumRet"
    if name == "num_rel_ret":
        return f"NumRet(rel={level})"
    if name == "num_rel" and level != 1:
        return None
    if name.startswith("ndcg_") and "=" in name:
        return f"nDCG(gains={{{name.removeprefix('ndcg_').replace('=', ':')}}})"
    if name == "rbp":
        return "RBP(p=0.9,rel=1)" if level == 1 else None
    if name == "set_relative_P":
        parameters.append("relative=True")
    base, cutoff = SIMPLE.get(name), ""
    if base is None and (found := re.fullmatch(rf"({'|'.join(CUT)})_([\d.]+)", name)):
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


def trec_eval_outputs(folder: Path) -> Iterator[Case]:
    """trec_eval's own test outputs. Those without -c are of a run with every judged query, so the mean is the same."""
    for name, run_name, qrels, level, depth in (
        ("out.test", "results.test", "qrels.test", 1, None),
        ("out.test.a", "results.test", "qrels.test", 1, None),
        ("out.test.aq", "results.test", "qrels.test.with-comments", 1, None),
        ("out.test.aqc", "results.trunc", "qrels.test", 1, None),
        ("out.test.aqcM", "results.trunc", "qrels.test", 1, 100),
        ("out.test.aql", "results.test", "qrels.rel_level", 2, None),
        ("out.test.meas_params", "results.test", "qrels.test", 1, None),
    ):
        expected = read_output(folder / name)
        run = trec.read_run(folder / run_name)
        if depth is not None:
            run = {qid: {d: scores[d] for d in trec.trec_order(scores)[:depth]} for qid, scores in run.items()}
        yield Case(f"trec_eval {name}", run, trec.read_qrels(folder / qrels), expected, trec_names(expected, level))


def published_runs(folder: Path) -> Iterator[Case]:
    """LLM reranking runs with the numbers that their authors published."""
    for entry in json.loads((folder / "_evalref/llm_runs/published.json").read_text(encoding="utf-8")):
        run = trec.read_run(folder / "_evalref/llm_runs" / entry["run"])
        qrels = trec.read_qrels(folder / entry["collection"] / "qrels.tsv")
        found = {
            (name, level): value
            for published, levels in zip(entry["published"], entry["which_relevance_level"], strict=True)
            for name, value in published.items()
            for level in (1, 2)
            # The published list does not say its level; the reference names the one that fits.
            if f"rel>={level}" in levels[name]
        }
        expected = {f"{name} -l {level}": value for (name, level), value in found.items()}
        names = {f"{name} -l {level}": our for name, level in found if (our := our_name(name, level))}
        yield Case(f"LLM run {entry['run'].removesuffix('.trec.gz')}", run, qrels, {"all": expected}, names)


def small_cases(folder: Path) -> Iterator[Case]:
    """Ties, unjudged documents, negative grades, missing queries, exponential gains."""
    for case in json.loads((folder / "_evalref/mini_cases.json").read_text(encoding="utf-8")):
        title = f"small case: {case['name']}"
        for key, level in (("trec_eval", 1), ("trec_eval_l2", 2)):
            if key in case:
                names = trec_names(case[key], level)
                yield Case(f"{title}, rel {level}", case["run"], case["qrels"], case[key], names, digits=6)
        for key in (key for key in case if key.startswith("gdeval")):
            names = {name: re.sub("^nDCG", "nDCG(dcg='exp-log2')", name) for name in case[key]}
            expected = by_qid(case[key])
            expected["all"] = expected.pop("mean")
            yield Case(f"{title}, gdeval", case["run"], case["qrels"], expected, names)


def by_qid(values: Values) -> dict[str, dict[str, float]]:
    """measure -> qid -> value the other way round."""
    qids = dict.fromkeys(qid for of_name in values.values() for qid in of_name)
    return {qid: {name: of_name[qid] for name, of_name in values.items()} for qid in qids}


def per_query(folder: Path) -> Iterator[Case]:
    """Per-query values of first-stage runs."""
    for path in sorted((folder / "_evalref").glob("perquery.*.json")):
        _, collection, name, _ = path.name.split(".")
        [run_path] = sorted((folder / collection).glob(f"run.{name}.trec*"))
        expected = json.loads(path.read_text(encoding="utf-8"))
        qrels = trec.read_qrels(folder / collection / "qrels.tsv")
        title = f"every query: {collection} {name}"
        yield Case(title, trec.read_run(run_path), qrels, expected, trec_names(expected, 1), digits=6)


def user_models(folder: Path) -> Iterator[Case]:
    """Values of cwl-eval and of Compatibility, from the tests of ir_measures."""
    reference = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    for source in ("cwl", "compat"):
        values = reference[source]
        names = {name: f"Compat({name})" if source == "compat" else name for name in values}
        names = {name: "RBP(p=0.9,rel=1)" if name == "RBP p=0.9" else ours for name, ours in names.items()}
        run, qrels = trec.read_run(folder / f"{source}.run"), trec.read_qrels(folder / f"{source}.qrels")
        yield Case(f"ir_measures: {source}", run, qrels, by_qid(values), names)


def screening(folder: Path) -> Iterator[Case]:
    """Means over 30 topics of CLEF TAR 2017 from its results file, which has three digits.

    Its tool takes documents in the order of the file, so that scores are made of the place in it.
    """
    expected = {"last_rel": 1873.533, "wss_100": 0.110, "wss_95": 0.129, "ap": 0.120}
    names = {"last_rel": "LastRel", "wss_100": "WSS@100", "wss_95": "WSS@95", "ap": "AP"}
    scored = trec.read_run(folder / "QUT.pico_es.run.gz")
    run = {qid: {docid: -float(place) for place, docid in enumerate(scores)} for qid, scores in scored.items()}
    qrels = trec.read_qrels(folder / "qrel_abs_test.gz")
    yield Case("CLEF TAR 2017, QUT", run, qrels, {"all": expected}, names, digits=3)
    # The results file rounds norm_area on every topic, so that its mean is .619 for .6195.
    yield Case("CLEF TAR 2017, QUT, norm_area", run, qrels, {"all": {"norm_area": 0.62}}, {"norm_area": "NormArea"}, 2)


def full_ranking(folder: Path) -> Iterator[Case]:
    """Figures that FullRank's authors log for their run, and the same with exponential gains."""
    qrels = trec.read_qrels(folder / "trec-dl19/qrels.tsv")
    for name, expected in (
        ("RankMistral100", {"nDCG@1": 0.7287, "nDCG@5": 0.7419, "nDCG@10": 0.7255, "nDCG(dcg='exp-log2')@10": 0.6515}),
        ("bm25", {"nDCG@10": 0.5058, "nDCG(dcg='exp-log2')@10": 0.4364}),
    ):
        run = trec.read_run(folder / f"_evalref/fullrank/{name}.dl19.trec.gz")
        yield Case(f"FullRank {name} dl19", run, qrels, {"all": expected}, {n: n for n in expected})


def check(case: Case) -> Outcome:
    """Compare every value that both sides know."""
    outcome = Outcome(case)
    if case.names:
        for row in case.compared():
            _, name, expected, got = row
            agrees = abs(got - expected) <= 0.5 * 10**-case.digits + 1e-9
            (outcome.agree if agrees else outcome.exempt if name.startswith(EXEMPT) else outcome.wrong).append(row)
    return outcome


def report(outcome: Outcome) -> None:
    """Print the row of one case."""
    compared = len(outcome.agree) + len(outcome.exempt) + len(outcome.wrong)
    notes = [f"{len(outcome.exempt)} known differences"] if outcome.exempt else []
    notes += [f"{len(outcome.case.left_out())} measures not offered"] if outcome.case.left_out() else []
    verdict = "DIFFERS" if outcome.wrong else "ok" if compared else "-"
    print("; ".join([f"{verdict:8}{len(outcome.agree):6} / {compared:<6} {outcome.case.title}", *notes]))
    for qid, name, expected, got in outcome.wrong[:12]:
        print(f"          {name} {qid}: {expected} expected, {got:.6f} got")


def tables(outcomes: list[Outcome]) -> str:
    """The generated part of docs/evaluation.md."""
    lines = ["| case | values | agree | differ, exempt | measures not offered |", "| --- | ---: | ---: | ---: | ---: |"]
    for o in outcomes:
        compared = len(o.agree) + len(o.exempt) + len(o.wrong)
        missing = len(o.case.left_out())
        lines.append(f"| {o.case.title} | {compared} | {len(o.agree)} | {len(o.exempt)} | {missing or ''} |")
    lines += ["", "What is exempt or not offered, and why:", ""]
    lines += [f"- `{name}`: {reason}." for name, reason in exceptions(outcomes)]
    lines += ["", "<details><summary>Every mean, and the values of small cases</summary>", ""]
    lines += ["| case | measure | query | reference | ours |", "| --- | --- | --- | ---: | ---: |"]
    for o in outcomes:
        has_means = any(qid == "all" for qid in o.case.expected)
        for qid, name, expected, got in o.agree + o.exempt:
            if qid == "all" or (not has_means and len(o.case.expected) < 10):
                note = " (exempt)" if (qid, name, expected, got) in o.exempt else ""
                numbers = f"{expected:.{o.case.digits}f} | {got:.{o.case.digits}f}{note}"
                lines.append(f"| {o.case.title} | `{o.case.names[name]}` | {qid} | {numbers} |")
    return "\n".join([*lines, "", "</details>"])


def exceptions(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    """What is not compared or may differ, with the reason."""
    left_out = sorted({name for o in outcomes for name in o.case.left_out()})
    found: dict[str, list[str]] = {}
    for name in [EXEMPT, *left_out]:
        reason = next((text for start, text in REASONS.items() if name.startswith(start)), "not in ir_measures")
        family = re.sub(r"_[-\d.,]+$", "", name)
        if family not in found.setdefault(reason, []):
            found[reason].append(family)
    return [*(("`, `".join(families), reason) for reason, families in found.items()), *OTHER_FILES.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the evaluator against reference values.")
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/evaluation.md")
    arguments = parser.parse_args()
    folder: Path = arguments.reference
    cases = [
        *trec_eval_outputs(folder / "_evalref/trec_eval"),
        *small_cases(folder),
        *user_models(folder / "_evalref/ir_measures"),
        *per_query(folder),
        *published_runs(folder),
        *screening(folder / "_evalref/clef_tar"),
        *full_ranking(folder),
    ]
    outcomes = [check(case) for case in cases]
    for outcome in outcomes:
        report(outcome)
    before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
    written, after = rest.split(END)
    generated = f"\n\n{tables(outcomes)}\n\n"
    if arguments.write:
        DOCS.write_text(before + BEGIN + generated + END + after, encoding="utf-8")
    is_current = arguments.write or written == generated
    agreeing = sum(not outcome.wrong for outcome in outcomes)
    print(f"{agreeing} of {len(outcomes)} cases agree; docs/evaluation.md is {'' if is_current else 'NOT '}current")
    return 0 if agreeing == len(outcomes) and is_current else 1


if __name__ == "__main__":
    sys.exit(main())
