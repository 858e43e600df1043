"""How far rates may be off, against drawing people and repeating their comparisons by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from sfpose.evaluation import row_from_distances
from sfpose.metrics import (
    calibrate_threshold,
    clopper_pearson_interval,
    equal_error_rate,
    k_fold_accuracy,
    people_interval,
    people_rate_interval,
)
from sfpose.protocols import all_pairs


def _scores(people=12, images=3):
    """Distances of all pairs, which are genuine, and who is on either side."""
    trials = all_pairs(np.repeat(np.arange(people), images), range(people * images))
    distances = np.random.default_rng(0).normal(np.where(trials.is_genuine, 1.0, 2.0))
    return distances, trials.is_genuine, trials.first_people, trials.second_people


def _times(rng, first, second):
    """How often each comparison counts in a drawing of people: once for each of both sides."""
    people = max(first.max(), second.max()) + 1
    drawn = np.bincount(rng.integers(0, people, people), minlength=people)
    return drawn[first] * np.where(first == second, 1, drawn[second])


def _equal_error_rates(distances, genuine, first, second, *, draws, seed):
    """Of each drawing, with every comparison repeated."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        times = _times(rng, first, second)
        yield equal_error_rate(np.repeat(distances, times), np.repeat(genuine, times))


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_an_interval_is_as_wide_as_drawings_of_people_vary(confidence, korn_graubard):
    case = _scores()
    found = people_interval(*case, confidence=confidence, draws=50, random_state=7)
    rates = list(_equal_error_rates(*case, draws=50, seed=7))
    rate, variance = equal_error_rate(*case[:2]), np.var(rates) * 12 / 11
    np.testing.assert_allclose(found, korn_graubard(rate, variance, 12, confidence), rtol=1e-9)


def test_a_row_of_a_table_draws_the_people_of_both_sides(korn_graubard):
    trials = all_pairs(np.repeat(np.arange(12), 3), range(36))
    distances, *labels = _scores()
    row = row_from_distances("x", trials, distances, draws=20)
    rates = list(_equal_error_rates(distances, *labels, draws=20, seed=0))
    expected = korn_graubard(row.rates.eer, np.var(rates) * 12 / 11, 12)
    np.testing.assert_allclose(row.eer_interval, expected, rtol=1e-9)


@pytest.mark.parametrize("gap", [2.0, 3.2])
@pytest.mark.parametrize("people", [20, 50])
def test_an_interval_of_the_equal_error_rate_holds_the_truth_as_often_as_it_says(people, gap):
    """Both kinds of distances vary by person, image and pair, and by as much, all normal.

    Of 200 intervals of 95 %, 181 or more hold it but once in 200 times, if all are right.
    """
    of = np.repeat(np.arange(people), 3)
    trials = all_pairs(of, range(len(of)))
    first, second, genuine = trials.first, trials.second, trials.is_genuine
    truth = stats.norm.cdf(-gap / 2 / np.sqrt(2 * 0.4**2 + 2 * 0.3**2 + 0.5**2))
    rng = np.random.default_rng(people)
    held = 0
    for number in range(200):
        own = rng.normal(0, 0.4 * np.sqrt(2), people)[of] / 2 + rng.normal(0, 0.3, len(of))
        others = rng.normal(0, 0.4, people)[of] + rng.normal(0, 0.3, len(of)) + gap / 2
        images = np.where(genuine, own[first] + own[second], others[first] + others[second])
        distances = images + rng.normal(0, 0.5, len(first))
        low, high = people_interval(
            distances, genuine, of[first], of[second], draws=100, random_state=number
        )
        held += low <= truth <= high
    assert held >= 181


def test_a_calibration_draws_the_people_of_both_sides():
    distances, genuine, first, second = _scores(20)
    found = calibrate_threshold(
        distances, genuine, 0.05, first_people=first, second_people=second, warn=False
    )
    accepted = distances <= found.threshold
    for errors, kind, interval in [
        (accepted, ~genuine, found.fmr_interval),
        (~accepted, genuine, found.fnmr_interval),
    ]:
        assert interval == people_rate_interval(errors[kind], first[kind], second[kind])


@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("people", [10, 20, 50])
def test_an_interval_of_false_matches_holds_the_truth_as_often_as_it_says(people, rate):
    """Simulated distances of a person, an image and a pair, all normal, so that it is known.

    Of 200 intervals of 95 %, 181 or more hold it but once in 200 times, if all are right.
    """
    rng = np.random.default_rng(people)
    trials = all_pairs(np.repeat(np.arange(people), 3), range(people * 3))
    impostors = ~trials.is_genuine
    first, second = trials.first[impostors], trials.second[impostors]
    of = np.repeat(np.arange(people), 3)
    threshold = stats.norm.ppf(rate, scale=np.sqrt(2 * 0.3**2 + 2 * 0.3**2 + 0.5**2))
    held = 0
    for number in range(200):
        images = rng.normal(0, 0.3, people)[of] + rng.normal(0, 0.3, len(of))
        distances = images[first] + images[second] + rng.normal(0, 0.5, len(first))
        low, high = people_rate_interval(
            distances <= threshold, of[first], of[second], draws=100, random_state=number
        )
        held += low <= rate <= high
    assert held >= 181


