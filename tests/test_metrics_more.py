"""Likelihood ratios, groups and identification against formulas and counting."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from sfpose.metrics import (
    LikelihoodRatioCalibrator,
    SmallSampleWarning,
    calibrate_threshold,
    cumulative_match_curve,
    d_prime,
    equal_error_rate,
    fnmr_at_fmr,
    group_error_rates,
    identification_rate_at_fpir,
    log_likelihood_ratio_cost,
    minimum_log_likelihood_ratio_cost,
    verification_summary,
)


def _gaussian(count=20_000, seed=0):
    rng = np.random.default_rng(seed)
    genuine = rng.random(count) < 0.2
    return rng.normal(np.where(genuine, 1.0, 3.0)), genuine


def _true_ratio(distances):
    """Of N(1, 1) to N(3, 1)."""
    return stats.norm.logpdf(distances, 1) - stats.norm.logpdf(distances, 3)


def test_cllr_is_its_formula_and_survives_extremes():
    ratios, genuine = np.array([2.0, -1.0, -3.0, 0.5]), np.array([True, True, False, False])
    expected = (
        np.log2(1 + np.exp(-ratios[genuine])).mean() + np.log2(1 + np.exp(ratios[~genuine])).mean()
    ) / 2
    assert log_likelihood_ratio_cost(ratios, genuine) == pytest.approx(expected)
    assert log_likelihood_ratio_cost([1e6, -1e6], [True, False]) == 0
    assert log_likelihood_ratio_cost([np.inf, -np.inf], [True, False]) == 0
    assert log_likelihood_ratio_cost([-1e6, -1e6], [True, False]) == pytest.approx(5e5 / np.log(2))
    assert log_likelihood_ratio_cost([-np.inf, -1.0], [True, False]) == np.inf


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_calibration_finds_the_true_ratios(method):
    distances, genuine = _gaussian()
    calibrator = LikelihoodRatioCalibrator(method).fit(distances, genuine)
    where = np.linspace(0.5, 3.5, 20)
    tolerance = 0.15 if method == "logistic" else 0.8
    np.testing.assert_allclose(calibrator.transform(where), _true_ratio(where), atol=tolerance)
    fresh, labels = _gaussian(seed=1)
    ideal = log_likelihood_ratio_cost(_true_ratio(fresh), labels)
    if method == "logistic":
        cost = log_likelihood_ratio_cost(calibrator.transform(fresh), labels)
        assert cost == pytest.approx(ideal, abs=0.01)


def test_minimum_cost_is_below_any_calibration_and_that_of_pav():
    distances, genuine = _gaussian(2000)
    least = minimum_log_likelihood_ratio_cost(distances, genuine)
    assert least <= log_likelihood_ratio_cost(_true_ratio(distances), genuine)
    posterior = IsotonicRegression(increasing=False, y_min=0, y_max=1).fit_transform(
        distances, genuine
    )
    share = genuine.mean()
    with np.errstate(divide="ignore"):
        ratios = np.log(posterior / (1 - posterior)) - np.log(share / (1 - share))
    assert least == pytest.approx(log_likelihood_ratio_cost(ratios, genuine))
    assert minimum_log_likelihood_ratio_cost([1, 1, 1, 1], [1, 0, 1, 0]) == pytest.approx(1)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30),
    st.floats(0.1, 9),
)
def test_minimum_cost_ignores_the_scale_and_lies_in_bits(cases, factor):
    distances = np.array([d for d, _ in cases] + [0, 6], dtype=float)
    genuine = np.array([g for _, g in cases] + [True, False])
    cost = minimum_log_likelihood_ratio_cost(distances, genuine)
    assert -1e-9 <= cost <= 1 + 1e-9
    assert minimum_log_likelihood_ratio_cost(distances * factor, genuine) == pytest.approx(cost)


def test_calibrators_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="'logistic' or 'isotonic'; got 'linear'"):
        LikelihoodRatioCalibrator("linear").fit([1, 2], [1, 0])
    with pytest.raises(NotFittedError, match="call fit first"):
        LikelihoodRatioCalibrator().transform([1.0])
    with pytest.raises(ValueError, match="must not be NaN; got 1 NaN"):
        LikelihoodRatioCalibrator().fit([1, 2], [1, 0]).transform([1.0, np.nan])


def test_a_line_is_not_fitted_to_comparisons_that_failed():
    with pytest.raises(ValueError, match="'logistic' needs finite distances; got 1 infinite"):
        LikelihoodRatioCalibrator().fit([0.1, 0.1, np.inf, 0.1], [1, 1, 0, 0])


def test_steps_take_infinity_for_the_farthest_distance():
    distances, genuine = _gaussian(500)
    distances[::7] = np.inf
    far = np.where(distances == np.inf, 1e6, distances)
    expected = LikelihoodRatioCalibrator("isotonic").fit(far, genuine).transform(far)
    calibrator = LikelihoodRatioCalibrator("isotonic").fit(distances, genuine)
    np.testing.assert_array_equal(calibrator.transform(distances), expected)


@pytest.mark.parametrize(
    ("method", "distances", "ratio"),
    [
        ("logistic", [1.0, 2.0, 3.0, 4.0], -np.inf),
        ("logistic", [4.0, 3.0, 2.0, 1.0], np.inf),
        ("logistic", [1.0, 1.0, 1.0, 1.0], 0.0),
        ("isotonic", [1.0, 2.0, 3.0, 4.0], -np.inf),
        ("isotonic", [1.0, 1.0, 1.0, 1.0], 0.0),
    ],
)
def test_an_infinite_distance_has_the_ratio_of_the_farthest(method, distances, ratio):
    calibrator = LikelihoodRatioCalibrator(method).fit(distances, [1, 1, 0, 0])
    got = calibrator.transform([2.0, np.inf])
    assert got[1] == pytest.approx(ratio, abs=1e-9)
    assert got[0] == calibrator.transform([2.0])[0]


@pytest.mark.parametrize(("factor", "shift"), [(1, 1e4), (1e-6, 0), (1e6, -1e9), (3, 7)])
@pytest.mark.parametrize("apart", [2.0, 40.0])
def test_a_line_does_not_depend_on_where_and_how_distances_are_measured(factor, shift, apart):
    rng = np.random.default_rng(0)
    genuine = rng.random(2000) < 0.2
    distances = rng.normal(np.where(genuine, 1.0, 1.0 + apart))
    expected = LikelihoodRatioCalibrator().fit(distances, genuine).transform(distances)
    moved = factor * distances + shift
    found = LikelihoodRatioCalibrator().fit(moved, genuine).transform(moved)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_line_is_that_of_a_logistic_regression():
    """By another optimiser: either kind as heavy as the rarer one, a penalty of 1 on the slope."""
    distances, genuine = _gaussian()
    spread = np.median(np.abs(distances - np.median(distances)))
    scores, signs = (distances - np.median(distances)) / spread, np.where(genuine, 1, -1)
    rarer = min(genuine.sum(), (~genuine).sum())
    weights = np.where(genuine, rarer / genuine.sum(), rarer / (~genuine).sum())

    def cost(line):
        return weights @ np.logaddexp(0, -signs * (line[0] * scores + line[1])) + line[0] ** 2 / 2

    slope, intercept = optimize.minimize(cost, [0, 0], tol=1e-9).x
    ours = LikelihoodRatioCalibrator().fit(distances, genuine)
    assert ours.slope_ == pytest.approx(slope / spread, rel=1e-4)
    middle = intercept - slope * np.median(distances) / spread
    assert ours.intercept_ == pytest.approx(middle, rel=1e-4)
    peer = LogisticRegression(C=1e6, class_weight="balanced", tol=1e-10, max_iter=1000)
    assert ours.slope_ == pytest.approx(peer.fit(distances[:, None], genuine).coef_[0, 0], rel=3e-3)


@pytest.mark.parametrize("count", [10, 100, 10_000])
def test_kinds_that_do_not_overlap_get_no_more_than_their_number_tells(count):
    distances = np.r_[np.zeros(count), np.ones(5 * count)]
    line = LikelihoodRatioCalibrator().fit(distances, distances == 0)
    same, different = line.transform([0.0, 1.0])
    assert 0.4 * np.log(count + 1) < same <= np.log(count + 1)
    assert 0.4 * np.log(count + 1) < -different <= np.log(count + 1)


@pytest.mark.parametrize("far", [1e6, 1e300])
def test_one_far_impostor_leaves_the_line_where_it_was(far):
    distances, genuine = _gaussian()
    cost = []
    for one in (3.0, far):
        line = LikelihoodRatioCalibrator().fit(np.r_[distances, one], np.r_[genuine, False])
        cost.append(log_likelihood_ratio_cost(line.transform(distances), genuine))
    assert cost[1] == pytest.approx(cost[0], abs=1e-5)
    assert cost[1] < 0.6


def test_many_equal_distances_leave_a_scale():
    distances, genuine = np.r_[np.full(60, 5.0), 1.0, 1.5, 2.0], np.arange(63) >= 60
    line = LikelihoodRatioCalibrator().fit(1e4 * distances, genuine)
    assert (line.transform(1e4 * distances) > 0).tolist() == genuine.tolist()


def test_a_second_fit_by_another_method_forgets_the_first():
    distances, genuine = _gaussian(500)
    calibrator = LikelihoodRatioCalibrator().fit(distances, genuine)
    calibrator.set_params(method="isotonic").fit(distances, genuine)
    ratios = calibrator.transform(np.sort(distances))
    assert len(np.unique(ratios)) < 100  # steps, no line
    assert not hasattr(calibrator, "slope_")


def test_d_prime_of_normal_scores_is_their_distance():
    distances, genuine = _gaussian(200_000)
    assert d_prime(distances, genuine) == pytest.approx(2.0, abs=0.02)
    assert d_prime([1.0, 2.0], [True, False]) == np.inf
    assert d_prime([2.0, 1.0], [True, False]) == -np.inf
    assert d_prime([1.0, 1.0], [True, False]) == 0


def test_group_rates_are_those_of_each_group_alone():
    distances, genuine = _gaussian(3000)
    groups = np.array(list("abc"))[np.arange(3000) % 3]
    rates = group_error_rates(distances, genuine, groups, 2.0)
    for place, name in enumerate("abc"):
        own = groups == name
        accepted = distances[own] <= 2.0
        assert rates.fmr[place] == pytest.approx(accepted[~genuine[own]].mean())
        assert rates.fnmr[place] == pytest.approx((~accepted)[genuine[own]].mean())
        assert rates.impostor[place] + rates.genuine[place] == own.sum()
    assert rates.fmr_inequity == pytest.approx(rates.fmr.max() / stats.gmean(rates.fmr))
    assert rates.fnmr_inequity >= 1


def test_groups_without_a_kind_of_comparison_say_so():
    rates = group_error_rates([1, 5, 1, 5], [1, 1, 0, 0], ["a", "a", "b", "b"], 3)
    assert np.isnan(rates.fmr[0])
    assert np.isnan(rates.fnmr[1])
    assert (rates.fmr[1], rates.fnmr[0]) == (0.5, 0.5)
    assert np.isnan(group_error_rates([5, 1], [0, 1], ["a", "b"], 0).fmr_inequity)
    with pytest.raises(ValueError, match=r"groups must name one .*, shape \(2,\); got \(1,\)"):
        group_error_rates([1, 2], [1, 0], ["a"], 1)


def test_groups_of_impostors_alone_have_their_rate():
    rates = group_error_rates([1, 5, 1, 1], [0, 0, 0, 0], ["a", "a", "b", "b"], 3)
    assert rates.fmr.tolist() == [0.5, 1.0]
    assert rates.impostor.tolist() == [2, 2]
    assert np.isnan(rates.fnmr).all()
    assert rates.fmr_inequity == pytest.approx(1 / stats.gmean([0.5, 1.0]))
    assert np.isnan(rates.fnmr_inequity)
    rates = group_error_rates([1, 5], [1, 1], ["a", "a"], 3)
    assert (rates.fnmr.tolist(), rates.genuine.tolist()) == ([0.5], [2])
    assert np.isnan(rates.fmr).all()
    with pytest.raises(ValueError, match="one genuine or impostor comparison; got 0 and 0"):
        group_error_rates([], [], [], 3)
    with pytest.raises(ValueError, match="threshold must be a number; got nan"):
        group_error_rates([1, 5], [1, 0], ["a", "a"], np.nan)


def _search(seed=0, probes=60, gallery=12):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 30, (probes, gallery)).astype(float)
    return distances, rng.integers(0, gallery, probes), np.arange(gallery)


def test_rank_curve_equals_sorting_each_row():
    distances, probes, gallery = _search()
    curve = cumulative_match_curve(distances, probes, gallery)
    ranks = []
    for row, person in zip(distances, probes, strict=True):
        # Own person last among equals: ties count against the probe.
        order = sorted(range(len(gallery)), key=lambda g: (row[g], gallery[g] == person))
        ranks.append(order.index(person) + 1)
    for k in range(1, 13):
        assert curve[k - 1] == pytest.approx(np.mean(np.array(ranks) <= k))
    assert curve[-1] == 1


def test_the_rank_curve_counts_people_and_not_their_rows():
    assert cumulative_match_curve([[1, 2, 3, 4]], ["a"], list("bbba")).tolist() == [0, 1]
    distances, probes, _ = _search()
    gallery = np.arange(12) % 5
    by_person = np.stack([distances[:, gallery == who].min(axis=1) for who in range(5)], axis=1)
    np.testing.assert_array_equal(
        cumulative_match_curve(distances, probes % 5, gallery),
        cumulative_match_curve(by_person, probes % 5, np.arange(5)),
    )


def test_open_set_rate_equals_counting():
    distances, probes, gallery = _search(probes=200)
    probes = np.where(np.arange(200) % 2, probes, -1)
    rate = identification_rate_at_fpir(distances, probes, gallery, 0.3)
    best = 0.0
    for threshold in np.arange(-0.5, 31):
        found = (distances <= threshold).any(1)
        if found[probes == -1].mean() > 0.3:
            continue
        right = [
            row[p] <= threshold and (np.delete(row, p) > row[p]).all()
            for row, p in zip(distances, probes, strict=True)
            if p >= 0
        ]
        best = max(best, float(np.mean(right)))
    assert rate == pytest.approx(best)


@given(
    st.integers(1, 40),
    st.one_of(
        st.floats(0, 1, exclude_min=True, exclude_max=True),
        st.sampled_from([1e-13, 1 - 1e-13, np.nextafter(1, 0), 0.29]),
    ),
)
def test_the_rate_of_strangers_is_kept_to_the_last_digit(strangers, fpir):
    """A person at each distance, between strangers at distances 1, 2, 3 ..."""
    people = np.arange(strangers + 1)
    probes = np.r_[people, np.full(strangers, -1)]
    far = 2.0 * strangers
    distances = np.full((2 * strangers + 1, strangers + 1), far)
    distances[people, people] = people + 0.5
    distances[strangers + 1 :, 0] = np.arange(1, strangers + 1)
    rate = identification_rate_at_fpir(distances, probes, people, fpir)
    allowed = max(count for count in range(strangers) if count / strangers <= fpir)
    assert rate == pytest.approx((allowed + 1) / (strangers + 1))


def test_identification_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="'x' is not"):
        cumulative_match_curve([[1.0]], ["x"], ["a"])
    with pytest.raises(ValueError, match="got 1 and 0"):
        identification_rate_at_fpir([[1.0]], ["a"], ["a"], 0.1)
    with pytest.raises(ValueError, match="must not be NaN"):
        cumulative_match_curve([[np.nan]], ["a"], ["a"])
    with pytest.raises(ValueError, match=r"got \(1, 2\) for probes of shape \(1,\)"):
        cumulative_match_curve([[1.0, 2.0]], ["a"], ["a"])


def test_what_is_masked_counts_as_a_failure_to_acquire():
    """And not as the distance that lies under the mask."""
    rng = np.random.default_rng(0)
    genuine = np.arange(400) < 100
    distances = rng.normal(np.where(genuine, 1.0, 3.0))
    failed = rng.random(400) < 0.1
    masked = np.ma.array(np.where(failed, 0, distances), mask=failed)
    with pytest.raises(ValueError, match=f"must not be NaN; got {failed.sum()} NaN"):
        fnmr_at_fmr(masked, genuine, 0.01)
    told = verification_summary(masked, genuine)
    assert told == verification_summary(np.where(failed, np.nan, distances), genuine)
    assert told.failed_genuine == (failed & genuine).sum() > 0
    labels = np.ma.array(genuine, mask=failed)
    with pytest.raises(ValueError, match=r"is_genuine must say .*; that of row \d+ is missing"):
        fnmr_at_fmr(distances, labels, 0.01)


def test_a_missing_label_of_pandas_is_told_with_its_row():
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series([True, pandas.NA, False], dtype="boolean")
    with pytest.raises(ValueError, match=r"is_genuine must say .*; that of row 1 is missing"):
        equal_error_rate([1.0, 2.0, 3.0], labels)
    whole = pandas.Series([True, False, False], dtype="boolean")
    assert equal_error_rate([1.0, 2.0, 3.0], whole) == 0


def test_failures_to_acquire_are_no_sign_of_similarities():
    genuine = np.arange(400) < 100
    distances = np.random.default_rng(0).normal(np.where(genuine, 1.0, 5.0))
    distances[:60] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SmallSampleWarning)
        calibrate_threshold(distances, genuine, 0.1)
    with pytest.warns(UserWarning, match="are these similarities"):
        calibrate_threshold(np.where(np.isinf(distances), np.inf, -distances), genuine, 0.1)


def test_a_person_of_another_kind_is_told_as_it_came():
    with pytest.raises(ValueError, match="must be in the gallery; '1' is not"):
        cumulative_match_curve([[0.1, 0.2]], ["1"], [1, 2])
