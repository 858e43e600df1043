"""How far a rate may be off: intervals that resample people, and the binomial one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_rate, check_whole
from sfpose.metrics._checks import check_people, check_scores
from sfpose.metrics.error_rates import crossing

__all__ = [
    "Interval",
    "PeopleResampler",
    "clopper_pearson_interval",
    "people_interval",
    "people_rate_interval",
]

LEAST_PEOPLE = 10
"""With fewer, drawings of people are too few and too alike to say how far a rate may be off."""


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
    narrow for most face data; ``people_interval`` is the honest one.

    Parameters
    ----------
    errors, trials : int
    confidence : float, default=0.95
        Between 0 and 1.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If ``errors`` does not lie in 0 ... ``trials``, there is no trial, or ``confidence``
        does not lie between 0 and 1.

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
    from scipy.stats import beta

    if trials < 1 or not 0 <= errors <= trials:
        raise ValueError(f"errors must lie in 0 ... trials, trials >= 1; got {errors} of {trials}")
    tail = (1 - check_rate(confidence, "confidence")) / 2
    low = 0.0 if errors == 0 else float(beta.ppf(tail, errors, trials - errors + 1))
    high = 1.0 if errors == trials else float(beta.ppf(1 - tail, errors + 1, trials - errors))
    return Interval(low, high)


class PeopleResampler:
    """Draws people with replacement and reweights the comparisons between them.

    A comparison of two people counts as often as the product of their draws, one of
    a person with themselves as often as that person was drawn: the pigeonhole or vertex
    bootstrap. Distances are sorted once; each draw costs one pass over them.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    first_people, second_people : arrays of shape (n,)
        Who is on either side of each comparison.

    Raises
    ------
    ValueError
        If the scores are refused or people of a side have another shape.

    References
    ----------
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007; Snijders and
    Borgatti, "Non-parametric standard errors and tests for network statistics",
    Connections, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import PeopleResampler
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.integers(0, 30, (2, 2000))
    >>> distances = rng.normal(np.where(first == second, 1.0, 3.0))
    >>> resampler = PeopleResampler(distances, first == second, first, second)
    >>> fmr, fnmr = resampler.draw(rng)
    >>> fmr.shape == fnmr.shape == resampler.thresholds.shape
    True
    """

    def __init__(
        self,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        first_people: ArrayLike,
        second_people: ArrayLike,
    ) -> None:
        scores, genuine = check_scores(distances, is_genuine)
        first, second = check_people(first_people, second_people, scores.shape)
        people, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
        self._people = len(people)
        order = np.argsort(scores, kind="stable")
        self._genuine = genuine[order]
        self._first = codes[: len(first)][order]
        self._second = codes[len(first) :][order]
        scores = scores[order]
        self._last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
        self.thresholds = scores[self._last]

    def draw(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """False match and non-match rates at ``thresholds`` for one drawing of people.

        None if the drawn people have no genuine or no impostor comparison.
        """
        times = np.bincount(
            rng.integers(0, self._people, self._people), minlength=self._people
        ).astype(np.float64)
        weights = times[self._first]
        apart = self._first != self._second
        weights[apart] *= times[self._second[apart]]
        matches = np.cumsum(np.where(self._genuine, 0.0, weights))
        genuine = np.cumsum(np.where(self._genuine, weights, 0.0))
        if not matches[-1] > 0 or not genuine[-1] > 0:
            return None
        return matches[self._last] / matches[-1], 1 - genuine[self._last] / genuine[-1]


def people_interval(
    distances: ArrayLike,
    is_genuine: ArrayLike,
    first_people: ArrayLike,
    second_people: ArrayLike,
    *,
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float] | None = None,
    confidence: float = 0.95,
    draws: int = 200,
    random_state: int = 0,
) -> Interval:
    """Bootstrap interval of an error rate that resamples people, not comparisons.

    Drawings as those of ``PeopleResampler``: right where everybody is compared with
    everybody, and too wide where most people take part in few comparisons, as in LFW (about
    1.6 times the binomial interval, where comparisons hardly depend on each other).

    No drawing has an error where no comparison has one, so that both limits are 0. That is no
    bound: with 95 % confidence, none of ``n`` people erring allows a share of
    ``1 - 0.05 ** (1 / n)``, 5.8 % of 50. Tables print "below 5.8" then.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    first_people, second_people : arrays of shape (n,)
        Who is on either side of each comparison.
    statistic : callable, optional
        ``statistic(fmr, fnmr)`` of the operating points of one drawing, rising
        thresholds; the equal error rate if not given.
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
        If the scores are refused, fewer than two people are compared, or ``confidence`` or
        ``draws`` is out of range.

    References
    ----------
    See ``PeopleResampler``.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import people_interval
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.integers(0, 30, (2, 2000))
    >>> genuine = first == second
    >>> distances = rng.normal(np.where(genuine, 1.0, 3.0))
    >>> low, high = people_interval(distances, genuine, first, second)
    >>> low < 0.16 < high
    True
    """
    check_rate(confidence, "confidence")
    draws = check_whole(draws, "draws", 1)
    resampler = PeopleResampler(distances, is_genuine, first_people, second_people)
    if resampler._people < 2:
        raise ValueError("an interval over people needs at least two of them; got one")
    rng = np.random.default_rng(random_state)
    values = []
    for _ in range(draws):
        rates = resampler.draw(rng)
        if rates is None:
            continue
        if statistic is None:
            fmr, fnmr = np.r_[0.0, rates[0]], np.r_[1.0, rates[1]]
            values.append(crossing(fmr, fnmr))
        else:
            values.append(statistic(*rates))
    if not values:
        raise ValueError(
            "no drawing of people had genuine and impostor comparisons; too few people"
        )
    return _middle(np.array(values), confidence)


def _middle(values: NDArray[np.float64], confidence: float) -> Interval:
    """Between which limits so large a share of the values lies, as much left out on either side."""
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
    """Bootstrap interval of a share of comparisons that resamples people.

    Faster than ``people_interval`` where the threshold is fixed; what is said there of
    sparse comparisons and of none counted holds here as well.

    Parameters
    ----------
    is_error : bool array of shape (n,)
        Which comparisons are counted, of genuine ones or of impostors; 0 and 1 serve too.
    first_people, second_people : arrays of shape (n,)
        Who is on either side of each comparison.
    confidence : float, default=0.95
        Between 0 and 1.
    draws : int, default=400
        At least 1.
    random_state : int, default=0

    Returns
    -------
    Interval
        Percentiles of the drawings.

    Raises
    ------
    ValueError
        If shapes differ, there is no comparison, a value is neither 0 nor 1, there are fewer
        than two people, or ``confidence`` or ``draws`` is out of range.

    References
    ----------
    See ``PeopleResampler``.

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
    from scipy.sparse import coo_array

    check_rate(confidence, "confidence")
    draws = check_whole(draws, "draws", 1)
    errors = np.asarray(is_error, dtype=np.float64)
    first, second = np.asarray(first_people), np.asarray(second_people)
    if errors.ndim != 1 or not errors.shape == first.shape == second.shape or not len(errors):
        raise ValueError(
            "is_error, first_people and second_people must have one shape (n,), n >= 1; "
            f"got {errors.shape}, {first.shape} and {second.shape}"
        )
    if not np.isin(errors, (0, 1)).all():
        strange = errors[~np.isin(errors, (0, 1))][0]
        raise ValueError(f"is_error must be booleans, or 0 and 1; got {strange:g}")
    people, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    if len(people) < 2:
        raise ValueError("an interval over people needs at least two of them; got one")
    pairs = codes.reshape(2, -1)
    rng = np.random.default_rng(random_state)
    drawn = rng.integers(0, len(people), (draws, len(people)))
    times = np.stack([np.bincount(row, minlength=len(people)) for row in drawn]).astype(float)
    apart = pairs[0] != pairs[1]

    def weighted(counted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of what is counted in each drawing, one or two people a comparison."""
        shape = (len(people),) * 2
        between = coo_array((counted[apart], tuple(pairs[:, apart])), shape=shape).tocsr()
        within = np.bincount(pairs[0, ~apart], counted[~apart], minlength=len(people))
        return np.asarray(((between.T @ times.T).T * times).sum(axis=1) + times @ within)

    totals = weighted(np.ones(len(errors)))
    rates = weighted(errors)[totals > 0] / totals[totals > 0]
    if not len(rates):
        raise ValueError("no drawing of people had a comparison; too few people")
    return _middle(rates, confidence)


def people_of(first: NDArray[np.generic], second: NDArray[np.generic]) -> int:
    """How many people are on either side of comparisons."""
    return len(np.unique(np.concatenate([first, second])))


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
