"""The embedded screening task."""

import pytest

from rl_rerank.data.sources.reviews import PREVALENCE, Reviews, _family

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reviews():
    return Reviews(documents=60).read()


def test_all_records_of_a_review_are_judged_and_ranked_once(reviews):
    assert len(reviews.queries) > 60
    for query in reviews.queries:
        judged = reviews.qrels[query.qid]
        assert len(judged) == 60
        assert 4 <= sum(judged.values()) <= PREVALENCE * 60
        ranked = [docid for docid, _ in reviews.runs[query.qid]]
        assert sorted(ranked) == sorted(judged)
        scores = [score for _, score in reviews.runs[query.qid]]
        assert scores == sorted(scores, reverse=True)


def test_relevant_records_are_of_the_module_and_the_others_of_no_module_of_its_family(reviews):
    for query in reviews.queries:
        assert query.cluster == _family(query.qid)
        for docid, grade in reviews.qrels[query.qid].items():
            assert grade == 1 or not docid.startswith(f"{query.cluster}.")
    windows = reviews.qrels["scipy.signal.windows"]
    assert {docid for docid, grade in windows.items() if grade} <= {d for d in windows if d.startswith("scipy.signal")}


def test_a_record_has_a_title_and_an_abstract_without_its_name(reviews):
    document = reviews.documents["scipy.signal.windows.hann"]
    assert document.title == "Return a Hann window."
    assert "hann" not in document.text.split()
    [query] = [query for query in reviews.queries if query.qid == "scipy.signal.windows"]
    assert query.text == "signal windows: Window functions"


def test_more_records_are_asked_for_than_the_share_of_relevant_ones_allows():
    with pytest.raises(ValueError, match="documents=30 has room for fewer than 4 relevant records, at most 10% of all"):
        Reviews(documents=30)
