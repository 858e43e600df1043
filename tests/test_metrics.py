"""Error rates against hand-made cases, scikit-learn and brute force; thresholds at a rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import det_curve as sklearn_det_curve
from sklearn.metrics import roc_curve

from sfpose.metrics import (
    calibrate_threshold,
    d_prime,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    false_acceptance_rate,
    false_rejection_rate,
    fnmr_at_fmr,
    k_fold_accuracy,
    threshold_at_fmr,
    verification_summary,
)


@st.composite
def scores(draw):
    """Distances with many ties, and both kinds of comparison."""
    count = draw(st.integers(2, 40))
    distances = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    labels = draw(st.lists(st.booleans(), min_size=count - 2, max_size=count - 2))
    return np.array(distances, dtype=float), np.array([True, False, *labels])


@given(scores())
def test_every_point_of_the_det_curve_is_what_counting_gives(case):
    distances, genuine = case
    curve = det_curve(distances, genuine)
    for fmr, fnmr, threshold in zip(*curve, strict=True):
        accepted = distances <= threshold
        assert fmr == pytest.approx(accepted[~genuine].mean())
        assert fnmr == pytest.approx(1 - accepted[genuine].mean())
    assert (curve.fmr[0], curve.fnmr[0]) == (0, 1)
    assert (curve.fmr[-1], curve.fnmr[-1]) == (1, pytest.approx(0))
    assert len(curve.thresholds) == len(np.unique(distances)) + 1


@given(scores())
def test_det_curve_equals_scikit_learns_roc(case):
    distances, genuine = case
    fmr, tpr, _ = roc_curve(genuine, -distances, drop_intermediate=False)
    curve = det_curve(distances, genuine)
    np.testing.assert_allclose(curve.fmr, fmr, atol=1e-12)
    np.testing.assert_allclose(curve.fnmr, 1 - tpr, atol=1e-12)


def test_det_curve_holds_scikit_learns_points(gaussian_scores):
    distances, genuine = gaussian_scores()
    ours = set(zip(*np.round(det_curve(distances, genuine)[:2], 10), strict=True))
    fmr, fnmr, _ = sklearn_det_curve(genuine, -distances)
    assert set(zip(np.round(fmr, 10), np.round(fnmr, 10), strict=True)) <= ours


def test_equal_error_rate_of_hand_made_cases():
    assert equal_error_rate([1, 2, 3, 4], [1, 1, 0, 0]) == 0
    assert equal_error_rate([3, 4, 1, 2], [1, 1, 0, 0]) == 1
    assert equal_error_rate([1, 1, 1, 1], [1, 0, 1, 0]) == 0.5
    # One of four genuine beyond one of four impostors.
    assert equal_error_rate([1, 2, 3, 6, 5, 7, 8, 9], [1, 1, 1, 1, 0, 0, 0, 0]) == 0.25


def test_equal_error_rate_is_that_of_the_normal_distribution(gaussian_scores):
    distances, genuine = gaussian_scores(400_000)
    assert equal_error_rate(distances, genuine) == pytest.approx(stats.norm.cdf(-1), abs=3e-3)


@given(scores())
def test_equal_error_rate_lies_where_the_interpolated_curves_cross(case):
    distances, genuine = case
    fmr, fnmr, _ = det_curve(distances, genuine)
    along = np.arange(len(fmr), dtype=float)
    crossing = optimize.brentq(
        lambda t: np.interp(t, along, fmr) - np.interp(t, along, fnmr), 0, along[-1]
    )
    assert equal_error_rate(distances, genuine) == pytest.approx(
        np.interp(crossing, along, fmr), abs=1e-9
    )


@given(scores(), st.floats(0.01, 0.99))
def test_threshold_keeps_the_rate_and_wastes_nothing(case, fmr):
    distances, genuine = case
    threshold = threshold_at_fmr(distances, genuine, fmr)
    assert error_rates_at_threshold(distances, genuine, threshold).fmr <= fmr + 1e-9
    higher = np.unique(distances[distances > threshold])
    if len(higher):
        assert (distances[~genuine] <= higher[0]).mean() > fmr - 1e-9 or not (
            distances[~genuine] == higher[0]
        ).any()
    possible = [
        (distances[genuine] > t).mean()
        for t in [-1, *distances]
        if (distances[~genuine] <= t).mean() <= fmr
    ]
    assert fnmr_at_fmr(distances, genuine, fmr) == pytest.approx(min(possible))


_RATES = st.one_of(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 1e-13, 1 - 1e-13, 1 - 1e-15, np.nextafter(1, 0)]),
    st.builds(lambda part, whole: min(part, whole - 1) / whole, *[st.integers(1, 40)] * 2),
    st.builds(lambda hundredths: hundredths / 100, st.integers(0, 99)),
)


@given(scores(), _RATES, st.sampled_from([0, 1e-15, -1e-15, 1e-13, -1e-13]))
def test_no_threshold_exceeds_the_rate_and_none_above_it_keeps_it(case, rate, beside):
    distances, genuine = case
    rate = min(max(0.0, rate + beside), np.nextafter(1, 0))
    measured = [
        ((distances[~genuine] <= t).mean(), (distances[genuine] > t).mean())
        for t in [-1.0, *distances, np.inf]
    ]
    least = min(fnmr for fmr, fnmr in measured if fmr <= rate)
    assert fnmr_at_fmr(distances, genuine, rate) == least
    threshold = threshold_at_fmr(distances, genuine, rate)
    assert (distances[~genuine] <= threshold).mean() <= rate
    higher = distances[distances > threshold]
    assert not len(higher) or (distances[~genuine] <= higher.min()).mean() > rate


@st.composite
def single_scores(draw):
    """float32 distances, with ties, zeros, neighbours among floats and infinite ones."""
    values = st.one_of(
        st.sampled_from(np.array([0, 1, 1.5, 2, np.inf], np.float32)),
        st.builds(lambda steps: np.float32(1 + steps * 2**-23), st.integers(0, 3)),
        st.floats(0, width=32, allow_infinity=True),
    )
    count = draw(st.integers(2, 30))
    distances = draw(st.lists(values, min_size=count, max_size=count))
    labels = draw(st.lists(st.booleans(), min_size=count - 2, max_size=count - 2))
    return np.array(distances, np.float32), np.array([True, False, *labels])


@given(single_scores(), _RATES)
def test_a_threshold_keeps_its_rate_where_float32_distances_meet_it(case, rate):
    distances, genuine = case
    threshold = threshold_at_fmr(distances, genuine, rate)
    # NumPy compares in float32 here, as it does for everybody who compares such distances.
    accepted = distances <= threshold
    assert accepted[~genuine].mean() <= rate
    np.testing.assert_array_equal(accepted, distances.astype(float) <= threshold)
    possible = [
        (distances[genuine] > t).mean()
        for t in [np.float32(-1), *distances]
        if (distances[~genuine] <= t).mean() <= rate
    ]
    assert (~accepted)[genuine].mean() == min(possible)


@given(scores(), st.integers(0, 99))
def test_the_threshold_is_at_the_point_of_scikit_learns_roc(case, hundredths):
    distances, genuine = case
    fmr, tpr, _ = roc_curve(genuine, -distances, drop_intermediate=False)
    expected = 1 - tpr[fmr <= hundredths / 100 + 1e-12].max()
    assert fnmr_at_fmr(distances, genuine, hundredths / 100) == pytest.approx(expected, abs=1e-12)


def test_the_threshold_lies_in_the_middle_of_the_gap():
    assert threshold_at_fmr([0.5, 1.0, 2.0], [1, 1, 0], 0) == 1.5
    # An accepted impostor is an end of the gap too.
    assert threshold_at_fmr([0.5, 1.0, 2.0], [1, 0, 0], 0.5) == 1.5
    neighbours = np.nextafter(np.float32(1), np.float32(2))
    assert threshold_at_fmr([1.0, neighbours], [1, 0], 0) == 1.0
    assert threshold_at_fmr([1.0, np.nextafter(1.0, 2)], [1, 0], 0) == 1.0
    large = np.finfo(float).max
    assert threshold_at_fmr([large / 2, large], [1, 0], 0) == pytest.approx(0.75 * large)
    below_zero = threshold_at_fmr([0.0, 1.0], [0, 1], 0)
    assert below_zero < 0
    assert np.float32(below_zero) < 0
    # What could not be acquired is infinitely far: no finite distance says where to stop.
    assert threshold_at_fmr([1.0, 2.0, np.inf], [1, 1, 0], 0) == 2.0
    assert threshold_at_fmr([np.inf, np.inf], [1, 0], 0) < np.inf


@pytest.mark.parametrize("rate", [0.29, 0.57, 0.001, 0.07])
def test_a_rate_that_the_impostors_can_have_is_used_up(rate):
    impostors = 3000
    distances = np.r_[0.5, np.arange(1.0, impostors + 1)]
    threshold = threshold_at_fmr(distances, np.arange(impostors + 1) < 1, rate)
    assert (distances[1:] <= threshold).sum() == round(rate * impostors)


def test_an_impostor_on_the_threshold_is_a_false_match():
    rates = error_rates_at_threshold([1.0, 2.0], [True, False], 2.0)
    assert rates == (1.0, 0.0)
    threshold = threshold_at_fmr([1.0, 2.0], [True, False], 0.5)
    assert 1.0 <= threshold < 2.0


def test_the_papers_names_are_the_same_rates(gaussian_scores):
    distances, genuine = gaussian_scores()
    rates = error_rates_at_threshold(distances, genuine, 2.0)
    assert false_acceptance_rate(distances, genuine, 2.0) == rates.fmr
    assert false_rejection_rate(distances, genuine, 2.0) == rates.fnmr


def test_k_fold_accuracy_equals_trying_every_threshold(gaussian_scores):
    distances, genuine = gaussian_scores(600, genuine_share=0.5)
    folds = np.arange(600) % 10
    result = k_fold_accuracy(distances, genuine, folds)
    for fold in range(10):
        inside = folds == fold
        best = max(
            ((distances[~inside] <= t) == genuine[~inside]).mean() for t in distances[~inside]
        )
        # Whatever threshold was taken, it is one of the best on the other folds.
        candidates = [
            ((distances[inside] <= t + gap) == genuine[inside]).mean()
            for t in distances[~inside]
            for gap in (0, 0.005)
            if ((distances[~inside] <= t) == genuine[~inside]).mean() == best
        ]
        assert min(candidates) - 0.04 <= result.per_fold[fold] <= max(candidates) + 0.04
    assert result.mean == pytest.approx(result.per_fold.mean())
    assert result.mean == pytest.approx(stats.norm.cdf(1), abs=0.04)


@st.composite
def folds_with_failures(draw):
    """Comparisons in two or three folds, some of infinite distance: not acquired."""
    parts = draw(st.lists(scores(), min_size=2, max_size=3))
    distances = np.concatenate([distances for distances, _ in parts])
    genuine = np.concatenate([genuine for _, genuine in parts])
    # Neighbours among floats too, between which there is no middle.
    spacing = draw(st.sampled_from([1.0, np.finfo(float).eps]))
    distances = 1 + spacing * distances
    failed = draw(st.lists(st.booleans(), min_size=len(genuine), max_size=len(genuine)))
    distances[np.array(failed)] = np.inf
    return distances, genuine, np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])


def _accuracy_of_best_threshold(distances, genuine, inside):
    """Accuracy of a fold at the first threshold that makes fewest errors on the others."""
    known = np.unique(distances[~inside & (distances < np.inf)])
    below = np.nextafter(distances[~inside].min(), -np.inf)
    thresholds = [below, *known]
    errors = [
        sum((d <= t) != g for d, g in zip(distances[~inside], genuine[~inside], strict=True))
        for t in thresholds
    ]
    place = errors.index(min(errors))
    between = thresholds[place]
    if place < len(known):
        between = min((between + known[place]) / 2, np.nextafter(known[place], -np.inf))
    return ((distances[inside] <= between) == genuine[inside]).mean()


@given(folds_with_failures())
def test_a_fold_has_the_threshold_of_fewest_errors_and_no_failure_is_accepted(case):
    distances, genuine, folds = case
    result = k_fold_accuracy(distances, genuine, folds)
    for fold, accuracy in enumerate(result.per_fold):
        assert accuracy == _accuracy_of_best_threshold(distances, genuine, folds == fold)


def test_rounding_does_not_choose_between_thresholds_with_as_many_errors():
    # 1 and 3 make one error each of the first fold. As rates, 0 * 0.2 + 0.25 * 0.8 against
    # 1 * 0.2 + 0 * 0.8, the second is smaller in the last digit.
    distances, genuine = [1, 1, 1, 2, 3, 1.2, 2.5], [1, 1, 1, 0, 1, 1, 0]
    assert k_fold_accuracy(distances, genuine, [0] * 5 + [1] * 2).per_fold[1] == 1


def test_failures_leave_the_threshold_where_it_was():
    distances, genuine = [0.1, 0.2, 0.3, np.inf] * 2, [1, 1, 1, 0] * 2
    assert k_fold_accuracy(distances, genuine, np.repeat([0, 1], 4)).per_fold.tolist() == [1, 1]
    # Where most that failed are genuine, accepting everything would make fewest errors.
    distances, genuine = [0.1, 0.2, np.inf, np.inf, np.inf] * 2, [1, 0, 1, 1, 1] * 2
    assert k_fold_accuracy(distances, genuine, np.repeat([0, 1], 5)).per_fold.tolist() == [0.4] * 2


@pytest.mark.parametrize(
    ("distances", "labels", "message"),
    [
        ([1.0, np.nan], [1, 0], "must not be NaN; got 1 NaN"),
        ([-np.inf, 2.0], [1, 0], "larger than minus infinity.*; got 1 that are not"),
        ([1.0, 2.0], [1, 1], "one impostor comparison; got 2 and 0"),
        ([1.0, 2.0], [0, 0], "got 0 and 2"),
        ([1.0, 2.0], [1, 2], "booleans, or 0 and 1"),
        ([1.0, 2.0], [1], r"shape \(n,\); got \(2,\) and \(1,\)"),
        ([[1.0, 2.0]], [[1, 0]], r"shape \(n,\)"),
        ([], [], "got 0 and 0"),
    ],
)
def test_scores_that_mean_nothing_are_refused(distances, labels, message):
    for function in (det_curve, equal_error_rate):
        with pytest.raises(ValueError, match=message):
            function(distances, labels)


@pytest.mark.parametrize("fmr", [1, -0.1, 1.5, np.nan])
def test_a_rate_must_lie_between_zero_and_one(fmr):
    with pytest.raises(ValueError, match="fmr must be a rate, 0 <= fmr < 1"):
        threshold_at_fmr([1, 2], [1, 0], fmr)
    with pytest.raises(ValueError, match="target_fmr must be a rate, 0 < target_fmr < 1"):
        calibrate_threshold([1, 2], [1, 0], fmr)


def test_no_false_match_may_be_asked_for_but_not_calibrated(gaussian_scores):
    distances, genuine = gaussian_scores(2000)
    threshold = threshold_at_fmr(distances, genuine, 0)
    refused = distances[~genuine].min()
    last = distances[distances < refused].max()
    assert threshold == pytest.approx((last + refused) / 2, rel=1e-14)
    assert fnmr_at_fmr(distances, genuine, 0) == (distances[genuine] > threshold).mean()
    with pytest.raises(ValueError, match="target_fmr must be a rate"):
        calibrate_threshold(distances, genuine, 0)


@settings(max_examples=25, deadline=None)
@given(scores(), st.floats(0.1, 10), st.floats(-5, 5))
def test_rates_do_not_depend_on_the_scale_of_the_distance(case, factor, shift):
    distances, genuine = case
    moved = distances * factor + shift
    assert equal_error_rate(moved, genuine) == pytest.approx(equal_error_rate(distances, genuine))


@given(scores())
def test_the_hulls_equal_error_rate_is_the_best_mixture_of_two_thresholds(case):
    fmr, fnmr, _ = det_curve(*case)
    # A linear programme over mixtures of operating points whose two rates are equal.
    best = optimize.linprog(
        fmr, A_eq=np.stack([np.ones(len(fmr)), fmr - fnmr]), b_eq=[1, 0], bounds=(0, 1)
    )
    assert equal_error_rate(*case, convex_hull=True) == pytest.approx(best.fun, abs=1e-9)
    assert equal_error_rate(*case, convex_hull=True) <= equal_error_rate(*case) + 1e-12


def test_failed_comparisons_are_refused_and_counted(gaussian_scores):
    distances, genuine = gaussian_scores()
    failed = np.random.default_rng(1).random(len(genuine)) < 0.1
    summary = verification_summary(np.where(failed, np.nan, distances), genuine)
    assert summary.failed_genuine == (failed & genuine).sum()
    assert summary.failed_impostor == (failed & ~genuine).sum()
    assert summary.failure_to_acquire == failed.mean()
    far = np.where(failed, 99.0, distances)
    assert summary.eer == equal_error_rate(far, genuine)
    assert summary.fmr100 == fnmr_at_fmr(far, genuine, 0.01)
    assert summary.fmr1000 == fnmr_at_fmr(far, genuine, 0.001)
    first_impostor = far[~genuine].min()
    assert summary.zero_fmr == (far[genuine] >= first_impostor).mean()
    assert summary.d_prime == d_prime(distances[~failed], genuine[~failed])
    assert summary.to_dict()["failure_to_acquire"] == failed.mean()


@pytest.mark.parametrize(
    ("distances", "labels", "message"),
    [
        ([np.nan, np.nan, 1.0], [1, 1, 0], "left; of 3 comparisons 2 have an image that was not"),
        ([np.nan] * 3, [1, 1, 0], "left; of 3 comparisons 3 have"),
        ([0.0, 1.0], [1, 1], "one genuine and one impostor comparison; got 2 and 0"),
        ([1.0, np.nan], [1], r"shape \(n,\); got \(2,\) and \(1,\)"),
        ([1.0, 2.0], [1, 3], "booleans, or 0 and 1"),
    ],
)
def test_a_summary_of_nothing_is_refused(distances, labels, message):
    with pytest.raises(ValueError, match=message):
        verification_summary(distances, labels)
