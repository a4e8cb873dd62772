"""`rl-rerank parse`: stored completions, read strictly and leniently."""

import json

import pytest

from rl_rerank.cli.main import main

LISTWISE = [
    {"n": 3, "text": "[2] > [1] > [3]"},
    {"docids": ["a", "b", "c"], "text": "[2] > [2] > [9]"},
    {"n": 3, "text": "I like \ud800 all."},
    {"n": 3, "text": "[3] > [2] > [1]", "finish_reason": "length"},
]


@pytest.fixture
def parsed(tmp_path, capsys):
    """Runs the command on rows; returns the exit code, the rows written and what was printed."""

    def run(rows, *arguments):
        source, output = tmp_path / "a=b.jsonl", tmp_path / "out" / "rows.jsonl"
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        source.write_text(text)
        status = main(["parse", f"completions={source}", f"output={output}", *arguments])
        written = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else None
        return status, written, capsys.readouterr()

    return run


def test_every_row_has_both_statuses_the_order_and_every_issue(parsed):
    status, rows, shown = parsed(LISTWISE, "paradigm=listwise", "paradigms.listwise.params.window=3")
    assert status == 0
    assert rows[0] == {
        "line": 1,
        "strict": "ok",
        "lenient": "ok",
        "ids": [2, 1, 3],
        "order": [2, 1, 3],
        "scores": {"2": 3.0, "1": 2.0, "3": 1.0},
        "issues": [],
    }
    # b stands first; a and c were left out and follow in the order shown
    assert (rows[1]["strict"], rows[1]["lenient"], rows[1]["order"]) == ("ids", "repaired", [2, 1, 3])
    assert (rows[1]["ids"], rows[1]["scores"]) == ([2, 2, 9], {"b": 3.0, "a": 2.0, "c": 1.0})
    assert [(i["kind"], i["place"]) for i in rows[1]["issues"]] == [
        ("id_out_of_range", "[9]"),
        ("repeated_id", "[2]"),
        ("missing_id", "[1]"),
        ("missing_id", "[3]"),
    ]
    assert (rows[2]["strict"], rows[2]["lenient"], rows[2]["order"], rows[2]["scores"]) == ("answer", "answer", [], {})
    assert (rows[3]["strict"], rows[3]["lenient"], rows[3]["order"]) == ("tags", "repaired", [3, 2, 1])
    assert "4 completions\nstrict: 1 ok, 1 ids, 1 answer, 1 tags\nlenient: 2 repaired, 1 ok, 1 answer\n" in shown.out
    assert "missing_id in 2" in shown.out


def test_the_paradigms_parameters_decide(parsed):
    complete = "paradigms.listwise.params.complete=false"
    _, [row], _ = parsed([{"n": 3, "text": "[2] > [1]"}], "paradigm=listwise", complete)
    assert (row["lenient"], row["order"]) == ("ids", [])
    text = "because</think><answer>[2] > [1]</answer>"
    _, [row], _ = parsed([{"n": 2, "text": text}], "paradigm=listwise", "paradigms.listwise.params.reasoning=true")
    assert (row["strict"], row["order"]) == ("ok", [2, 1])


def test_scores_are_by_document_and_equal_ones_keep_the_prompts_order(parsed):
    text = '{"[1]": 3, "[2]": 7, "[3]": 3}'
    _, [row], _ = parsed([{"docids": ["x", "y", "z"], "text": text}], "paradigm=groupwise")
    assert (row["scores"], row["order"]) == ({"x": 3.0, "y": 7.0, "z": 3.0}, [2, 1, 3])
    _, [row], _ = parsed([{"n": 1, "text": "Score: 7"}], "paradigm=pointwise_graded")
    assert (row["strict"], row["lenient"], row["scores"]) == ("answer", "repaired", {"1": 7.0})


def test_without_an_output_the_rows_are_printed(tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(LISTWISE[0]) + "\n")
    assert main(["parse", "paradigm=listwise", f"completions={source}"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["order"] == [2, 1, 3]
    assert shown.err.startswith("1 completions\nstrict: 1 ok\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "expected one JSON object"),
        ("[1]", "expected one JSON object"),
        ('{"n": 3}', "text is missing"),
        ('{"n": 3, "text": 5}', "text must be a string; got 5"),
        ('{"text": "[1]"}', "give n, the number of documents in the prompt, or their docids; got n=None"),
        ('{"n": 0, "text": ""}', "got n=0"),
        ('{"n": true, "text": ""}', "got n=True"),
        ('{"docids": [], "text": ""}', "docids must be a list of strings; got []"),
        ('{"docids": ["a", "a"], "text": ""}', "docids names a document twice"),
        ('{"docids": ["a"], "n": 2, "text": ""}', "n=2, but there are 1 docids"),
        ('{"n": 2, "text": "", "finish_reason": "abort"}', "finish_reason must be stop or length; got 'abort'"),
    ],
)
def test_a_row_that_is_no_completion_is_named_and_nothing_is_written(parsed, row, message):
    status, rows, shown = parsed(json.dumps(LISTWISE[0]) + "\n\n" + row + "\n", "paradigm=listwise")
    assert (status, rows) == (2, None)
    assert "a=b.jsonl:3: " in shown.err and message in shown.err
    assert len(shown.err.splitlines()) == 1


def test_a_number_of_documents_that_the_paradigm_never_asks_about_is_named(parsed):
    status, rows, shown = parsed([{"n": 2, "text": "yes"}], "paradigm=pointwise")
    assert (status, rows) == (2, None)
    assert "a=b.jsonl:1: pointwise has no answers about 2 documents" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paradigm=listwise"], "parse: completions is required; give completions=FILE.jsonl"),
        (["completions=nowhere.jsonl"], "there is no file 'nowhere.jsonl'"),
        (["completions=x", "paradigm=listwize"], "no paradigm is named 'listwize'"),
        (["completions=x", "paradigms.pointwise.params.window=2"], "paradigm 'pointwise' has no parameter 'window'"),
        (["completions=x", "outptu=y"], "there is no setting 'outptu'"),
    ],
)
def test_an_error_says_what_is_wrong(arguments, message, capsys):
    assert main(["parse", *arguments]) == 2
    assert message in capsys.readouterr().err
