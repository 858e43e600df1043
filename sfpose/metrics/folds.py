"""Accuracy over folds, as face verification benchmarks report it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_labels
from sfpose.metrics._checks import check_scores
from sfpose.metrics.error_rates import accepted_counts

__all__ = ["FoldAccuracy", "k_fold_accuracy"]


class FoldAccuracy(NamedTuple):
    """Accuracy of each fold at the threshold that was best on the others, 0 to 1.

    Examples
    --------
    >>> from sfpose.metrics import k_fold_accuracy
    >>> accuracy = k_fold_accuracy([1, 3, 1, 3, 2, 4], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])
    >>> accuracy.per_fold.tolist(), accuracy.standard_error
    ([1.0, 1.0, 1.0], 0.0)
    """

    mean: float
    standard_error: float
    per_fold: NDArray[np.float64]


def k_fold_accuracy(distances: ArrayLike, is_genuine: ArrayLike, folds: ArrayLike) -> FoldAccuracy:
    """Accuracy of each fold at the threshold that is best on the other folds.

    Best is the one that makes fewest errors there, as a count; of several that make as few,
    the smallest. It then lies halfway to the next distance of the other folds.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
        Infinite where an image could not be acquired: refused at every threshold.
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
        If there are fewer than two folds, a comparison has none, all folds but one lack genuine
        or impostor comparisons, or the scores are refused.

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
    names, numbers = check_labels(folds, len(scores), "folds must name one for each comparison")
    if len(names) < 2:
        raise ValueError(f"there must be at least two folds; got {len(names)}")
    accuracies = []
    for number in range(len(names)):
        inside = numbers == number
        others = genuine[~inside]
        if others.all() or not others.any():
            raise ValueError(
                "all folds but one must hold genuine and impostor comparisons, for a threshold; "
                f"without {names.tolist()[number]!r} they hold {others.sum()} and {(~others).sum()}"
            )
        impostors, own, thresholds = accepted_counts(scores[~inside], others)
        # Impostors accepted less own people accepted: the errors, but for a constant. Rates
        # would let rounding choose among equals.
        best = int(np.argmin(impostors - own))
        threshold = thresholds[best]
        if best + 1 < len(thresholds):
            # Halfway to the next distance: the middle of the gap generalises best. Between
            # neighbours among floats there is none.
            following = thresholds[best + 1]
            threshold = min((threshold + following) / 2, np.nextafter(following, -np.inf))
        accuracies.append(float(((scores[inside] <= threshold) == genuine[inside]).mean()))
    per_fold = np.array(accuracies)
    error = float(per_fold.std(ddof=1) / np.sqrt(len(per_fold)))
    return FoldAccuracy(float(per_fold.mean()), error, per_fold)
