"""Measures of finding everything, by hand on one topic of ten documents."""

import pytest

from rl_rerank.evaluation.measures import evaluate, lower_is_better, parse

DOCIDS = [f"d{rank}" for rank in range(1, 11)]
RUN = {"t": {docid: -float(rank) for rank, docid in enumerate(DOCIDS)}}


def qrels(*ranks, grade=1):
    return {"t": {docid: grade if rank in ranks else 0 for rank, docid in enumerate(DOCIDS, start=1)}}


def value(measure, judged, run=RUN):
    return evaluate(run, judged, [measure]).mean[measure]


def test_work_saved_by_hand():
    # Relevant at ranks 1, 2 and 5 of 10: all are found at 5, so (10 - 5) / 10 is saved; round(.95 * 3) = 3 as well.
    assert value("WSS@100", qrels(1, 2, 5)) == pytest.approx(0.5)
    assert value("WSS@95", qrels(1, 2, 5)) == pytest.approx(0.5 - 0.05)
    # round(.5 * 3) = 2 are found at rank 2; a half is rounded to the even number: round(.5 * 5) = 2
    assert value("WSS@50", qrels(1, 2, 5)) == pytest.approx(0.8 - 0.5)
    assert value("WSS@50", qrels(1, 2, 5, 6, 7)) == pytest.approx(0.8 - 0.5)


def test_no_work_is_saved_where_the_recall_is_never_reached():
    run = {"t": {"d1": 2.0, "d2": 1.0}}
    assert value("WSS@100", qrels(1, 5), run) == 0.0
    # What it has still counts: N is 10, of which 2 are ranked.
    assert value("WSS@50", qrels(1, 5), run) == pytest.approx((10 - 1) / 10 - 0.5)


def test_the_last_relevant_document_is_the_last_one_found():
    assert value("LastRel", qrels(1, 2, 5)) == 5.0
    assert value("LastRel", qrels(2, 5), {"t": {"d1": 2.0, "d2": 1.0}}) == 2.0
    assert value("LastRel", qrels(5), {"t": {"d1": 2.0}}) == 0.0
    assert lower_is_better("LastRel") and not lower_is_better("WSS@95")


def test_recall_at_a_percentage_of_the_documents():
    # 20% of 10 documents are 2 ranks, 50% are 5.
    assert value("RPercent@20", qrels(1, 2, 5)) == pytest.approx(2 / 3)
    assert value("RPercent@50", qrels(1, 2, 5)) == 1.0


def test_the_area_by_hand():
    # The curve of found documents rises at 1, 2, 5 to 3 and stays: trapezoids .5, 1.5, 2, 2, 2.5, 3, 3, 3, 3, 3 = 23.5;
    # at best it rises at 1, 2, 3: 3 * 10 - 3^2 / 2 = 25.5.
    assert value("NormArea", qrels(1, 2, 5)) == pytest.approx(23.5 / 25.5)
    assert value("NormArea", qrels(1, 2, 3)) == pytest.approx(1.0)


def test_documents_that_were_not_ranked_belong_to_the_topic_and_unjudged_ones_too():
    # d1 is found at rank 1 of 2; with the 9 other judged documents N is 11: the area is 11 - .5 of 11 - .5.
    run = {"t": {"d1": 2.0, "unjudged": 1.0}}
    assert value("WSS@100", qrels(1), run) == pytest.approx(10 / 11)
    assert value("NormArea", qrels(1), run) == pytest.approx(1.0)


def test_the_level_of_relevance_counts():
    judged = {"t": {**qrels(1)["t"], "d4": 2}}
    assert value("LastRel", judged) == 4.0
    assert value("WSS(rel=2)@100", judged) == pytest.approx(0.6)
    assert value("RPercent(rel=2)@30", judged) == 0.0


def test_a_topic_without_relevant_documents_or_without_a_ranking_is_worth_zero():
    for measure in ("WSS@95", "LastRel", "RPercent@50", "NormArea"):
        assert value(measure, qrels()) == 0.0
        assert value(measure, qrels(1), {}) == 0.0
        # -1 is not relevant
        assert value(measure, qrels(1, grade=-1)) == 0.0


def test_of_equal_scores_the_larger_docid_comes_first():
    # d2, d1
    assert value("LastRel", {"t": {"d1": 1, "d2": 0}}, {"t": {"d1": 1.0, "d2": 1.0}}) == 2.0


@pytest.mark.parametrize("text", ["WSS", "WSS@0", "WSS@101", "WSS@95.5", "RPercent", "RPercent@0", "NormArea(rel=0)"])
def test_wrong_parameters_are_refused(text):
    with pytest.raises(ValueError, match="is no measure"):
        parse(text)


def test_what_we_compute_ourselves_is_in_the_provider():
    assert "rl-rerank" in evaluate(RUN, qrels(1), ["AP", "WSS@95"]).provider
    assert "rl-rerank" not in evaluate(RUN, qrels(1), ["AP"]).provider
