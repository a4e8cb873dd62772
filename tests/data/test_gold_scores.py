"""A teacher's scores are numbers like any other: they come through every file to the last bit."""

import json
import math

import pytest

from rl_rerank.config import DataConfig
from rl_rerank.data import examples
from rl_rerank.data.examples import ExampleFile
from rl_rerank.data.prepare import prepare
from rl_rerank.synthesis.rows import parquet
from rl_rerank.types import Candidate, RankingExample

SCORES = {"a": 0.1 + 0.2, "b": -11.25, "c": 1e-300, "d": math.pi}
EXAMPLE = RankingExample("q", "ice", tuple(Candidate(d, f"text {d}") for d in SCORES), split="train", scores=SCORES)


def test_scores_come_through_examples_jsonl_and_the_source_that_reads_it(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text(examples.line(EXAMPLE))
    assert ExampleFile(path)[0] == EXAMPLE
    store = prepare(DataConfig(source="jsonl", path=str(path)), tmp_path / "data")
    assert store.example("q").scores == SCORES


def test_scores_come_through_a_parquet_file(tmp_path):
    files = pytest.importorskip("pyarrow.parquet")
    parquet([EXAMPLE], tmp_path / "examples.parquet")
    [row] = files.read_table(tmp_path / "examples.parquet").to_pylist()
    assert dict(row["scores"]) == SCORES


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_names_its_query_and_document(tmp_path, value):
    row = {**examples.to_json(EXAMPLE), "scores": {**SCORES, "b": value}}
    with pytest.raises(ValueError, match=r"qid 'q': the gold score of docid 'b' must be finite; got (nan|inf)"):
        examples.from_json(row)
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    says = r"examples\.jsonl:1, qid 'q': scores, docid 'b': score must be a finite number; got (nan|inf)"
    with pytest.raises(ValueError, match=says):
        prepare(DataConfig(source="jsonl", path=str(path)), tmp_path / "data")
