"""`rewards replay` on stored completions."""

import json

import pytest

from rl_rerank.cli.main import main

EXAMPLE = {
    "qid": "q1",
    "query": "a question",
    "candidates": [{"docid": d, "text": f"text {d}"} for d in "abc"],
    "qrels": {"b": 1},
    "order": ["b", "a", "c"],
    "scores": {"a": 1, "b": 9, "c": 0},
}
ROWS = [
    {"qid": "q1", "docids": ["a", "b", "c"], "completion": "[2] > [1] > [3]", "step": 1},
    {"qid": "q1", "docids": ["a", "b", "c"], "text": "[1] > [2] > [3]", "step": 1},
    {"qid": "q1", "docids": ["c", "b"], "completion": "[1] > [1]", "step": 2},
]


@pytest.fixture
def files(tmp_path):
    def write(rows=ROWS, examples=(EXAMPLE,)):
        for name, values in (("completions", rows), ("examples", examples)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
        return [f"{name}={tmp_path / name}.jsonl" for name in ("completions", "examples")]

    return write


def replayed(capsys):
    shown = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in shown if line.startswith("{")], shown


def test_every_completion_gets_its_terms_and_their_sum(files, capsys):
    arguments = ["reward=[ndcg,multiview,format]", "rewards.ndcg.weight=2", "paradigm=listwise"]
    assert main(["rewards", "replay", *files(), *arguments]) == 0
    rows, shown = replayed(capsys)
    assert [row["status"] for row in rows] == ["ok", "ok", "ids"]
    assert rows[0]["rewards"] == pytest.approx({"ndcg": 1.0, "multiview": 1.3, "format": 0.0})
    # nDCG 1/log2(3); overlaps of a b c with b a c: 0, 1, 1, mean 2/3
    assert rows[1]["parts"]["multiview/ndcg"] == pytest.approx(0.63093, abs=1e-5)
    assert rows[1]["parts"]["multiview/overlap"] == pytest.approx(2 / 3)
    assert rows[1]["reward"] == pytest.approx(2 * 0.63093 + 0.63093 + 0.2 + 0.1 * 2 / 3, abs=1e-4)
    assert (rows[2]["reward"], rows[2]["step"]) == (pytest.approx(-0.1), 2)
    assert shown[0] == "3 completions: 2 ok, 1 ids"
    # ndcg 1, .63093, 0: mean .54364
    assert shown[2].split()[:2] == ["ndcg", "0.5436"]


def test_a_reward_of_whole_queries_sees_the_rows_of_one_qid_and_step(files, tmp_path, capsys):
    scored = [("b", "9", 1), ("a", "9", 1), ("b", "3", 2)]
    rows = [{"qid": "q1", "docids": [d], "completion": text, "step": step} for d, text, step in scored]
    output = tmp_path / "out.jsonl"
    arguments = [*files(rows), "reward=[erank]", "paradigm=pointwise_graded", f"output={output}"]
    assert main(["rewards", "replay", *arguments]) == 0
    written = [json.loads(line) for line in output.read_text().splitlines()]
    # step 1: both on rank 1, so a outranks; step 2: b alone is first
    assert [row["rewards"]["erank"] for row in written] == [1.0, -1.0, 1.0]
    assert not replayed(capsys)[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"qid": "q9", "docids": ["a"], "completion": ""}], "completions.jsonl:1: qid 'q9' has no example in"),
        ([{"qid": "q1", "docids": ["a", "z"], "completion": ""}], "'z' is no candidate of the example 'q1'"),
        (
            [{"qid": "q1", "docids": ["a", "a"], "completion": ""}],
            "different documents of the prompt, in its order; got ['a', 'a']",
        ),
        ([{"qid": "q1", "docids": ["a"]}], "completions.jsonl:1: "),
    ],
)
def test_rows_that_do_not_read_are_named(files, capsys, rows, message):
    assert main(["rewards", "replay", *files(rows), "reward=[ndcg]"]) == 2
    assert message in capsys.readouterr().err


def test_a_paradigm_that_never_asks_about_so_many_documents_is_told(files, capsys):
    assert main(["rewards", "replay", *files(), "reward=[ndcg]", "paradigm=pointwise"]) == 2
    assert "completions.jsonl:1: pointwise has no answers about 3 documents" in capsys.readouterr().err


def test_files_are_required(capsys):
    assert main(["rewards", "replay", "examples=x.jsonl", "reward=[ndcg]"]) == 2
    assert "rewards replay: completions is required" in capsys.readouterr().err
