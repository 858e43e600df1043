"""Identification among many: rank curves, and open-set rates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_labels, check_labels, check_none_missing, check_rate
from sfpose.metrics._checks import as_numbers
from sfpose.metrics.error_rates import errors_within

__all__ = ["cumulative_match_curve", "identification_rate_at_fpir"]


def _check(
    distances: ArrayLike, probe_subjects: ArrayLike, gallery_subjects: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distance of each probe to each person's nearest row, and which person is its own."""
    matrix = as_numbers(distances, "distances")
    rules = [f"{side}_subjects must name one person a row" for side in ("probe", "gallery")]
    probes, gallery = map(as_labels, (probe_subjects, gallery_subjects), rules)
    if matrix.ndim != 2 or probes.shape + gallery.shape != matrix.shape or 0 in matrix.shape:
        raise ValueError(
            "distances must have shape (probes, gallery), both at least 1; got "
            f"{matrix.shape} for probes of shape {probes.shape} and a gallery of {gallery.shape}"
        )
    check_none_missing(probes, rules[0])
    people, codes = check_labels(gallery, len(gallery), rules[1])
    if np.isnan(matrix).any():
        raise ValueError(
            f"distances must not be NaN; got {np.isnan(matrix).sum()} NaN: leave out what could "
            "not be acquired, or give inf, which is found at no threshold"
        )
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(people)))
    nearest = np.minimum.reduceat(matrix[:, order], starts, axis=1)
    return nearest, probes[:, None] == people[None]


def cumulative_match_curve(
    distances: ArrayLike, probe_subjects: ArrayLike, gallery_subjects: ArrayLike
) -> NDArray[np.float64]:
    """Share of probes whose person is among the first k people, for k = 1, 2, ...

    People of several rows stand where their nearest row does. Ties count against the probe:
    whoever is as near stands before its own person.

    Parameters
    ----------
    distances : array of shape (p, g)
        Each probe to each row of the gallery; smaller means more alike.
    probe_subjects : array of shape (p,)
        All of them must be in the gallery.
    gallery_subjects : array of shape (g,)

    Returns
    -------
    float64 array of shape (people,)
        As long as the gallery has people; rising to 1.

    Raises
    ------
    ValueError
        If shapes differ, a distance is NaN, a person's name is missing, or a probe's person is
        not in the gallery.

    Examples
    --------
    >>> from sfpose.metrics import cumulative_match_curve
    >>> cumulative_match_curve([[0.1, 0.5], [0.2, 0.4]], ["a", "b"], ["a", "b"]).tolist()
    [0.5, 1.0]

    References
    ----------
    ISO/IEC 19795-1.
    """
    nearest, same = _check(distances, probe_subjects, gallery_subjects)
    if not same.any(axis=1).all():
        missing = np.asarray(probe_subjects)[~same.any(axis=1)].tolist()[0]
        raise ValueError(f"every probe's person must be in the gallery; {missing!r} is not")
    rank = ((nearest <= nearest[same][:, None]) & ~same).sum(axis=1)
    return np.cumsum(np.bincount(rank, minlength=nearest.shape[1])) / len(nearest)


def identification_rate_at_fpir(
    distances: ArrayLike, probe_subjects: ArrayLike, gallery_subjects: ArrayLike, fpir: float
) -> float:
    """Open-set identification: found first and within the threshold, at a given FPIR.

    The threshold is the largest at which at most the share ``fpir`` (false positive
    identification rate) of the probes *without* a person in the gallery finds anyone.

    Parameters
    ----------
    distances : array of shape (p, g)
        Smaller means more alike.
    probe_subjects : array of shape (p,)
        Some in the gallery, some not.
    gallery_subjects : array of shape (g,)
    fpir : float
        Between 0 and 1.

    Returns
    -------
    float
        Share of the probes in the gallery that are found, 0 to 1 (DIR).

    Raises
    ------
    ValueError
        If shapes differ, a distance is NaN, or one kind of probe is missing.

    References
    ----------
    ISO/IEC 19795-1; Phillips, Grother, Micheals, "Evaluation methods in face
    recognition", 2011.

    Examples
    --------
    >>> from sfpose.metrics import identification_rate_at_fpir
    >>> distances = [[0.1, 0.9], [0.8, 0.7], [0.5, 0.6]]
    >>> identification_rate_at_fpir(distances, ["a", "b", "x"], ["a", "b"], 0.1)
    0.5
    """
    nearest, same = _check(distances, probe_subjects, gallery_subjects)
    enrolled = same.any(axis=1)
    if enrolled.all() or not enrolled.any():
        raise ValueError(
            "there must be probes in the gallery and probes that are not; "
            f"got {enrolled.sum()} and {(~enrolled).sum()}"
        )
    strangers = np.sort(nearest[~enrolled].min(axis=1))
    allowed = errors_within(check_rate(fpir, "fpir"), len(strangers))
    own = nearest[same]
    others = np.where(same, np.inf, nearest)[enrolled].min(axis=1)
    return float(((own < others) & (own < strangers[allowed])).mean())
