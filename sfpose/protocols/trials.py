"""Lists of comparisons as indices, with their labels and people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_labels, check_index, check_labels

__all__ = ["Trials", "all_pairs"]


@dataclass(frozen=True)
class Trials:
    """Comparisons between rows of one table of images or templates.

    Attributes
    ----------
    first, second : int64 arrays of shape (n,)
        Rows that are compared.
    is_genuine : bool array of shape (n,)
    first_people, second_people : arrays of shape (n,)
        Who is on either side, for intervals that resample people.
    folds : int64 array of shape (n,) or None
        Fold of each comparison, where the protocol has folds.

    Examples
    --------
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(["a", "a", "b"], [0, 1, 2])
    >>> len(trials), trials.first_people.tolist(), trials.second_people.tolist()
    (3, ['a', 'a', 'a'], ['a', 'b', 'b'])
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    is_genuine: NDArray[np.bool_]
    first_people: NDArray[np.generic]
    second_people: NDArray[np.generic]
    folds: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.first)


def all_pairs(subjects: ArrayLike, first: ArrayLike, second: ArrayLike | None = None) -> Trials:
    """Compare every selected row with every other.

    Parameters
    ----------
    subjects : array of shape (n,)
        Whose each row is.
    first : int array
        Rows of one side.
    second : int array, optional
        Rows of the other side. If not given, each pair of ``first`` counts once. No row is
        compared with itself.

    Returns
    -------
    Trials

    Raises
    ------
    ValueError
        If no row is selected on a side, or nothing but one row against itself, one is no row
        number (a mask is none: give ``numpy.flatnonzero`` of it), or a row's subject is missing.

    Examples
    --------
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(["a", "a", "b"], [0, 1, 2])
    >>> trials.first.tolist(), trials.second.tolist(), trials.is_genuine.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    rule = "subjects must name one person for each row"
    people = as_labels(subjects, rule)
    check_labels(people, people.size, rule)
    left = check_index(first, "first", len(people))
    right = left if second is None else check_index(second, "second", len(people))
    if not len(left) or not len(right):
        raise ValueError(f"both sides must have rows to compare; got {len(left)} and {len(right)}")
    if second is None:
        one, other = np.triu_indices(len(left), 1)
        left, right = left[one], left[other]
    else:
        left, right = np.repeat(left, len(right)), np.tile(right, len(left))
    apart = left != right
    if not apart.any():
        raise ValueError("two rows must be selected, or none is compared with another; got one")
    left, right = left[apart], right[apart]
    return Trials(left, right, people[left] == people[right], people[left], people[right])
