"""TREC files: broken lines are named, and every reader sees the order that was written."""

import gzip
import itertools
import re

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, nDCG

from rl_rerank.io.trec import read_qrels, read_run, trec_order, write_qrels, write_run
from rl_rerank.types import Ranking


def ranking(qid: str, scores: dict[str, float]) -> Ranking:
    return Ranking(qid, tuple(scores), scores)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_qrels_and_runs_come_back_as_they_were_written(tmp_path, name):
    qrels = {"q1": {"d1": 2, "d2": 0, "d3": -1}, "q2": {"d1": 1}}
    write_qrels(tmp_path / name, qrels)
    assert read_qrels(tmp_path / name) == qrels
    write_run(tmp_path / f"run.{name}", [ranking("q2", {"b": 0.5, "a": 0.25}), ranking("q1", {"c": -1.5})], "mine")
    assert read_run(tmp_path / f"run.{name}") == {"q2": {"b": 0.5, "a": 0.25}, "q1": {"c": -1.5}}
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, f"run.{name}"]


def test_comments_blank_lines_byte_order_marks_and_windows_line_ends_are_no_judgments(tmp_path):
    file = tmp_path / "qrels"
    file.write_bytes(b"\xef\xbb\xbfq1 0 d1 1.0\r\n\r\n# a comment here\r\n#\r\nq1\t0\td#2\t0\r\n")
    assert read_qrels(file) == {"q1": {"d1": 1, "d#2": 0}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"q1 0 d2", "expected 'qid iteration docid grade'; got 3 fields: 'q1 0 d2'"),
        (b"q1 0 d2 1 1", "got 5 fields"),
        (b"q1 0 d2 1.5", "got '1.5' as the grade, which is not an integer"),
        (b"q1 0 d2 1_0", "got '1_0' as the grade, which is not an integer"),
        (
            b"q1 0 d2 100000000000000000000",
            "expected a grade from -2147483647 to 2147483647; got 100000000000000000000",
        ),
        (b"#q1 0 d2 New York 1", "got 6 fields; a comment begins with '# ': '#q1 0 d2 New York 1'"),
        (b"q1 0 d\x002 1", "got a NUL character: 'q1 0 d\\x002 1'"),
        (b"q1 0 d2 high", "got 'high' as the grade"),
        (b"q1 0 d1 0", "expected one grade for qid 'q1' and docid 'd1'; got 0 here and 1 before"),
        (b"q1 0 caf\xe9 1", "expected UTF-8 text; got byte 0xe9 at position 8 of the line"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_broken_qrels_line_is_named_with_its_reason(tmp_path, line, reason, suffix):
    content = b"q1 0 d1 1\n\n" + line + b"\nq1 0 d9 1\n"
    file = tmp_path / f"qrels{suffix}"
    file.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError) as failure:
        read_qrels(file)
    assert str(failure.value).startswith(f"{file}:3: ")
    assert reason in str(failure.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1 Q0 d2 2 0.5", "expected 'qid Q0 docid rank score tag'; got 5 fields"),
        ("q1 Q0 d2 2 best tag", "got 'best' as the score, which is not a finite number"),
        ("q1 Q0 New York 2 5.0 tag", "got 7 fields: 'q1 Q0 New York 2 5.0 tag'"),
        ("q1 Q0 d2 2 5.0 my tag", "got 7 fields: 'q1 Q0 d2 2 5.0 my tag'"),
        ("q1 Q0 d2 x 5.0 tag", "got 'x' as the rank, which is not an integer"),
        ("q1 Q0 d2 2 1_000 tag", "got '1_000' as the score"),
        ("q1 Q0 d2 2 nan tag", "got 'nan' as the score"),
        ("q1 Q0 d2 2 -inf tag", "got '-inf' as the score"),
        ("q1 Q0 d1 2 0.5 tag", "got 'd1' again for qid 'q1'"),
    ],
)
def test_a_broken_run_line_is_named_with_its_reason(tmp_path, line, reason):
    file = tmp_path / "run"
    file.write_text(f"q1 Q0 d1 1 0.9 tag\n{line}\n")
    with pytest.raises(ValueError) as failure:
        read_run(file)
    assert str(failure.value).startswith(f"{file}:2: ")
    assert reason in str(failure.value)


def test_a_missing_file_and_a_broken_gzip_stream_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*absent.tsv'"):
        read_qrels(tmp_path / "absent.tsv")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"q1 0 d1 1\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut.gz: a broken gzip file, after line"):
        read_qrels(cut)
    (tmp_path / "plain.gz").write_text("q1 0 d1 1\n")
    with pytest.raises(ValueError, match=r"plain.gz: a broken gzip file, after line 0"):
        read_qrels(tmp_path / "plain.gz")


def test_equal_scores_are_ordered_by_the_larger_docid_and_scores_are_32_bit_floats():
    # 1 + 1e-9 is 1 as a 32-bit float, so that a and b are tied with c.
    assert trec_order({"a": 1.0 + 1e-9, "c": 1.0, "b": 1.0, "z": 0.5}) == ["c", "b", "a", "z"]


