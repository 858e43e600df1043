"""Error rates of verification: DET curve, equal error rate, rates at a threshold.

Every function takes ``(distances, is_genuine)``: a smaller distance means more alike,
and a comparison is accepted when its distance is at most the threshold, so that an
impostor exactly on the threshold is a false match.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DetCurve",
    "ErrorRates",
    "FoldAccuracy",
    "d_prime",
    "det_curve",
    "equal_error_rate",
    "error_rates_at_threshold",
    "false_acceptance_rate",
    "false_rejection_rate",
    "fnmr_at_fmr",
    "k_fold_accuracy",
    "threshold_at_fmr",
]


class DetCurve(NamedTuple):
    """Operating points of a verification, from refusing all to accepting all.

    Attributes
    ----------
    fmr : float64 array of shape (n,)
        False match rate, rising from 0 to 1.
    fnmr : float64 array of shape (n,)
        False non-match rate, falling from 1 to 0.
    thresholds : float64 array of shape (n,)
        Rising; the first is below every distance.
    """

    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class ErrorRates(NamedTuple):
    """False match rate and false non-match rate at one threshold, 0 to 1."""

    fmr: float
    fnmr: float


class FoldAccuracy(NamedTuple):
    """Accuracy of each fold at the threshold that was best on the others, 0 to 1."""

    mean: float
    standard_error: float
    per_fold: NDArray[np.float64]


def check_scores(
    distances: ArrayLike, is_genuine: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances and labels as arrays, or an error.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n,), a distance is NaN, a label is neither
        0 nor 1, or one of the two kinds of comparison is missing.
    """
    scores = np.asarray(distances, dtype=np.float64)
    labels = np.asarray(is_genuine)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "distances and is_genuine must both have shape (n,); "
            f"got {scores.shape} and {labels.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"distances must not be NaN; got {np.isnan(scores).sum()} NaN: "
            "count them as failures to acquire and leave them out"
        )
    if labels.dtype != np.bool_:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("is_genuine must be booleans, or 0 and 1; got other values")
        labels = labels.astype(np.bool_)
    genuine = int(labels.sum())
    if genuine == 0 or genuine == len(labels):
        raise ValueError(
            "there must be at least one genuine and one impostor comparison; "
            f"got {genuine} and {len(labels) - genuine}"
        )
    return scores, labels


def det_curve(distances: ArrayLike, is_genuine: ArrayLike) -> DetCurve:
    """All operating points: false match against false non-match rate.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
        True where both images show the same person.

    Returns
    -------
    DetCurve

    Raises
    ------
    ValueError
        If the input is refused: see :func:`equal_error_rate`.

    Examples
    --------
    >>> from sfpose.metrics import det_curve
    >>> curve = det_curve([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    >>> curve.fmr.tolist(), curve.fnmr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0, 0.0])
    """
    scores, genuine = check_scores(distances, is_genuine)
    order = np.argsort(scores, kind="stable")
    scores, genuine = scores[order], genuine[order]
    # Equal distances are accepted together: one point for each distinct value.
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    accepted_genuine = np.cumsum(genuine)[last]
    accepted_impostors = last + 1 - accepted_genuine
    total = int(genuine.sum())
    fnmr = np.r_[1.0, 1 - accepted_genuine / total]
    fmr = np.r_[0.0, accepted_impostors / (len(genuine) - total)]
    thresholds = np.r_[np.nextafter(scores[0], -np.inf), scores[last]]
    return DetCurve(fmr, fnmr, thresholds)


def equal_error_rate(distances: ArrayLike, is_genuine: ArrayLike) -> float:
    """Rate at which false matches and false non-matches are equally frequent.

    Between the two neighbouring operating points where the curves cross, the DET
    curve is taken as a straight line.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If shapes differ, a distance is NaN, or genuine or impostor comparisons are
        missing.

    References
    ----------
    ISO/IEC 19795-1; Alonso-Fernandez et al., Tables 4 and 5.

    Examples
    --------
    >>> from sfpose.metrics import equal_error_rate
    >>> equal_error_rate([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    0.5
    """
    fmr, fnmr, _ = det_curve(distances, is_genuine)
    return crossing(fmr, fnmr)


def crossing(fmr: NDArray[np.float64], fnmr: NDArray[np.float64]) -> float:
    """Rate at which two curves of a :class:`DetCurve` cross, straight between points."""
    after = int(np.argmax(fmr >= fnmr))
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
    is_genuine : bool array of shape (n,)

    Returns
    -------
    float
        Positive if impostors lie farther; infinite if nothing varies.

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
    gap = scores[~genuine].mean() - scores[genuine].mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(gap / np.sqrt((scores[genuine].var() + scores[~genuine].var()) / 2))