@pytest.mark.parametrize(("people", "rate"), [(20, 0.15), (50, 0.07), (100, 0.04)])
def test_people_who_are_compared_once_have_the_binomial_interval(people, rate):
    """But for Student's distribution, and n - 1: as of 16.7, 45.6 and 96.6 trials."""
    errors = np.arange(people) < round(people * rate)
    found = people_rate_interval(errors, np.arange(people), np.arange(people), draws=4000)
    trials = (people - 1) * (stats.norm.isf(0.025) / stats.t.isf(0.025, people - 1)) ** 2
    wrong = errors.mean() * trials
    low = stats.beta(wrong, trials - wrong + 1).ppf(0.025)
    high = stats.beta(wrong + 1, trials - wrong).isf(0.025)
    assert found == pytest.approx((low, high), rel=0.05)


def test_what_cannot_vary_counts_each_comparison():
    """Two people, each compared with the other alone, are both drawn or not at all."""
    found = people_rate_interval([1, 0, 0, 0], list("abab"), list("baba"))
    assert found == clopper_pearson_interval(1, 4)


def test_none_who_errs_is_no_proof_that_nobody_would():
    """The limit is the rate at which so many people would all be right once in twenty times."""
    _, genuine, first, second = _scores(50)
    bound = stats.binomtest(0, 50).proportion_ci(0.9, method="exact").high
    none = np.zeros(genuine.sum(), bool)
    sides = first[genuine], second[genuine]
    assert people_rate_interval(none, *sides) == pytest.approx((0, bound))
    assert people_rate_interval(~none, *sides) == pytest.approx((1 - bound, 1))
    apart = np.where(genuine, 0.0, 1.0)
    assert people_interval(apart, genuine, first, second) == pytest.approx((0, bound))
    assert people_interval(apart, genuine, first, second, fmr=0.1) == pytest.approx((0, bound))
    assert people_interval(1 - apart, genuine, first, second) == pytest.approx((1 - bound, 1))
    found = calibrate_threshold(apart, genuine, 0.01, first_people=first, second_people=second)
    assert found.fmr_interval == pytest.approx((0, bound))
    assert found.fnmr_interval == pytest.approx((0, bound))


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 3), st.booleans())
def test_a_single_error_allows_no_less_than_none(people, images, wrong, mirrored):
    sides = np.repeat(np.arange(people), images)
    errors = np.arange(len(sides)) < wrong
    allowed = stats.binomtest(0, people).proportion_ci(0.9, method="exact").high
    low, high = people_rate_interval(errors ^ mirrored, sides, sides, draws=50)
    if mirrored:
        low, high = 1 - high, 1 - low
    assert low <= errors.mean() <= high
    assert high >= allowed * (1 - 1e-9)


@pytest.mark.parametrize(("people", "share"), [(20, 0.05), (50, 0.02), (100, 0.01)])
def test_an_interval_holds_the_truth_where_few_people_err_often(people, share):
    """Half of their comparisons, others one in 500; as often as the interval says, as above."""
    rng = np.random.default_rng(people)
    of = np.repeat(np.arange(people), 45)
    truth = share * 0.5 + (1 - share) * 0.002
    held = 0
    for number in range(200):
        rate = np.where(rng.random(people) < share, 0.5, 0.002)
        errors = rng.random(len(of)) < rate[of]
        low, high = people_rate_interval(errors, of, of, draws=100, random_state=number)
        held += low <= truth <= high
    assert held >= 181


def test_an_equal_error_rate_holds_the_truth_where_few_people_err_often():
    """One in fifty people is as far from themselves as strangers are but for one in 43."""
    people = 60
    trials = all_pairs(np.repeat(np.arange(people), 2), range(people * 2))
    first, second, genuine = trials.first_people, trials.second_people, trials.is_genuine

    def gap(threshold):
        refused = 0.98 * stats.norm.sf(threshold) + 0.02 * stats.norm.sf(threshold - 4)
        return stats.norm.cdf(threshold - 6) - refused

    truth = stats.norm.cdf(optimize.brentq(gap, 0, 6) - 6)
    rng = np.random.default_rng(0)
    held = 0
    for number in range(200):
        far = np.where(rng.random(people) < 0.02, 4.0, 0.0)
        distances = rng.normal(np.where(genuine, far[first], 6.0))
        low, high = people_interval(
            distances, genuine, first, second, draws=50, random_state=number
        )
        held += low <= truth <= high
    assert held >= 181


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("errors", [0, 3, 40])
def test_the_binomial_interval_is_scipys_at_any_confidence(errors, confidence):
    expected = stats.binomtest(errors, 40).proportion_ci(confidence, method="exact")
    found = clopper_pearson_interval(errors, 40, confidence=confidence)
    assert found == pytest.approx(tuple(expected))


def test_folds_without_which_no_threshold_is_found_are_named():
    distances, genuine = [1, 2, 3, 4], [1, 1, 0, 0]
    with pytest.raises(ValueError, match="without 'own' they hold 0 and 2"):
        k_fold_accuracy(distances, genuine, ["own", "own", "strangers", "strangers"])


@pytest.mark.parametrize("folds", [2, 10])
def test_the_error_of_an_accuracy_is_that_of_the_mean_over_folds(folds):
    distances, genuine, *_ = _scores(20)
    found = k_fold_accuracy(distances, genuine, np.arange(len(distances)) % folds)
    assert found.standard_error == pytest.approx(stats.sem(found.per_fold))
    assert found.standard_error > 0