def test_written_scores_fall_strictly_even_where_32_bit_floats_cannot_tell_them_apart(tmp_path):
    scores = {"a": 1.0 + 2e-9, "b": 1.0 + 1e-9, "c": 1.0, "d": 1.0, "e": 0.1234567, "f": 0.1234566}
    write_run(tmp_path / "run", [ranking("q", scores)], "x")
    read = read_run(tmp_path / "run")["q"]
    assert trec_order(read) == list("abcdef")
    values = [np.float32(v) for v in read.values()]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert (read["e"], read["f"]) == pytest.approx((0.1234567, 0.1234566), rel=1e-7)


def test_the_reference_evaluator_reads_a_written_run_in_the_written_order(tmp_path):
    # The relevant document comes second among equal scores: AP = RR = 1/2, nDCG@10 = 1/log2(3) = 0.6309.
    write_run(tmp_path / "run", [ranking("q", {"a": 3.0, "b": 3.0, "c": 3.0})], "x")
    write_qrels(tmp_path / "qrels", {"q": {"b": 1, "a": 0}})
    run = ir_measures.read_trec_run(str(tmp_path / "run"))
    qrels = ir_measures.read_trec_qrels(str(tmp_path / "qrels"))
    found = ir_measures.calc_aggregate([AP, nDCG @ 10], qrels, run)
    assert found[AP] == 0.5
    assert found[nDCG @ 10] == pytest.approx(0.63093, abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "tag", "reason"),
    [
        (ranking("q", {"a": float("nan")}), "x", "qid 'q', docid 'a': nan cannot be written"),
        (ranking("q", {"a": float("inf")}), "x", "inf cannot be written"),
        (ranking("q", {"a": 1.0, "b": 2.0}), "x", "docid 'b': score 2.0 is above 1.0, one rank before"),
        (ranking("q", {"a b": 1.0}), "x", "a docid of qid 'q' must be one word"),
        (ranking("p", {"b": 1.0}), "x", "qid 'p' has two rankings; a run has one for each query"),
        (Ranking("q", ("a", "a"), {"a": 1.0}), "x", "qid 'q' ranks a docid twice"),
        (ranking("", {"a": 1.0}), "x", "a qid must be one word"),
        (ranking("q", {"a": 1.0}), "two words", "the tag must be one word to stand in a TREC file; got 'two words'"),
    ],
)
def test_a_ranking_that_a_run_file_cannot_hold_is_refused_and_leaves_no_file(tmp_path, bad, tag, reason):
    with pytest.raises(ValueError, match=reason):
        write_run(tmp_path / "run", [ranking("p", {"a": 1.0}), bad], tag)
    assert list(tmp_path.iterdir()) == []


def test_white_space_that_trec_eval_does_not_know_is_a_part_of_a_name(tmp_path):
    (tmp_path / "run").write_text("q1 Q0 New\u00a0York\x1c 1 9.0 t\n#q\u2028 Q0 d\x85\t2\v5.0 t\n")
    assert read_run(tmp_path / "run") == {"q1": {"New\u00a0York\x1c": 9.0}, "#q\u2028": {"d\x85": 5.0}}


ODD = ("#", "#q", "# q", "\ufeffq", "a\u00a0b", "\u2028", "q\x1c", "q\0", "\ud800", "New York", "", "a\rb", "\x85")
FORBIDDEN = re.compile("[ \t\n\v\f\r\0\ud800-\udfff]")
NAMES = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=()), max_size=4)
SCORES = st.lists(st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([1.0, -(2.0**126)]), max_size=5)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trec")


@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=5), max_size=3), SCORES, st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_run_is_read_as_it_was_written_or_is_not_written(folder, docids, scores, zipped):
    path = folder / f"run{'.gz' if zipped else ''}"
    path.unlink(missing_ok=True)
    falling = sorted([*scores, *[0.0] * 5][:5], reverse=True)
    rankings = [Ranking(q, tuple(ds), dict(zip(ds, falling, strict=False))) for q, ds in docids.items()]
    try:
        write_run(path, rankings, "tag")
    except ValueError:
        names = [*docids, *itertools.chain(*docids.values())]
        is_twice = any(len(set(ds)) < len(ds) for ds in docids.values())
        assert is_twice or any(n.startswith("\ufeff") or n in ("", "#") or FORBIDDEN.search(n) for n in names)
        assert not path.exists()
        return
    read = read_run(path)
    assert {q: list(found) for q, found in read.items()} == docids
    for q, found in read.items():
        values = [np.float32(score) for score in found.values()]
        assert all(a > b for a, b in itertools.pairwise(values))
        assert trec_order(found) == docids[q]


GRADES = st.integers(-(2**31) + 1, 2**31 - 1)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, GRADES | st.just(10**20), min_size=1, max_size=3), max_size=3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_qrels_are_read_as_they_were_written_or_are_not_written(folder, qrels):
    path = folder / "qrels"
    path.unlink(missing_ok=True)
    try:
        write_qrels(path, qrels)
    except ValueError:
        assert not path.exists()
        return
    assert read_qrels(path) == qrels
