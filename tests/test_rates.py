"""Rates where distances tie, where rounding meets a rate, or where a group has none."""

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from sfpose import TemplateVerifier
from sfpose._checks import little_evidence
from sfpose.metrics import (
    LikelihoodRatioCalibrator,
    clopper_pearson_interval,
    d_prime,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    fnmr_at_fmr,
    group_error_rates,
    identification_rate_at_fpir,
    k_fold_accuracy,
    people_interval,
    people_rate_interval,
    threshold_at_fmr,
    verification_summary,
)
from sfpose.metrics.thresholds import pairs_needed, rests_on_few


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


@pytest.mark.parametrize(("errors", "trials"), [(0.003, 1000), (1.5, 10), (3, 10.0), (True, 10)])
def test_a_rate_is_no_count(errors, trials):
    with pytest.raises(ValueError, match=r"(errors|trials) must be a whole number"):
        clopper_pearson_interval(errors, trials)
    assert clopper_pearson_interval(np.int64(3), np.int64(10)) == clopper_pearson_interval(3, 10)


SCORES = np.array([0.1, 0.2, 0.9, 0.8]), np.array([True, True, False, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, g: equal_error_rate(iter(d), g), "distances must be an array of numbers; got a"),
        (lambda d, g: equal_error_rate(["far"] * 4, g), "distances must be an array of numbers"),
        (lambda d, g: verification_summary(iter(d), g), "distances must be an array of numbers"),
        (lambda d, g: fnmr_at_fmr(d, g, [0.01, 0.001]), r"fmr must be a rate, .*; got \[0.01, "),
        (lambda d, g: error_rates_at_threshold(d, g, [0.5]), r"threshold must be a number; got \["),
        (lambda d, g: equal_error_rate(d, np.where(g, 1, 2)), "booleans, or 0 and 1; got 2$"),
        (lambda d, g: equal_error_rate(d, ["yes", "yes", "no", "no"]), "0 and 1; got 'yes'$"),
        (
            lambda d, g: equal_error_rate(np.r_[d, np.nan], np.r_[g, True]),
            "got 1 NaN, which stand for failures to acquire: give inf, which is refused at every",
        ),
        (lambda d, g: group_error_rates(d, g, ["a", None, "b", "b"], 0.5), "that of row 1 is miss"),
        (lambda d, g: group_error_rates(d, g, [1, 2, np.nan, 2], 0.5), "that of row 2 is missing"),
        (lambda d, g: k_fold_accuracy(d, g, ["a", None, "b", "b"]), "that of row 1 is missing"),
        (
            lambda d, g: people_rate_interval(g, list("abcd"), ["b", None, "c", "d"]),
            "second_people must name one person for each comparison; that of row 1 is missing",
        ),
    ],
)
def test_what_metrics_cannot_read_is_told_with_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call(*SCORES)


def test_a_fit_on_images_says_what_descriptors_are():
    images = [np.zeros((40, 30, 3)), np.zeros((50, 30, 3))]
    with pytest.raises(ValueError, match=r"descriptors must have shape \(n, d\); got a list"):
        TemplateVerifier().fit(images, [1, 2])


def _few_people():
    """Distances of 15 people, which are genuine, and who is on either side."""
    people = np.repeat(np.arange(15), 3)
    first, second = (people[side] for side in np.triu_indices(45, 1))
    genuine = first == second
    distances = np.random.default_rng(0).normal(np.where(genuine, 1.0, 2.5)).round(2)
    return distances, genuine, first, second


