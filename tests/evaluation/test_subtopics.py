"""Measures of diversity: by hand where pyndeval is installed, and what to install where it is not."""

import math

import pytest

from rl_rerank.config import EvaluateFiles
from rl_rerank.evaluation.measures import check_judgments, evaluate, parse
from rl_rerank.evaluation.subtopics import any_subtopic
from rl_rerank.io.trec import read_subtopics
from rl_rerank.requirements import is_installed
from rl_rerank.stages.evaluate.files import evaluate_files

# d1 and d2 are about the first subtopic, d3 about the second.
QRELS = "q 1 d1 1\nq 1 d2 1\nq 2 d3 1\nq 2 d1 0\nr 1 d1 1\n"
RUN = "q Q0 d1 1 3.0 x\nq Q0 d2 2 2.0 x\nq Q0 d3 3 1.0 x\n"


def alpha_ndcg(alpha: float) -> float:
    # The second document about a subtopic gains 1 - alpha. The best order is d1, d3, d2.
    dcg = 1 + (1 - alpha) / math.log2(3) + 1 / math.log2(4)
    return dcg / (1 + 1 / math.log2(3) + (1 - alpha) / math.log2(4))


has_pyndeval = pytest.mark.skipif(not is_installed("pyndeval"), reason="needs pyndeval")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "qrels.txt").write_text(QRELS)
    return {"run": str(tmp_path / "run.trec"), "qrels": str(tmp_path / "qrels.txt")}


@has_pyndeval
def test_alpha_ndcg_by_hand(files):
    # Two settings at once, since the provider loses the run behind the first.
    measures = ["alpha_nDCG@10", "alpha_nDCG(alpha=0.1)@10", "StRecall@2", "RR@10"]
    found = evaluate_files(EvaluateFiles(**files, measures=measures))
    assert found["per_query"]["q"] == pytest.approx(
        # Alpha is .5 where it is not given. The first two documents are about one of two subtopics.
        {
            "alpha_nDCG@10": alpha_ndcg(0.5),
            "alpha_nDCG(alpha=0.1)@10": alpha_ndcg(0.1),
            "StRecall@2": 0.5,
            "RR@10": 1.0,
        },
        abs=1e-5,
    )
    assert found["mean"]["alpha_nDCG@10"] == pytest.approx(alpha_ndcg(0.5) / 2, abs=1e-5)
    assert found["missing"] == ["r"]
    assert "pyndeval" in found["provider"]


@has_pyndeval
def test_a_measure_of_diversity_without_subtopics_is_refused():
    with pytest.raises(ValueError, match=r"'alpha_nDCG@10' needs judgments by subtopic"):
        check_judgments("alpha_nDCG@10")
    with pytest.raises(ValueError, match=r"'alpha_nDCG@10' needs judgments by subtopic"):
        evaluate({"q": {"d1": 1.0}}, {"q": {"d1": 1}}, ["alpha_nDCG@10"])


@pytest.mark.skipif(is_installed("pyndeval"), reason="pyndeval is installed")
@pytest.mark.parametrize("measure", ["alpha_nDCG@10", "ERR_IA@20", "StRecall@10"])
def test_without_pyndeval_the_error_says_what_to_install(measure):
    with pytest.raises(ImportError, match=rf"'{measure}' needs pyndeval, which is not installed: pip install pyndeval"):
        parse(measure)


def test_judgments_by_subtopic_are_read_and_reduce_to_the_highest_grade(files, tmp_path):
    found = read_subtopics(files["qrels"])
    assert found == {"q": {"1": {"d1": 1, "d2": 1}, "2": {"d3": 1, "d1": 0}}, "r": {"1": {"d1": 1}}}
    assert any_subtopic(found) == {"q": {"d1": 1, "d2": 1, "d3": 1}, "r": {"d1": 1}}
    (tmp_path / "odd.txt").write_text("q 1 d1 1\nq 1 d1 2\n")
    with pytest.raises(ValueError, match=r"odd.txt:2: .* qid 'q', subtopic '1' and docid 'd1'; got 2 here and 1"):
        read_subtopics(tmp_path / "odd.txt")
    (tmp_path / "short.txt").write_text("q d1 1\n")
    with pytest.raises(ValueError, match=r"short.txt:1: expected 'qid subtopic docid grade'; got 3 fields"):
        read_subtopics(tmp_path / "short.txt")
