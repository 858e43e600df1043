"""Error rates against hand-made cases, scikit-learn and brute force."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import det_curve as sklearn_det_curve
from sklearn.metrics import roc_curve

from sfpose.metrics import (
    PeopleResampler,
    SmallSampleWarning,
    calibrate_threshold,
    clopper_pearson_interval,
    d_prime,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    false_acceptance_rate,
    false_rejection_rate,
    fnmr_at_fmr,
    k_fold_accuracy,
    people_interval,
    people_rate_interval,
    threshold_at_fmr,
    verification_summary,
)


def _gaussian(count=4000, seed=0, genuine_share=0.3):
    rng = np.random.default_rng(seed)
    genuine = rng.random(count) < genuine_share
    return rng.normal(np.where(genuine, 1.0, 3.0)), genuine


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


def test_det_curve_holds_scikit_learns_points():
    distances, genuine = _gaussian()
    ours = set(zip(*np.round(det_curve(distances, genuine)[:2], 10), strict=True))
    fmr, fnmr, _ = sklearn_det_curve(genuine, -distances)
    assert set(zip(np.round(fmr, 10), np.round(fnmr, 10), strict=True)) <= ours


def test_equal_error_rate_of_hand_made_cases():
    assert equal_error_rate([1, 2, 3, 4], [1, 1, 0, 0]) == 0
    assert equal_error_rate([3, 4, 1, 2], [1, 1, 0, 0]) == 1
    assert equal_error_rate([1, 1, 1, 1], [1, 0, 1, 0]) == 0.5
    # One of four genuine beyond one of four impostors.
    assert equal_error_rate([1, 2, 3, 6, 5, 7, 8, 9], [1, 1, 1, 1, 0, 0, 0, 0]) == 0.25


def test_equal_error_rate_is_that_of_the_normal_distribution():
    distances, genuine = _gaussian(400_000)
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


def test_the_papers_names_are_the_same_rates():
    distances, genuine = _gaussian()
    rates = error_rates_at_threshold(distances, genuine, 2.0)
    assert false_acceptance_rate(distances, genuine, 2.0) == rates.fmr
    assert false_rejection_rate(distances, genuine, 2.0) == rates.fnmr


def test_k_fold_accuracy_equals_trying_every_threshold():
    distances, genuine = _gaussian(600, genuine_share=0.5)
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


def test_clopper_pearson_equals_scipy():
    for errors, trials in [(0, 10), (3, 40), (40, 40), (7, 100_000)]:
        expected = stats.binomtest(errors, trials).proportion_ci(method="exact")
        assert clopper_pearson_interval(errors, trials) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match="got 5 of 4"):
        clopper_pearson_interval(5, 4)


def _people_scores(people=60, images=4, seed=0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), images)
    first, second = np.triu_indices(len(person), 1)
    genuine = person[first] == person[second]
    hard = rng.normal(0, 0.6, people)
    distances = rng.normal(np.where(genuine, 1.0 + hard[person[first]], 3.0))
    return distances, genuine, person[first], person[second]


def test_resampling_people_equals_repeating_their_comparisons():
    distances, genuine, first, second = _people_scores(12, 3)
    resampler = PeopleResampler(distances, genuine, first, second)
    fmr, fnmr = resampler.draw(np.random.default_rng(5))
    drawn = np.bincount(np.random.default_rng(5).integers(0, 12, 12), minlength=12)
    times = np.where(first == second, drawn[first], drawn[first] * drawn[second])
    repeated, labels = np.repeat(distances, times), np.repeat(genuine, times)
    for index in range(0, len(resampler.thresholds), 40):
        rates = error_rates_at_threshold(repeated, labels, resampler.thresholds[index])
        assert (fmr[index], fnmr[index]) == pytest.approx(rates)


def test_interval_over_people_is_wider_than_the_binomial_one():
    distances, genuine, first, second = _people_scores(images=10)
    low, high = people_interval(distances, genuine, first, second)
    rate = equal_error_rate(distances, genuine)
    assert low < rate < high
    binomial = clopper_pearson_interval(round(rate * genuine.sum()), int(genuine.sum()))
    assert high - low > binomial.high - binomial.low


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(40):
        case = _people_scores(40, 3, seed)
        low, high = people_interval(*case, draws=100, random_state=seed)
        # P(N(1, 1 + 0.36) > t) = P(N(3, 1) <= t) at t = 1 + 2 s / (1 + s), s = sqrt(1.36).
        spread = np.sqrt(1.36)
        truth = stats.norm.cdf(-2 / (1 + spread))
        covered += low <= truth <= high
    assert covered >= 32


def test_calibration_reports_what_it_rests_on():
    distances, genuine = _gaussian(20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibration = calibrate_threshold(distances, genuine, 0.01)
    assert calibration.achieved_fmr <= 0.01
    assert calibration.achieved_fmr == pytest.approx(0.01, abs=1e-3)
    assert calibration.impostor_pairs == (~genuine).sum()
    assert (calibration.people, calibration.fmr_interval) == (0, None)
    low, high = calibration.fmr_interval_if_independent
    assert low < calibration.achieved_fmr < high
    assert calibration.expected_false_matches == pytest.approx(0.01 * (~genuine).sum())
    assert calibration.to_dict()["threshold"] == calibration.threshold


def test_a_target_the_data_cannot_support_is_said_with_the_counts():
    distances, genuine = _gaussian(8000)
    impostors = (~genuine).sum()
    with pytest.warns(SmallSampleWarning, match=rf"30000 impostor pairs .*got {impostors}"):
        calibrate_threshold(distances, genuine, 1e-3)


def test_the_rule_of_three_speaks_below_three_expected_errors():
    distances, genuine = _gaussian(1000)
    with pytest.warns(SmallSampleWarning, match=r"30000 impostor pairs \(rule of 3\)"):
        calibrate_threshold(distances, genuine, 1e-4)


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


def test_no_false_match_may_be_asked_for_but_not_calibrated():
    distances, genuine = _gaussian(2000)
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


def test_failed_comparisons_are_refused_and_counted():
    distances, genuine = _gaussian()
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


def test_the_interval_of_a_rate_is_that_of_the_resampler():
    distances, genuine, first, second = _people_scores()
    accepted = distances <= 2.0
    for errors, kind in ((accepted, ~genuine), (~accepted, genuine)):
        quick = people_rate_interval(
            errors[kind], first[kind], second[kind], draws=400, random_state=3
        )
        rng, rates = np.random.default_rng(3), []
        for drawn in rng.integers(0, 60, (400, 60)):
            times = np.bincount(drawn, minlength=60)
            weights = times[first[kind]] * np.where(
                first[kind] == second[kind], 1, times[second[kind]]
            )
            rates.append(np.average(errors[kind], weights=weights))
        np.testing.assert_allclose(quick, np.percentile(rates, [2.5, 97.5]), rtol=1e-9)


@pytest.mark.parametrize(
    ("errors", "first", "second", "message"),
    [
        ([True], ["a"], ["a"], "at least two of them; got one"),
        ([], [], [], r"n >= 1; got \(0,\)"),
        ([True, False], ["a", "b"], ["b"], r"and \(1,\)"),
        ([1, 0, np.nan], list("abc"), list("bca"), "booleans, or 0 and 1; got nan"),
        ([3, 0, -1], list("abc"), list("bca"), "booleans, or 0 and 1; got 3"),
    ],
)
def test_an_interval_of_nobody_is_refused(errors, first, second, message):
    with pytest.raises(ValueError, match=message):
        people_rate_interval(errors, first, second)


def test_a_calibration_that_knows_its_people_has_both_intervals():
    distances, genuine, first, second = _people_scores()
    calibration = calibrate_threshold(
        distances, genuine, 0.05, first_people=first, second_people=second
    )
    assert calibration.people == 60
    for rate, interval in (
        (calibration.achieved_fmr, calibration.fmr_interval),
        (calibration.fnmr, calibration.fnmr_interval),
    ):
        assert interval.low < rate < interval.high
    with pytest.raises(ValueError, match="of both sides"):
        calibrate_threshold(distances, genuine, 0.05, first_people=first)
    with pytest.raises(ValueError, match=r"sides must have shape \(28680,\); got \(1,\)"):
        calibrate_threshold(distances, genuine, 0.05, first_people=[1], second_people=second)


@pytest.mark.parametrize(("people", "known"), [(9, False), (10, True)])
def test_few_people_give_no_interval_however_many_pairs_they_have(people, known):
    distances, genuine, first, second = _people_scores(people, 40)
    calibration = calibrate_threshold(
        distances, genuine, 0.05, first_people=first, second_people=second
    )
    assert calibration.people == people
    assert (calibration.fmr_interval is not None) == known
    assert (calibration.fnmr_interval is not None) == known


def test_few_people_with_genuine_pairs_give_no_interval_of_their_rate():
    distances, genuine, first, second = _people_scores(60, 4)
    kept = ~genuine | (first < 9)
    calibration = calibrate_threshold(
        distances[kept], genuine[kept], 0.05, first_people=first[kept], second_people=second[kept]
    )
    assert calibration.fmr_interval is not None
    assert calibration.fnmr_interval is None


@pytest.mark.parametrize("confidence", [95, 1, 0, -0.5, np.nan])
def test_a_confidence_is_no_percentage(confidence):
    match = f"confidence must lie between 0 and 1; got {confidence}"
    with pytest.raises(ValueError, match=match):
        clopper_pearson_interval(5, 100, confidence=confidence)
    with pytest.raises(ValueError, match=match):
        people_interval(*_people_scores(12, 2), confidence=confidence)
    with pytest.raises(ValueError, match=match):
        people_rate_interval([1, 0], ["a", "b"], ["b", "a"], confidence=confidence)


@pytest.mark.parametrize("draws", [0, -1, 1.5, None])
def test_an_interval_of_no_drawing_is_refused(draws):
    match = f"draws must be a whole number, at least 1; got {draws}"
    with pytest.raises(ValueError, match=match):
        people_interval(*_people_scores(12, 2), draws=draws)
    with pytest.raises(ValueError, match=match):
        people_rate_interval([1, 0], ["a", "b"], ["b", "a"], draws=draws)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="threshold must be a number; got nan"):
        error_rates_at_threshold([1.0, 2.0], [1, 0], np.nan)
    assert error_rates_at_threshold([1.0, np.inf], [1, 0], np.inf) == (1.0, 0.0)