def _drawn_by_hand(distances, genuine, first, second, rate):
    """FNMR at this FMR, of 60 drawings of people."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        drawn = np.bincount(rng.integers(0, 15, 15), minlength=15)
        times = drawn[first] * np.where(genuine, 1, drawn[second])
        yield fnmr_at_fmr(np.repeat(distances, times), np.repeat(genuine, times), rate)


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_an_interval_of_fnmr_is_that_of_people_drawn_and_repeated_by_hand(rate, korn_graubard):
    case = _few_people()
    distances, genuine, *_ = case
    found = people_interval(*case, fmr=rate, draws=60, random_state=3)
    variance = np.var(list(_drawn_by_hand(*case, rate))) * 15 / 14
    expected = korn_graubard(fnmr_at_fmr(distances, genuine, rate), variance, 15)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_interval_reaches_as_far_as_drawings_where_everybody_errs():
    """An impostor is the nearest of all, but not among people of each drawing."""
    case = _few_people()
    assert fnmr_at_fmr(*case[:2], 0.0) == 1
    drawn = list(_drawn_by_hand(*case, 0.0))
    lowest = 1 - np.quantile(1 - np.array(drawn), 0.975, method="higher")
    assert lowest < 0.05 ** (1 / 15)
    found = people_interval(*case, fmr=0.0, draws=60, random_state=3)
    assert found == pytest.approx((lowest, 1))


def test_an_interval_of_fnmr_at_a_rate_of_one_is_refused():
    with pytest.raises(ValueError, match="fmr must be a rate, 0 <= fmr < 1; got 1"):
        people_interval(*_few_people(), fmr=1)


def test_infinite_distances_are_refused_at_every_threshold():
    distances, genuine = SCORES
    more = np.r_[distances, np.inf, np.inf], np.r_[genuine, True, False]
    assert error_rates_at_threshold(*more, 1e300) == (2 / 3, 1 / 3)
    summary = verification_summary(*more)
    assert (summary.zero_fmr, summary.eer) == (1 / 3, equal_error_rate(*more))
    assert np.isnan(summary.d_prime)


@pytest.mark.parametrize("failed", [0.05, 0.3])
def test_failed_comparisons_are_accepted_by_no_mixture_of_thresholds(failed):
    own, count = 1000, int(1000 * failed)
    distances = np.r_[np.full(own, 0.1), np.full(own, 0.9)]
    distances[:count] = distances[own : own + count] = np.nan
    found = verification_summary(distances, np.arange(2 * own) < own)
    assert found.eer == pytest.approx(failed)
    assert found.convex_hull_eer == pytest.approx(failed)


def test_curves_that_cross_at_no_threshold_have_the_rate_that_none_lowers():
    distances = np.full(200, np.inf)
    distances[:40], distances[100:110] = 0.1, 0.9
    genuine = np.arange(200) < 100
    assert equal_error_rate(distances, genuine) == pytest.approx(0.6)
    assert equal_error_rate(distances, genuine, convex_hull=True) == pytest.approx(0.6)
    people = np.random.default_rng(0).integers(0, 20, 200)
    low, high = people_interval(distances, genuine, people, people)
    assert 0.3 < low < 0.6 < high < 0.9


def test_no_threshold_accepts_what_failed_not_even_an_infinite_one():
    distances, genuine = [0.1, 0.2, np.inf, np.inf, 1, 2, 3], [1, 1, 1, 1, 0, 0, 0]
    curve = det_curve(distances, genuine)
    assert (curve.thresholds[-1], curve.fmr[-1], curve.fnmr[-1]) == (3, 1, 0.5)
    assert error_rates_at_threshold(distances, genuine, np.inf) == (1, 0.5)
    rates = group_error_rates(distances, genuine, list("aabbaab"), np.inf)
    assert rates.fnmr.tolist() == [0, 1]
    assert rates.fmr.tolist() == [1, 1]


@pytest.mark.parametrize(("rate", "pairs"), [(0.0003, 100_000), (0.0006, 50_000), (0.0003, 10_000)])
def test_the_rules_are_met_where_the_product_is_a_whole_number(rate, pairs):
    rule = round(rate * pairs)
    assert pairs_needed(rate, rule) == pairs
    assert rests_on_few(rate, pairs) == (rule < 30)
    assert little_evidence(rate, pairs, 100) is None


@pytest.mark.parametrize("counts", [(3, 7), (3, 3), (10, 3), (700, 300)])
def test_d_prime_of_equal_distances_is_not_left_to_rounding(counts):
    genuine = np.arange(sum(counts)) < counts[0]
    assert d_prime(np.full(sum(counts), 0.1), genuine) == 0
    assert d_prime(np.where(genuine, 0.1, 0.9), genuine) == np.inf


def test_a_label_that_is_none_is_told():
    with pytest.raises(ValueError, match=r"is_genuine must say .*; that of row 1 is missing"):
        equal_error_rate([1, 4, 2, 9], [True, None, True, False])