def error_rates_at_threshold(
    distances: ArrayLike, is_genuine: ArrayLike, threshold: float
) -> ErrorRates:
    """False match and false non-match rate of accepting ``distance <= threshold``.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    threshold : float

    Returns
    -------
    ErrorRates

    Examples
    --------
    >>> from sfpose.metrics import error_rates_at_threshold
    >>> error_rates_at_threshold([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    ErrorRates(fmr=0.5, fnmr=0.5)
    """
    scores, genuine = check_scores(distances, is_genuine)
    accepted = scores <= threshold
    return ErrorRates(float(accepted[~genuine].mean()), float((~accepted)[genuine].mean()))


def false_acceptance_rate(distances: ArrayLike, is_genuine: ArrayLike, threshold: float) -> float:
    """FAR, the paper's name of the false match rate at a threshold.

    Parameters and errors are those of :func:`error_rates_at_threshold`.

    Examples
    --------
    >>> from sfpose.metrics import false_acceptance_rate
    >>> false_acceptance_rate([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    0.5
    """
    return error_rates_at_threshold(distances, is_genuine, threshold).fmr


def false_rejection_rate(distances: ArrayLike, is_genuine: ArrayLike, threshold: float) -> float:
    """FRR, the paper's name of the false non-match rate at a threshold.

    Parameters and errors are those of :func:`error_rates_at_threshold`.

    Examples
    --------
    >>> from sfpose.metrics import false_rejection_rate
    >>> false_rejection_rate([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0], 0.35)
    0.5
    """
    return error_rates_at_threshold(distances, is_genuine, threshold).fnmr


def check_fmr(value: float, name: str = "fmr") -> float:
    """``value`` as a float, if it is a rate above 0 and below 1."""
    rate = float(value)
    if not 0 < rate < 1:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded; got {value}")
    return rate


def threshold_at_fmr(distances: ArrayLike, is_genuine: ArrayLike, fmr: float) -> float:
    """Largest threshold whose false match rate does not exceed ``fmr``.

    The threshold lies just below the first impostor that it must refuse, so that as
    many genuine comparisons as possible are accepted.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    fmr : float
        Between 0 and 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the input is refused: see :func:`equal_error_rate`.

    Examples
    --------
    >>> from sfpose.metrics import threshold_at_fmr
    >>> threshold = threshold_at_fmr([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 0, 0, 0], 0.25)
    >>> 0.2 <= threshold < 0.3
    True
    """
    scores, genuine = check_scores(distances, is_genuine)
    impostors = np.sort(scores[~genuine])
    # Rounding must not turn 0.001 * 3000 into 2.
    allowed = int(np.floor(check_fmr(fmr) * len(impostors) * (1 + 1e-12)))
    return float(np.nextafter(impostors[allowed], -np.inf))


def fnmr_at_fmr(distances: ArrayLike, is_genuine: ArrayLike, fmr: float) -> float:
    """False non-match rate at the largest threshold that keeps ``fmr``.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    fmr : float
        Between 0 and 1; below one over the number of impostors it means no false
        match at all.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> from sfpose.metrics import fnmr_at_fmr
    >>> fnmr_at_fmr([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 1, 0, 0], 0.1)
    0.5
    """
    threshold = threshold_at_fmr(distances, is_genuine, fmr)
    return error_rates_at_threshold(distances, is_genuine, threshold).fnmr


def k_fold_accuracy(distances: ArrayLike, is_genuine: ArrayLike, folds: ArrayLike) -> FoldAccuracy:
    """Accuracy of each fold at the threshold that is best on the other folds.

    Parameters
    ----------
    distances : array of shape (n,)
    is_genuine : bool array of shape (n,)
    folds : array of shape (n,)
        Fold of each comparison.

    Returns
    -------
    FoldAccuracy
        With the standard error of the mean over folds.

    Raises
    ------
    ValueError
        If there are fewer than two folds or the scores are refused.

    References
    ----------
    Huang et al., "Labeled Faces in the Wild", 2007: View 2.

    Examples
    --------
    >>> from sfpose.metrics import k_fold_accuracy
    >>> k_fold_accuracy([1, 3, 1, 3, 2, 4], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2]).mean
    1.0
    """
    scores, genuine = check_scores(distances, is_genuine)
    groups = np.asarray(folds)
    if groups.shape != scores.shape:
        raise ValueError(f"folds must have shape {scores.shape}; got {groups.shape}")
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError(f"there must be at least two folds; got {len(names)}")
    accuracies = []
    for name in names:
        inside = groups == name
        fmr, fnmr, thresholds = det_curve(scores[~inside], genuine[~inside])
        share = genuine[~inside].mean()
        best = int(np.argmin(fmr * (1 - share) + fnmr * share))
        # Halfway to the next distance: the middle of the gap generalises best.
        following = thresholds[min(best + 1, len(thresholds) - 1)]
        threshold = (thresholds[best] + following) / 2
        accuracies.append(float(((scores[inside] <= threshold) == genuine[inside]).mean()))
    per_fold = np.array(accuracies)
    error = float(per_fold.std(ddof=1) / np.sqrt(len(per_fold)))
    return FoldAccuracy(float(per_fold.mean()), error, per_fold)
