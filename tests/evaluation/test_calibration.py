"""Reliability, calibration error and thresholds by hand."""

import math

import pytest

from rl_rerank.evaluation.functions.calibration import (
    Threshold,
    expected_calibration_error,
    reliability_curve,
    threshold_for_precision,
)


def test_the_curve_by_hand():
    # Bins of width 1/2: .1 and .3 (one of two relevant), .8 and 1.0 (both relevant)
    low, high = reliability_curve([0.1, 0.8, 0.3, 1.0], [False, True, True, True], num_bins=2)
    assert low == pytest.approx((0.0, 0.5, 2, 0.2, 0.5))
    assert high == pytest.approx((0.5, 1.0, 2, 0.9, 1.0))
    # |.2 - .5| and |.9 - 1|, two documents each
    assert expected_calibration_error([low, high]) == pytest.approx(0.2)


def test_a_score_on_an_edge_belongs_to_the_upper_bin_and_empty_bins_are_left_out():
    curve = reliability_curve([0.3, 0.29, 0.0, 1.0], [True] * 4)
    assert [(round(b.low, 1), b.num_documents) for b in curve] == [(0.0, 1), (0.2, 1), (0.3, 1), (0.9, 1)]


def test_bins_count_by_their_documents():
    # Three documents at .5, all relevant, and one at 0, not relevant: 3/4 * .5
    assert expected_calibration_error(
        reliability_curve([0.5, 0.5, 0.5, 0.0], [True, True, True, False])
    ) == pytest.approx(0.375)


def test_the_curve_agrees_with_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    scores = [(i * 37 % 101) / 101 for i in range(200)]
    relevant = [i % 3 == 0 or s > 0.6 for i, s in enumerate(scores)]
    shares, means = calibration.calibration_curve(relevant, scores, n_bins=10)
    curve = reliability_curve(scores, relevant)
    assert [b.share_relevant for b in curve] == pytest.approx(shares.tolist())
    assert [b.mean_score for b in curve] == pytest.approx(means.tolist())


def test_the_threshold_keeps_as_much_as_the_precision_allows():
    # Best first: 1 1 0 1 0. Precision at 1 to 5 kept: 1, 1, 2/3, 3/4, 3/5
    scores, relevant = [9.0, 7.0, 5.0, 3.0, 1.0], [True, True, False, True, False]
    assert threshold_for_precision(scores, relevant, 0.75) == Threshold(3.0, 0.75, 1.0)
    assert threshold_for_precision(scores, relevant, 0.9) == Threshold(7.0, 1.0, pytest.approx(2 / 3))
    assert threshold_for_precision(scores, relevant, 0.6) == Threshold(1.0, 0.6, 1.0)


def test_equal_scores_are_kept_or_dropped_together():
    # 5 and 5: kept together precision is 1/2, whichever stands first.
    for relevant in ([True, False, False], [False, True, False]):
        assert threshold_for_precision([5.0, 5.0, 1.0], relevant, 0.6) is None
        assert threshold_for_precision([5.0, 5.0, 1.0], relevant, 0.5) == Threshold(5.0, 0.5, 1.0)


def test_a_precision_that_no_threshold_reaches_has_none():
    assert threshold_for_precision([2.0, 1.0], [False, True], 0.9) is None
    assert threshold_for_precision([2.0, 1.0], [False, False], 0.1) is None


@pytest.mark.parametrize(
    ("scores", "relevant", "reason"),
    [
        ([], [], "no judged document"),
        ([0.5], [True, False], "got 1 scores and 2 judgments"),
        ([math.nan], [True], "finite numbers; got nan"),
        ([-2.0, 3.0], [True, False], "from 0 to 1; got -2 to 3"),
    ],
)
def test_values_that_cannot_be_judged_are_refused(scores, relevant, reason):
    with pytest.raises(ValueError) as error:
        reliability_curve(scores, relevant)
    assert reason in str(error.value)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_bins must be at least 1; got 0"):
        reliability_curve([0.5], [True], num_bins=0)
    for precision in (0.0, 1.1):
        with pytest.raises(ValueError, match="precision must lie above 0"):
            threshold_for_precision([0.5], [True], precision)
