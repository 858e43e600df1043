"""How far a rate may be off: intervals that resample people, and the binomial one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import LEAST_PEOPLE, as_labels, check_none_missing, check_rate, check_whole
from sfpose.metrics._checks import as_booleans, check_people
from sfpose.metrics._drawn_people import PeopleResampler, drawn_rates, numbered, people_of
from sfpose.metrics.error_rates import crossing, equal_error_rate, fnmr_at_fmr

__all__ = [
    "Interval",
    "clopper_pearson_interval",
    "people_interval",
    "people_rate_interval",
]


class Interval(NamedTuple):
    """Lower and upper limit.

    Examples
    --------
    >>> from sfpose.metrics import clopper_pearson_interval
    >>> interval = clopper_pearson_interval(5, 100)
    >>> interval.low < 0.05 < interval.high
    True
    """

    low: float
    high: float


def clopper_pearson_interval(errors: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Exact binomial interval of a rate, as if all comparisons were independent.

    Comparisons that share a person are not independent, so this interval is too
    narrow for most face data; ``people_rate_interval`` allows for that.

    Parameters
    ----------
    errors, trials : int
        Counts, no rates: whole numbers.
    confidence : float, default=0.95
        Between 0 and 1.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If ``errors`` and ``trials`` are no whole numbers, ``errors`` does not lie in
        0 ... ``trials``, there is no trial, or ``confidence`` does not lie between 0 and 1.

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika, 1934.

    Examples
    --------
    >>> from sfpose.metrics import clopper_pearson_interval
    >>> low, high = clopper_pearson_interval(0, 3000)
    >>> low, round(high, 5)
    (0.0, 0.00123)
    """
    trials = check_whole(trials, "trials", 1)
    errors = check_whole(errors, "errors", 0, trials)
    return _binomial(errors, trials, check_rate(confidence, "confidence"))


