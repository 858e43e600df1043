"""Rates where distances tie, where rounding meets a rate, or where a group has none."""

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from sfpose.metrics import (
    LikelihoodRatioCalibrator,
    equal_error_rate,
    group_error_rates,
    identification_rate_at_fpir,
    threshold_at_fmr,
    verification_summary,
)


def test_a_rate_just_below_a_share_allows_one_error_less():
    impostors = 6
    distances, genuine = np.r_[0.5, 1 : impostors + 1], np.arange(impostors + 1) < 1
    for errors in range(1, impostors):
        rate = np.nextafter(errors / impostors, 0)
        threshold = threshold_at_fmr(distances, genuine, rate)
        assert (distances[~genuine] <= threshold).sum() == errors - 1
    # Such a rate times the number of impostors may be rounded up to the number of errors.
    assert np.nextafter(5 / 6, 0) * impostors == 5


def test_steps_are_those_of_scikit_learns_isotonic_regression():
    rng = np.random.default_rng(0)
    genuine = rng.random(500) < 0.3
    distances = rng.normal(np.where(genuine, 1.0, 2.0)).round(1)
    share = IsotonicRegression(increasing=False).fit_transform(distances, genuine)
    with np.errstate(divide="ignore"):
        expected = np.log(share / (1 - share)) - np.log(genuine.mean() / (1 - genuine.mean()))
    calibrator = LikelihoodRatioCalibrator("isotonic").fit(distances, genuine)
    np.testing.assert_allclose(calibrator.transform(distances), expected, rtol=1e-9, atol=1e-9)
    # Between two distances the ratio of the smaller one.
    known = np.unique(distances)
    between = calibrator.transform((known[:-1] + known[1:]) / 2)
    np.testing.assert_array_equal(between, calibrator.transform(known[:-1]))


@pytest.mark.parametrize(
    ("distances", "found"),
    [
        ([[0.1, 0.2], [0.9, 0.9]], 1),
        ([[0.1, 0.1], [0.9, 0.9]], 0),  # somebody else is as near
        ([[0.9, 1.0], [0.9, 1.0]], 0),  # a stranger is as near
    ],
)
def test_who_is_no_nearer_than_another_is_not_found(distances, found):
    assert identification_rate_at_fpir(distances, ["a", "x"], ["a", "b"], 0.1) == found


def test_a_summary_has_the_rate_of_the_hull():
    distances, genuine = [1, 3, 3.5, 4, 2, 2.5, 5, 6], [1, 1, 1, 1, 0, 0, 0, 0]
    summary = verification_summary(distances, genuine)
    assert summary.convex_hull_eer == equal_error_rate(distances, genuine, convex_hull=True)
    assert summary.convex_hull_eer < summary.eer == equal_error_rate(distances, genuine)


def test_a_group_without_a_rate_does_not_count_in_the_inequity():
    distances, genuine = [1, 5, 5, 5, 1, 1, 5, 1], [0, 0, 0, 0, 0, 0, 0, 1]
    rates = group_error_rates(distances, genuine, list("aaaabbbc"), 3)
    np.testing.assert_array_equal(rates.fmr, [1 / 4, 2 / 3, np.nan])
    assert rates.fmr_inequity == pytest.approx((2 / 3) / stats.gmean([1 / 4, 2 / 3]))
