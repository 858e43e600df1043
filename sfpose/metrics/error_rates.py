"""Error rates of verification: DET curve, equal error rate, rates at a threshold.

Every function takes ``(distances, is_genuine)``: a smaller distance means more alike,
and a comparison is accepted when its distance is at most the threshold, so that an
impostor exactly on the threshold is a false match.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_rate
from sfpose.metrics._checks import check_scores, check_threshold

__all__ = [
    "DetCurve",
    "ErrorRates",
    "d_prime",
    "det_curve",
    "equal_error_rate",
    "error_rates_at_threshold",
    "false_acceptance_rate",
    "false_rejection_rate",
    "fnmr_at_fmr",
    "threshold_at_fmr",
]


class DetCurve(NamedTuple):
    """Operating points of a verification, from refusing all to accepting all that can be.

    Attributes
    ----------
    fmr : float64 array of shape (n,)
        False match rate, rising from 0 to 1, or to the share of impostors at finite distances.
    fnmr : float64 array of shape (n,)
        False non-match rate, falling from 1 to 0, or to the share of genuine ones at infinite
        distances.
    thresholds : float64 array of shape (n,)
        Rising; the first is below every distance.

    Examples
    --------
    >>> from sfpose.metrics import det_curve
    >>> curve = det_curve([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    >>> curve.thresholds[1:].tolist()
    [0.1, 0.35, 0.4, 0.8]
    """

    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class ErrorRates(NamedTuple):
    """False match rate and false non-match rate at one threshold, 0 to 1.

    Examples
    --------
    >>> from sfpose.metrics import error_rates_at_threshold
    >>> rates = error_rates_at_threshold([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    >>> rates.fmr, rates.fnmr
    (0.5, 0.5)
    """

    fmr: float
    fnmr: float


def det_curve(distances: ArrayLike, is_genuine: ArrayLike) -> DetCurve:
    """All operating points: false match against false non-match rate.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike: similarities give a curve turned round, without a word.
        Infinite where an image could not be acquired: refused at every threshold.
    is_genuine : bool array of shape (n,)
        True where both images show the same person.

    Returns
    -------
    DetCurve

    Raises
    ------
    ValueError
        If the input is refused: see ``equal_error_rate``.

    Examples
    --------
    >>> from sfpose.metrics import det_curve
    >>> curve = det_curve([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    >>> curve.fmr.tolist(), curve.fnmr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0, 0.0])
    """
    scores, genuine = check_scores(distances, is_genuine)
    impostors, own, thresholds = accepted_counts(scores, genuine)
    return DetCurve(impostors / (~genuine).sum(), 1 - own / genuine.sum(), thresholds)


def accepted_counts(
    scores: NDArray[np.float64], genuine: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Accepted impostors and genuine comparisons at the thresholds of a ``DetCurve``."""
    order = np.argsort(scores, kind="stable")
    scores, genuine = scores[order], genuine[order]
    last = last_of_each(scores)
    own = np.r_[0, np.cumsum(genuine)[last]]
    thresholds = np.r_[np.nextafter(scores[0], -np.inf), scores[last]]
    return np.r_[0, last + 1] - own, own, thresholds


def last_of_each(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of sorted distances up to which a threshold accepts: the last of each finite value."""
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    return last[scores[last] < np.inf]


def equal_error_rate(
    distances: ArrayLike, is_genuine: ArrayLike, *, convex_hull: bool = False
) -> float:
    """Rate at which false matches and false non-matches are equally frequent.

    Between the two neighbouring operating points where the curves cross, the DET
    curve is taken as a straight line. Where so many images could not be acquired that they do not
    cross at any threshold, it is the false non-match rate that no threshold lowers.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike: similarities give the rate of the other way round, such as
        98 instead of 2 %, without a word.
        Infinite where an image could not be acquired: refused at every threshold.
    is_genuine : bool array of shape (n,)
    convex_hull : bool, default=False
        Of the lower convex hull of the curve instead: what a system reaches that may
        decide at random between two thresholds. Never larger, and smoother where
        comparisons are few.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If shapes differ, a distance is NaN or minus infinity, or genuine or impostor
        comparisons are missing.

    References
    ----------
    ISO/IEC 19795-1; Alonso-Fernandez et al., Tables 4 and 5. Convex hull: Brummer,
    "Measuring, refining and calibrating speaker and language information extracted
    from speech", 2010, section 7.3.

    Examples
    --------
    >>> from sfpose.metrics import equal_error_rate
    >>> equal_error_rate([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    0.5
    """
    fmr, fnmr, _ = det_curve(distances, is_genuine)
    if convex_hull:
        kept = _lower_hull(fmr, fnmr)
        fmr, fnmr = fmr[kept], fnmr[kept]
    return crossing(fmr, fnmr)


def _lower_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Corners of the lower convex hull of points with rising x and falling y."""
    kept: list[int] = []
    for point in range(len(x)):
        while len(kept) > 1:
            a, b = kept[-2:]
            turn = (x[b] - x[a]) * (y[point] - y[a]) - (y[b] - y[a]) * (x[point] - x[a])
            if turn > 0:
                break
            kept.pop()
        kept.append(point)
    return kept


def crossing(fmr: NDArray[np.float64], fnmr: NDArray[np.float64]) -> float:
    """Rate at which two curves of a ``DetCurve`` cross, straight between points.

    Where they do not cross at any threshold, the non-match rate that none lowers.
    """
    crossed = fmr >= fnmr
    if not crossed.any():
        return float(fnmr[-1])
    after = int(np.argmax(crossed))
    before = after - 1
    gap_before = fnmr[before] - fmr[before]
    gap_after = fmr[after] - fnmr[after]
    share = gap_before / (gap_before + gap_after)
    return float(fmr[before] + share * (fmr[after] - fmr[before]))


def d_prime(distances: ArrayLike, is_genuine: ArrayLike) -> float:
    """Distance of the two means in units of their pooled standard deviation (d').

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)

    Returns
    -------
    float
        Positive if impostors lie farther; 0 if the means are equal, else infinite if neither
        kind varies. NaN if a distance is infinite.

    Raises
    ------
    ValueError
        If the input is refused: see ``equal_error_rate``.

    References
    ----------
    Daugman, "Biometric decision landscapes", 2000.

    Examples
    --------
    >>> from sfpose.metrics import d_prime
    >>> d_prime([0.0, 2.0, 3.0, 5.0], [True, True, False, False])
    3.0
    """
    scores, genuine = check_scores(distances, is_genuine)
    with np.errstate(divide="ignore", invalid="ignore"):
        (near, own), (far, strange) = _moments(scores[genuine]), _moments(scores[~genuine])
        gap = far - near
        return 0.0 if gap == 0 else float(gap / np.sqrt((own + strange) / 2))


def _moments(values: NDArray[np.float64]) -> tuple[np.float64, np.float64]:
    """Mean and variance; of equal values that value and 0, which sums would round."""
    beyond = values - values[0]
    return values[0] + beyond.mean(), beyond.var()


def error_rates_at_threshold(
    distances: ArrayLike, is_genuine: ArrayLike, threshold: float
) -> ErrorRates:
    """False match and false non-match rate of accepting ``distance <= threshold``.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
    threshold : float
        What is infinitely far is refused at an infinite one too.

    Returns
    -------
    ErrorRates

    Raises
    ------
    ValueError
        If the input is refused: see ``equal_error_rate``; or ``threshold`` is no number.

    Examples
    --------
    >>> from sfpose.metrics import error_rates_at_threshold
    >>> error_rates_at_threshold([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    ErrorRates(fmr=0.5, fnmr=0.5)
    """
    scores, genuine = check_scores(distances, is_genuine)
    accepted = scores <= check_threshold(threshold)
    return ErrorRates(float(accepted[~genuine].mean()), float((~accepted)[genuine].mean()))


def false_acceptance_rate(distances: ArrayLike, is_genuine: ArrayLike, threshold: float) -> float:
    """FAR, the paper's name of the false match rate at a threshold.

    Parameters and errors are those of ``error_rates_at_threshold``.

    Examples
    --------
    >>> from sfpose.metrics import false_acceptance_rate
    >>> false_acceptance_rate([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    0.5
    """
    return error_rates_at_threshold(distances, is_genuine, threshold).fmr


def false_rejection_rate(distances: ArrayLike, is_genuine: ArrayLike, threshold: float) -> float:
    """FRR, the paper's name of the false non-match rate at a threshold.

    Parameters and errors are those of ``error_rates_at_threshold``.

    Examples
    --------
    >>> from sfpose.metrics import false_rejection_rate
    >>> false_rejection_rate([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    0.5
    """
    return error_rates_at_threshold(distances, is_genuine, threshold).fnmr


def errors_within(rate: float, trials: int) -> int:
    """Most errors whose share of ``trials``, as it is measured, does not exceed a rate below 1."""
    near = int(rate * trials)
    # The product is rounded: 0.29 * 100 lies below 29, but 29 / 100 is 0.29.
    return max(errors for errors in (near - 1, near, near + 1) if errors / trials <= rate)


def threshold_at_fmr(distances: ArrayLike, is_genuine: ArrayLike, fmr: float) -> float:
    """Threshold at which as much is accepted as a false match rate allows.

    It lies halfway between the largest distance that is accepted and the first impostor that
    must be refused. Where every distance is a float32 number, so is the threshold: NumPy
    compares float32 distances with a Python float in float32, and one that lay closer would
    be rounded onto the impostor. With no distance below that impostor the threshold is the
    next number below it, and so negative where a stranger's distance is 0; below an infinite
    one it is the largest distance that is accepted.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
    fmr : float
        Below 1; 0 allows no false match at all.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the input is refused: see ``equal_error_rate``.

    Examples
    --------
    >>> from sfpose.metrics import threshold_at_fmr
    >>> threshold = threshold_at_fmr([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 0, 0, 0], 0.25)
    >>> 0.2 <= threshold < 0.3
    True
    """
    scores, genuine = check_scores(distances, is_genuine)
    impostors = np.sort(scores[~genuine])
    allowed = errors_within(check_rate(fmr, "fmr", zero=True), len(impostors))
    refused = impostors[allowed]
    with np.errstate(over="ignore"):
        single = bool((scores.astype(np.float32) == scores).all())
    kind = np.float32 if single else np.float64
    below = scores[scores < refused]
    if not len(below):
        return float(np.nextafter(kind(refused), kind(-np.inf)))
    last = below.max()
    # Halved before they are added, or two large ones would be infinite.
    halfway = kind(last / 2 + refused / 2)
    return float(halfway if last <= halfway < refused else last)


def fnmr_at_fmr(distances: ArrayLike, is_genuine: ArrayLike, fmr: float) -> float:
    """False non-match rate at the largest threshold that keeps ``fmr``.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
    fmr : float
        Below 1; below one over the number of impostors it means no false match at all.
        FMR100 is the rate at 0.01, FMR1000 at 0.001, ZeroFMR at 0.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If the input is refused: see ``equal_error_rate``; or ``fmr`` is no rate below 1.

    Examples
    --------
    >>> from sfpose.metrics import fnmr_at_fmr
    >>> fnmr_at_fmr([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 1, 0, 0], 0.1)
    0.5
    """
    threshold = threshold_at_fmr(distances, is_genuine, fmr)
    return error_rates_at_threshold(distances, is_genuine, threshold).fnmr