def _binomial(errors: float, trials: float, confidence: float) -> Interval:
    """Clopper and Pearson's limits, of counts that need not be whole."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else float(beta.ppf(tail, errors, trials - errors + 1))
    high = 1.0 if errors == trials else float(beta.ppf(1 - tail, errors + 1, trials - errors))
    return Interval(low, high)


def people_interval(
    distances: ArrayLike,
    is_genuine: ArrayLike,
    first_people: ArrayLike,
    second_people: ArrayLike,
    *,
    fmr: float | None = None,
    confidence: float = 0.95,
    draws: int = 200,
    random_state: int = 0,
) -> Interval:
    """Bootstrap interval of an error rate that resamples people, not comparisons.

    Of the equal error rate, or of the false non-match rate at a false match rate. People are
    drawn with replacement. A comparison of two of them counts as often as the product of their
    draws, one of a person with themselves as often as that person was drawn: the pigeonhole or
    vertex bootstrap. It is right where everybody is compared with
    everybody, and too wide where most people take part in few comparisons, as in LFW (about
    1.6 times the binomial interval, where comparisons hardly depend on each other).

    By how much the rate varies from drawing to drawing, it is found how many independent trials
    would tell as much (no more than there are comparisons), and the interval is Clopper and
    Pearson's of these: Korn and Graubard's for surveys that ask several of one household, with
    Student's distribution for what few people tell of their own variance. Percentiles of the
    drawings would leave the truth above the upper limit too often where people are few or errors
    rare.

    The interval always reaches to what so many people cannot exclude, the genuine ones or the
    impostors, whichever are fewer: with 95 % confidence, none of ``n`` people erring allows a
    share of ``1 - 0.05 ** (1 / n)`` who do, 5.8 % of 50. Drawings cannot tell of people who are
    rare and err often where none of them is at hand, or one. Where none errs at the ``fmr`` that
    is asked for and some do in drawings, it reaches to their percentile if that is greater.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
    first_people, second_people : arrays of shape (n,)
        Who is on either side of each comparison.
    fmr : float, optional
        Below 1; the interval is that of ``fnmr_at_fmr`` at this rate, with the threshold that
        each drawing would choose. That of the equal error rate if not given.
    confidence : float, default=0.95
        Between 0 and 1.
    draws : int, default=200
        At least 2.
    random_state : int, default=0

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If the scores are refused, somebody has no name, fewer than two people are compared, or
        ``fmr``, ``confidence`` or ``draws`` is out of range.

    References
    ----------
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007; Snijders and
    Borgatti, "Non-parametric standard errors and tests for network statistics",
    Connections, 1999; Korn and Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", Survey Methodology, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import fnmr_at_fmr, people_interval
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.integers(0, 30, (2, 2000))
    >>> genuine = first == second
    >>> distances = rng.normal(np.where(genuine, 1.0, 3.0))
    >>> low, high = people_interval(distances, genuine, first, second)
    >>> low < 0.16 < high
    True
    >>> low, high = people_interval(distances, genuine, first, second, fmr=0.1)
    >>> low < fnmr_at_fmr(distances, genuine, 0.1) < high
    True
    """
    check_rate(confidence, "confidence")
    draws = check_whole(draws, "draws", 2)
    if fmr is not None:
        check_rate(fmr, "fmr", zero=True)
    resampler = PeopleResampler(distances, is_genuine, first_people, second_people)
    rng = np.random.default_rng(random_state)
    rates = []
    for _ in range(draws):
        drawn = resampler.draw(rng)
        if drawn is None:
            continue
        # The first operating point refuses all, as that of a DET curve.
        matches, refusals = np.r_[0.0, drawn[0]], np.r_[1.0, drawn[1]]
        if fmr is None:
            rates.append(crossing(matches, refusals))
        else:
            rates.append(float(refusals[np.searchsorted(matches, fmr, side="right") - 1]))
    if len(rates) < 2:
        raise ValueError(
            "two drawings of people must have genuine and impostor comparisons; "
            f"got {len(rates)} of {draws}, too few people or draws"
        )
    if fmr is None:
        rate = equal_error_rate(distances, is_genuine)
    else:
        rate = fnmr_at_fmr(distances, is_genuine, fmr)
    return _around(rate, np.array(rates), resampler.comparisons, confidence, resampler.fewer_people)


def _around(
    rate: float,
    rates: NDArray[np.float64],
    comparisons: int,
    confidence: float,
    people: int,
    *,
    of_strangers: bool = False,
) -> Interval:
    """Interval of a rate that has other values where other people are drawn."""
    most = 1 - (1 - confidence) ** (1 / people)
    if rate in (0, 1):
        away = np.quantile(abs(rates - rate), (1 + confidence) / 2, method="higher")
        reach = max(most, float(away))
        return Interval(0.0, reach) if rate == 0 else Interval(1 - reach, 1.0)
    trials = _independent_trials(rate, rates, comparisons, confidence, people)
    low, high = _binomial(rate * trials, trials, confidence)
    return Interval(low, high) if of_strangers else Interval(min(low, 1 - most), max(high, most))


def people_rate_interval(
    is_error: ArrayLike,
    first_people: ArrayLike,
    second_people: ArrayLike,
    *,
    confidence: float = 0.95,
    draws: int = 400,
    random_state: int = 0,
) -> Interval:
    """Interval of a share of comparisons, such as an error rate at a fixed threshold.

    Made as that of ``people_interval``; what is said there of sparse comparisons and of what people
    cannot exclude holds here as well. Where different people are compared, though, it reaches to
    that only if no comparison is counted, or nearly every interval of a false match rate would: it
    does not allow for people whom many others match if none of them is at hand.

    Parameters
    ----------
    is_error : bool array of shape (n,)
        Which comparisons are counted, of genuine ones or of impostors; 0 and 1 serve too.
    first_people, second_people : arrays of shape (n,)
        Who is on either side of each comparison.
    confidence : float, default=0.95
        Between 0 and 1.
    draws : int, default=400
        At least 2.
    random_state : int, default=0

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If shapes differ, there is no comparison, a value is missing or neither 0 nor 1, somebody
        has no name, there are fewer than two people, or ``confidence`` or ``draws`` is out of
        range.

    References
    ----------
    Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import people_rate_interval
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.integers(0, 50, (2, 4000))
    >>> low, high = people_rate_interval(rng.random(4000) < 0.1, first, second)
    >>> low < 0.1 < high
    True
    """
    check_rate(confidence, "confidence")
    draws = check_whole(draws, "draws", 2)
    rule = "is_error must say of each comparison whether it is"
    given = as_labels(is_error, rule)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"is_error must have shape (n,), n >= 1; got {given.shape}")
    check_none_missing(given, rule)
    errors = as_booleans(given, "is_error").astype(np.float64)
    people, pairs = numbered(*check_people(first_people, second_people, errors.shape))
    rate = float(errors.mean())
    if rate in (0, 1):
        return _around(rate, np.array([rate]), len(errors), confidence, people)
    rates = drawn_rates(errors, pairs, people, draws, np.random.default_rng(random_state))
    if len(rates) < 2:
        raise ValueError(
            "two drawings of people must have a comparison; "
            f"got {len(rates)} of {draws}, too few people or draws"
        )
    of_strangers = bool((pairs[0] != pairs[1]).any())
    return _around(rate, rates, len(errors), confidence, people, of_strangers=of_strangers)


def _independent_trials(
    rate: float, rates: NDArray[np.float64], comparisons: int, confidence: float, people: int
) -> float:
    """How many independent trials would tell as much of a rate as comparisons of people do."""
    from scipy.stats import norm, t

    # Drawing from the people at hand, and not from all, lessens what varies by (n - 1) / n.
    variance = rates.var() * people / (people - 1)
    tail = (1 - confidence) / 2
    known = (norm.ppf(tail) / t.ppf(tail, people - 1)) ** 2
    if rate * (1 - rate) * known >= comparisons * variance:
        return comparisons
    return float(rate * (1 - rate) * known / variance)


def intervals_at(
    accepted: NDArray[np.bool_],
    genuine: NDArray[np.bool_],
    first: NDArray[np.generic],
    second: NDArray[np.generic],
) -> tuple[Interval | None, Interval | None]:
    """Intervals over people of false match and non-match rate; None where people are few."""

    def of(errors: NDArray[np.bool_], kind: NDArray[np.bool_]) -> Interval | None:
        sides = first[kind], second[kind]
        if people_of(*sides) < LEAST_PEOPLE:
            return None
        return people_rate_interval(errors[kind], *sides)

    return of(accepted, ~genuine), of(~accepted, genuine)
