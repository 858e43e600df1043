"""Error rates by group of people, and how unequal they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_labels
from sfpose.metrics._checks import check_scores, check_threshold

__all__ = ["GroupErrorRates", "group_error_rates"]


class GroupErrorRates(NamedTuple):
    """Error rates of each group at one threshold.

    Attributes
    ----------
    groups : array of shape (n_groups,)
    fmr, fnmr : float64 arrays of shape (n_groups,)
        NaN where a group has no impostor or no genuine comparison.
    impostor, genuine : int64 arrays of shape (n_groups,)
        Comparisons that each rate rests on.

    Examples
    --------
    >>> from sfpose.metrics import group_error_rates
    >>> rates = group_error_rates([1, 4, 2, 9], [0, 0, 0, 1], ["a", "a", "b", "b"], 3)
    >>> round(rates.fmr_inequity, 3)  # 1 over the square root of 0.5
    1.414
    """

    groups: NDArray[np.generic]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    impostor: NDArray[np.int64]
    genuine: NDArray[np.int64]

    @property
    def fmr_inequity(self) -> float:
        """Worst false match rate over the geometric mean of all; 1 means equal.

        Infinite if some groups have no false match and others do; NaN if none has.
        """
        return _inequity(self.fmr)

    @property
    def fnmr_inequity(self) -> float:
        """Worst false non-match rate over the geometric mean of all; 1 means equal."""
        return _inequity(self.fnmr)


def _inequity(rates: NDArray[np.float64]) -> float:
    known = rates[~np.isnan(rates)]
    if not len(known) or not known.any():
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(known.max() / np.exp(np.log(known).mean()))


def group_error_rates(
    distances: ArrayLike, is_genuine: ArrayLike, groups: ArrayLike, threshold: float
) -> GroupErrorRates:
    """False match and false non-match rate of each group at one threshold.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
        All of one kind too: the rate of the other is NaN then.
    groups : array of shape (n,)
        Group of each comparison, such as the group that both people share.
    threshold : float

    Returns
    -------
    GroupErrorRates

    Raises
    ------
    ValueError
        If the scores are refused, shapes differ, there is no comparison, one has no group, or
        ``threshold`` is no number.

    References
    ----------
    Grother, "Summarizing demographic differentials", NIST IR 8429, 2022:
    worst group over geometric mean.

    Examples
    --------
    >>> from sfpose.metrics import group_error_rates
    >>> rates = group_error_rates([1, 4, 2, 9], [0, 0, 0, 1], ["a", "a", "b", "b"], 3)
    >>> rates.fmr.tolist(), rates.impostor.tolist()
    ([0.5, 1.0], [2, 1])
    """
    scores, genuine = check_scores(distances, is_genuine, one_kind_alone=True)
    names, codes = check_labels(groups, len(scores), "groups must name one for each comparison")
    accepted = scores <= check_threshold(threshold)
    own = np.bincount(codes[genuine], minlength=len(names))
    strangers = np.bincount(codes[~genuine], minlength=len(names))
    missed = np.bincount(codes[genuine & ~accepted], minlength=len(names))
    matched = np.bincount(codes[~genuine & accepted], minlength=len(names))
    with np.errstate(invalid="ignore"):
        return GroupErrorRates(names, matched / strangers, missed / own, strangers, own)
