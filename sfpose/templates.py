"""Templates: one descriptor that stands for several images of a person."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, check_labels, check_whole
from sfpose._scoring import check_descriptors, chi2_matrix

__all__ = ["Templates", "build_templates", "extend_template", "mean_of"]


class Templates(NamedTuple):
    """Templates with what they were made of.

    Attributes
    ----------
    templates : float32 or float64 array of shape (n_groups, d)
    groups : array of shape (n_groups,)
        Whose template each row is, sorted.
    counts : int64 array of shape (n_groups,)
        Images that each template is the mean of; 1 for a medoid.

    Examples
    --------
    >>> from sfpose import build_templates
    >>> built = build_templates([[1.0, 3.0], [3.0, 1.0], [5.0, 0.0]], ["a", "a", "b"])
    >>> dict(zip(built.groups.tolist(), built.counts.tolist()))
    {'a': 2, 'b': 1}
    """

    templates: NDArray[np.floating[Any]]
    groups: NDArray[np.generic]
    counts: NDArray[np.int64]


def build_templates(
    descriptors: ArrayLike,
    groups: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    method: str = "mean",
) -> Templates:
    """Make one template of the descriptors of each group.

    Parameters
    ----------
    descriptors : array of shape (n, d), values >= 0
    groups : array of shape (n,)
        The person, or person and pose, that each descriptor belongs to.
    weights : array of shape (n,), optional
        Non-negative weight of each descriptor, such as a quality; equal if not
        given, as in the paper.
    method : {"mean", "medoid"}, default="mean"
        ``"medoid"`` takes, of those with a weight, the descriptor whose (weighted) sum of
        distances to the others of its group is least: a single wrong image cannot pull it away, and
        its threshold is that of one image.

    Returns
    -------
    Templates

    Raises
    ------
    ValueError
        If descriptors are negative, NaN, infinite or empty, a length differs, the
        weights of a group sum to zero, or ``method`` is unknown.

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
    if method not in ("mean", "medoid"):
        raise ValueError(f'method must be "mean" or "medoid"; got {method!r}')
    rows = check_descriptors(descriptors)
    names, codes = check_labels(groups, len(rows), "groups must name one for each descriptor")
    shares = np.ones(len(rows))
    if weights is not None:
        shares = as_array(weights, f"weights must be numbers of shape ({len(rows)},)", np.float64)
    if shares.shape != (len(rows),):
        raise ValueError(f"weights must have shape ({len(rows)},); got {shares.shape}")
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        raise ValueError("weights must be finite and not negative; got another value")
    largest = np.zeros(len(names))
    np.maximum.at(largest, codes, shares)
    if not (largest > 0).all():
        name = names[largest == 0][0]
        raise ValueError(f"the weights of a group must not all be zero; they are for {name}")
    # Only their ratios count: sums of large ones would leave the range of float64.
    shares = shares / largest[codes]
    if method == "medoid":
        chosen = [
            _medoid(rows, np.flatnonzero(codes == code), shares) for code in range(len(names))
        ]
        return Templates(rows[chosen], names, np.ones(len(names), np.int64))
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, codes, rows * shares[:, None])
    means = (sums / np.bincount(codes, shares)[:, None]).astype(rows.dtype)
    return Templates(means, names, np.bincount(codes, shares > 0).astype(np.int64))


def mean_of(rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Mean of checked descriptors (n, d), of their type, whose range a sum of them might leave."""
    mean: NDArray[np.floating[Any]] = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
    return mean


def _medoid(
    rows: NDArray[np.floating[Any]], members: NDArray[np.int64], shares: NDArray[np.float64]
) -> int:
    members = members[shares[members] > 0]
    distances = chi2_matrix(rows[members], rows[members]).astype(np.float64)
    return int(members[np.argmin(distances @ shares[members])])


def extend_template(
    template: ArrayLike, count: int, descriptors: ArrayLike
) -> tuple[NDArray[np.floating[Any]], int]:
    """Average further images into a template whose own images are gone.

    Parameters
    ----------
    template : array of shape (d,), values >= 0
        A mean, as ``build_templates`` gives it.
    count : int
        Images that it is the mean of.
    descriptors : array of shape (n, d), values >= 0
        One row for each further image.

    Returns
    -------
    template : float32 or float64 array of shape (d,)
        The mean of all ``count + n`` images.
    count : int
        ``count + n``.

    Raises
    ------
    ValueError
        If an input is refused or ``count`` is no whole number above 0.

    Examples
    --------
    >>> from sfpose import extend_template
    >>> template, count = extend_template([2.0, 2.0], 3, [[6.0, 10.0]])
    >>> template.tolist(), count
    ([3.0, 4.0], 4)
    """
    images = check_whole(count, "count", 1)
    old = as_array(template, "template must be numbers of shape (d,)")
    old = check_descriptors(old[None], name="template")[0]
    rows = check_descriptors(descriptors, width=len(old))
    total = images + len(rows)
    mean = (old.astype(np.float64) * images + rows.sum(axis=0, dtype=np.float64)) / total
    return mean.astype(np.result_type(old, rows)), total
