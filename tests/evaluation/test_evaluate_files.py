"""`evaluate run=RUN qrels=QRELS`: one run file, without torch."""

import json
import os
import subprocess
import sys

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import EvaluateFiles
from rl_rerank.stages.evaluate.files import evaluate_files

RUN = "1 Q0 a 1 2.0 tag\n1 Q0 b 2 1.0 tag\n9 Q0 a 1 2.0 tag\n"
QRELS = "1 0 b 1\n2 0 a 1\n"
PROGRAM = """
import sys
import rl_rerank.stages.report.run
from rl_rerank.config import EvaluateFiles
from rl_rerank.stages.evaluate.files import evaluate_files
print(evaluate_files(EvaluateFiles(run=sys.argv[1], qrels=sys.argv[2], measures=["RR@10"]))["mean"]["RR@10"])
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "qrels.tsv").write_text(QRELS)
    return {"run": str(tmp_path / "run.trec"), "qrels": str(tmp_path / "qrels.tsv")}


def test_the_result_holds_provider_means_queries_and_what_is_missing(files):
    result = evaluate_files(EvaluateFiles(**files, measures=["RR@10", "P(rel=1)@2"]))
    # Query 1: b at rank 2. Query 2 is not in the run.
    assert result["mean"] == {"RR@10": 0.25, "P(rel=1)@2": 0.25}
    assert result["per_query"] == {"1": {"RR@10": 0.5, "P(rel=1)@2": 0.5}, "2": {"RR@10": 0.0, "P(rel=1)@2": 0.0}}
    assert result["missing"] == ["2"]
    # Two queries, .5 and 0: the interval reaches from one to the other.
    assert result["interval"] == {"RR@10": [0.0, 0.5], "P(rel=1)@2": [0.0, 0.5]}
    assert set(result) == {"provider", "mean", "interval", "per_query", "missing"}


def test_the_output_file_holds_the_same(files, tmp_path):
    output = tmp_path / "new" / "result.json"
    result = evaluate_files(EvaluateFiles(**files, output=str(output)))
    assert json.loads(output.read_text()) == result


@pytest.mark.parametrize("field", ["run", "qrels"])
def test_a_missing_file_is_named(files, field):
    files[field] += ".missing"
    with pytest.raises(FileNotFoundError, match=rf"{field}='.*\.missing': there is no such file"):
        evaluate_files(EvaluateFiles(**files))


def test_a_broken_line_is_named(files, tmp_path):
    (tmp_path / "run.trec").write_text("1 Q0 a 1 2.0 tag\n1 Q0 b 2 high tag\n")
    with pytest.raises(ValueError, match=r"run\.trec:2: "):
        evaluate_files(EvaluateFiles(**files))


def test_nothing_is_written_where_a_measure_is_wrong(files, tmp_path):
    with pytest.raises(ValueError, match="Examples: nDCG@10"):
        evaluate_files(EvaluateFiles(**files, measures=["best"], output=str(tmp_path / "result.json")))
    assert not (tmp_path / "result.json").exists()


@pytest.mark.process
def test_it_runs_where_torch_and_transformers_cannot_be_imported(files, tmp_path):
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, files["run"], files["qrels"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.25"


def test_ties_are_broken_as_asked(tmp_path):
    (tmp_path / "run.trec").write_text("1 Q0 a 1 1.0 tag\n1 Q0 b 2 1.0 tag\n")
    (tmp_path / "qrels.tsv").write_text("1 0 a 1\n")
    files = {"run": str(tmp_path / "run.trec"), "qrels": str(tmp_path / "qrels.tsv"), "measures": ["RR"]}
    assert evaluate_files(EvaluateFiles(**files))["mean"] == {"RR": 0.5}
    assert evaluate_files(EvaluateFiles(**files, ties="file"))["mean"] == {"RR": 1.0}


@pytest.fixture
def two_runs(tmp_path):
    """Eight queries: a puts the relevant document first in all of them, b in one."""
    for name, firsts in {"a": range(8), "b": [0]}.items():
        rows = [f"{q} Q0 {d} {r} {2 - r} x\n" for q in range(8) for r, d in enumerate("rn" if q in firsts else "nr")]
        (tmp_path / f"{name}.trec").write_text("".join(rows))
    (tmp_path / "qrels").write_text("".join(f"{q} 0 r 1\n" for q in range(8)))
    return [str(tmp_path / f"{name}.trec") for name in "ba"], str(tmp_path / "qrels")


def test_run_files_are_tested_against_the_first(two_runs):
    runs, qrels = two_runs
    values = evaluate_files(EvaluateFiles(runs=runs, qrels=qrels, measures=["RR", "AP"]))
    assert [values["runs"][run]["mean"]["RR"] for run in runs] == [(1 + 7 / 2) / 8, 1.0]
    [test] = values["comparisons"]
    assert (test["system"], test["baseline"], test["measure"]) == (runs[1], runs[0], "RR")
    assert test["difference"] == 7 * 0.5 / 8
    # Of the 2^8 patterns of signs, those of the query without a difference do not matter: 2 of 2^7 are as extreme.
    assert test["p_value"] == test["p_value_holm"] == 2 / 2**7


def test_the_command_says_which_run_is_better(two_runs, tmp_path, capsys):
    runs, qrels = two_runs
    output = f"output={tmp_path / 'out.json'}"
    assert main(["evaluate", f"runs=[{','.join(runs)}]", f"qrels={qrels}", "measures=[RR]", output]) == 0
    shown = capsys.readouterr().out
    assert f"{runs[0]}\tRR\t0.5625\n{runs[1]}\tRR\t1.0000\n" in shown
    assert f"{runs[1]} is better than {runs[0]}: +0.4375 RR, 95% interval" in shown and "p = 0.0156" in shown
    assert main(["evaluate", f"runs=[{runs[0]},{runs[0]}]", f"qrels={qrels}"]) == 2
    assert "twice; nothing is tested against itself" in capsys.readouterr().err
    assert main(["evaluate", f"runs=[{runs[0]}]", f"qrels={qrels}"]) == 2
    assert "runs names at least two run files" in capsys.readouterr().err
    assert main(["evaluate", f"qrels={qrels}"]) == 2
    assert "run is required; give run=FILE, or 'runs=[FILE,FILE]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\n1\tb\t1\n2\ta\t1\n",
        "query-id\tcorpus-id\tscore\n1\tb\t1.0\n2\ta\t1.0\n",
        "1\tb\t1\n2\ta\t1\n",
        "1\t0\tb\t1\n2\t0\ta\t1\n",
        "\n# judged by hand\n1 0 b 1.0\n2 0 a 1\n",
    ],
)
def test_judgments_of_every_usual_form_are_read(files, tmp_path, text):
    (tmp_path / "qrels.tsv").write_text(text)
    assert evaluate_files(EvaluateFiles(**files, measures=["RR"]))["mean"] == {"RR": 0.25}


def test_a_run_without_one_judged_document_is_named(files, caplog):
    with open(files["run"], "w") as run:
        run.write("1 Q0 doc-b 1 2.0 tag\n2 Q0 doc-a 1 1.0 tag\n")
    assert evaluate_files(EvaluateFiles(**files))["mean"] == {"nDCG@10": 0.0}
    assert "no document of the 2 queries that it shares with the judgments is judged" in caplog.text
    assert "query 1 ranks 'doc-b', and its judgments are about 'b'" in caplog.text
