"""How far a rate may be off: intervals that resample people, and the binomial one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import LEAST_PEOPLE, check_rate, check_whole
from sfpose.metrics._checks import as_booleans, check_people
from sfpose.metrics._drawn_people import PeopleResampler, drawn_rates, numbered, people_of
from sfpose.metrics.error_rates import crossing

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
    1.6 times the binomial interval, where comparisons hardly depend on each other). Of few people
    (twenty rather than a hundred) the limits lie too near, the upper one above all;
    ``people_rate_interval``, of a fixed threshold, does not have that fault.

    No drawing has an error where no comparison has one. What the people can exclude is the
    interval then, the genuine ones' or the impostors', whichever are fewer: with 95 % confidence,
    none of ``n`` people erring allows a share of ``1 - 0.05 ** (1 / n)``, 5.8 % of 50.

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
        At least 1.
    random_state : int, default=0

    Returns
    -------
    Interval
        Percentiles of the drawings.

    Raises
    ------
    ValueError
        If the scores are refused, somebody has no name, fewer than two people are compared, or
        ``fmr``, ``confidence`` or ``draws`` is out of range.

    References
    ----------
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007; Snijders and
    Borgatti, "Non-parametric standard errors and tests for network statistics",
    Connections, 1999.

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
    draws = check_whole(draws, "draws", 1)
    if fmr is not None:
        check_rate(fmr, "fmr", zero=True)
    resampler = PeopleResampler(distances, is_genuine, first_people, second_people)
    rng = np.random.default_rng(random_state)
    values = []
    for _ in range(draws):
        rates = resampler.draw(rng)
        if rates is None:
            continue
        # The first operating point refuses all, as that of a DET curve.
        matches, refusals = np.r_[0.0, rates[0]], np.r_[1.0, rates[1]]
        if fmr is None:
            values.append(crossing(matches, refusals))
        else:
            values.append(float(refusals[np.searchsorted(matches, fmr, side="right") - 1]))
    if not values:
        raise ValueError(
            "no drawing of people had genuine and impostor comparisons; too few people"
        )
    return _middle(np.array(values), confidence, resampler.fewer_people)


def _of_no_doubt(values: NDArray[np.float64], confidence: float, people: int) -> Interval | None:
    """What so many people can exclude, where nobody errs (all values are 0) or everybody (1)."""
    most = 1 - (1 - confidence) ** (1 / people)
    if not values.any():
        return Interval(0.0, most)
    if (values == 1).all():
        return Interval(1 - most, 1.0)
    return None


def _middle(values: NDArray[np.float64], confidence: float, people: int) -> Interval:
    """Between which limits so large a share of the rates lies, as much left out on either side."""
    excluded = _of_no_doubt(values, confidence, people)
    if excluded is not None:
        return excluded
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


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

    People are drawn as by ``people_interval``; what is said there of sparse comparisons and of
    none counted holds here as well. By how much the share varies from drawing to drawing, it is
    found how many independent comparisons would tell as much (no more than there are), and the
    interval is Clopper and Pearson's of these: Korn and Graubard's for surveys that ask several
    of one household, with Student's distribution for what few people tell of their own variance.

    Percentiles of the drawings themselves, which ``people_interval`` gives, leave the truth above
    the upper limit too often where people are few or errors rare.

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
        If shapes differ, there is no comparison, a value is neither 0 nor 1, somebody has no
        name, there are fewer than two people, or ``confidence`` or ``draws`` is out of range.

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
    given = np.asarray(is_error)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"is_error must have shape (n,), n >= 1; got {given.shape}")
    errors = as_booleans(given, "is_error").astype(np.float64)
    people, pairs = numbered(*check_people(first_people, second_people, errors.shape))
    excluded = _of_no_doubt(errors, confidence, people)
    if excluded is not None:
        return excluded
    rate = float(errors.mean())
    rates = drawn_rates(errors, pairs, people, draws, np.random.default_rng(random_state))
    if len(rates) < 2:
        raise ValueError("hardly a drawing of people had a comparison; too few people")
    trials = _independent_trials(rate, rates, len(errors), confidence, people)
    return _binomial(rate * trials, trials, confidence)


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
