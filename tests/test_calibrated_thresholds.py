"""Intervals over people, and what a calibration says that it rests on."""

import warnings

import numpy as np
import pytest
from scipy import stats

from sfpose.metrics import (
    SmallSampleWarning,
    calibrate_threshold,
    clopper_pearson_interval,
    equal_error_rate,
    error_rates_at_threshold,
    people_interval,
    people_rate_interval,
)
from sfpose.metrics._drawn_people import PeopleResampler


def test_clopper_pearson_equals_scipy():
    for errors, trials in [(0, 10), (3, 40), (40, 40), (7, 100_000)]:
        expected = stats.binomtest(errors, trials).proportion_ci(method="exact")
        assert clopper_pearson_interval(errors, trials) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match=r"errors must be a whole number in 0 \.\.\. 4; got 5"):
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


def test_calibration_reports_what_it_rests_on(gaussian_scores):
    distances, genuine = gaussian_scores(20_000)
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


def test_a_target_the_data_cannot_support_is_said_with_the_counts(gaussian_scores):
    distances, genuine = gaussian_scores(8000)
    impostors = (~genuine).sum()
    with pytest.warns(SmallSampleWarning, match=rf"30000 impostor pairs .*got {impostors}"):
        calibrate_threshold(distances, genuine, 1e-3)


def test_the_rule_of_three_speaks_below_three_expected_errors(gaussian_scores):
    distances, genuine = gaussian_scores(1000)
    with pytest.warns(SmallSampleWarning, match=r"30000 impostor pairs \(rule of 3\)"):
        calibrate_threshold(distances, genuine, 1e-4)


def test_the_interval_of_a_rate_is_that_of_the_resampler(korn_graubard):
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
        expected = korn_graubard(errors[kind].mean(), np.var(rates) * 60 / 59, 60)
        assert quick == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("errors", "first", "second", "message"),
    [
        ([True], ["a"], ["a"], "at least two of them; got one"),
        ([], [], [], r"n >= 1; got \(0,\)"),
        ([True, False], ["a", "b"], ["b"], r"\(2,\); got \(2,\) and \(1,\)"),
        ([1, 0, np.nan], list("abc"), list("bca"), "whether it is; that of row 2 is missing"),
        (
            np.ma.array([1, 0, 0], mask=[0, 1, 0]),
            list("abc"),
            list("bca"),
            "whether it is; that of row 1 is missing",
        ),
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


@pytest.mark.filterwarnings("ignore:a threshold needs at least 10 people; got 9")
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
    match = f"confidence must be a rate, 0 < confidence < 1; got {confidence}"
    with pytest.raises(ValueError, match=match):
        clopper_pearson_interval(5, 100, confidence=confidence)
    with pytest.raises(ValueError, match=match):
        people_interval(*_people_scores(12, 2), confidence=confidence)
    with pytest.raises(ValueError, match=match):
        people_rate_interval([1, 0], ["a", "b"], ["b", "a"], confidence=confidence)


@pytest.mark.parametrize("draws", [0, -1, 1, 1.5, None])
def test_an_interval_of_less_than_two_drawings_is_refused(draws):
    match = f"draws must be a whole number, at least 2; got {draws}"
    with pytest.raises(ValueError, match=match):
        people_interval(*_people_scores(12, 2), draws=draws)
    with pytest.raises(ValueError, match=match):
        people_rate_interval([1, 0], ["a", "b"], ["b", "a"], draws=draws)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="threshold must be a number; got nan"):
        error_rates_at_threshold([1.0, 2.0], [1, 0], np.nan)
    assert error_rates_at_threshold([1.0, 2.0], [1, 0], np.inf) == (1.0, 0.0)
    assert error_rates_at_threshold([1.0, np.inf], [1, 0], np.inf) == (0.0, 0.0)
