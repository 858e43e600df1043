"""Templates: one descriptor that stands for several images of a person."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._scoring import check_descriptors

__all__ = ["Templates", "build_templates"]


class Templates(NamedTuple):
    """Templates with what they were made of.

    Attributes
    ----------
    templates : float32 or float64 array of shape (n_groups, d)
    groups : array of shape (n_groups,)
        Whose template each row is, sorted.
    counts : int64 array of shape (n_groups,)
        Images that each template was made of.
    """

    templates: NDArray[np.floating[Any]]
    groups: NDArray[np.generic]
    counts: NDArray[np.int64]


def build_templates(
    descriptors: ArrayLike, groups: ArrayLike, *, weights: ArrayLike | None = None
) -> Templates:
    """Average the descriptors of each group.

    Parameters
    ----------
    descriptors : array of shape (n, d), values >= 0
    groups : array of shape (n,)
        The person, or person and pose, that each descriptor belongs to.
    weights : array of shape (n,), optional
        Non-negative weight of each descriptor, such as a quality; equal if not
        given, as in the paper.

    Returns
    -------
    Templates

    Raises
    ------
    ValueError
        If descriptors are negative, NaN, infinite or empty, a length differs, or the
        weights of a group sum to zero.

    References
    ----------
    Alonso-Fernandez et al., section 4: the mean of five descriptors.

    Examples
    --------
    >>> from sfpose import build_templates
    >>> built = build_templates([[1.0, 3.0], [3.0, 1.0], [5.0, 0.0]], ["a", "a", "b"])
    >>> built.templates.tolist(), built.groups.tolist(), built.counts.tolist()
    ([[2.0, 2.0], [5.0, 0.0]], ['a', 'b'], [2, 1])
    """
    rows = check_descriptors(descriptors)
    labels = np.asarray(groups)
    if labels.shape != (len(rows),):
        raise ValueError(f"groups must have shape ({len(rows)},); got {labels.shape}")
    shares = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(rows),):
        raise ValueError(f"weights must have shape ({len(rows)},); got {shares.shape}")
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        raise ValueError("weights must be finite and not negative; got another value")
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    totals = np.bincount(codes, shares)
    if not (totals > 0).all():
        name = names[totals == 0][0]
        raise ValueError(f"the weights of a group must not all be zero; they are for {name}")
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, codes, rows * shares[:, None])
    return Templates((sums / totals[:, None]).astype(rows.dtype), names, counts)
