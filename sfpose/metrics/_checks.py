"""What metrics refuse: scores, rates and labels that mean nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, as_labels, check_none_missing, is_number

__all__ = [
    "as_booleans",
    "as_numbers",
    "check_people",
    "check_ratios",
    "check_scores",
    "check_threshold",
    "people_given",
]

Labelled = tuple[NDArray[np.float64], NDArray[np.bool_]]


def check_scores(
    distances: ArrayLike, is_genuine: ArrayLike, *, one_kind_alone: bool = False
) -> Labelled:
    """Distances and labels as arrays, or an error.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n,), a distance is NaN or minus infinity, a label is
        neither 0 nor 1, or one of the two kinds of comparison is missing: both of them where
        ``one_kind_alone`` is allowed.
    """
    advice = "give inf, which is refused at every threshold"
    scores, labels = _labelled(distances, is_genuine, "distances", advice, one_kind_alone)
    if np.isneginf(scores).any():
        raise ValueError(
            "distances must be larger than minus infinity, or no threshold lies below them; "
            f"got {np.isneginf(scores).sum()} that are not"
        )
    return scores, labels


def check_ratios(log_likelihood_ratios: ArrayLike, is_genuine: ArrayLike) -> Labelled:
    """The same for log-likelihood ratios, which may be infinite either way."""
    return _labelled(log_likelihood_ratios, is_genuine, "log_likelihood_ratios", "leave them out")


def _labelled(
    values: ArrayLike, is_genuine: ArrayLike, name: str, advice: str, one_kind_alone: bool = False
) -> Labelled:
    scores = as_numbers(values, name)
    rule = "is_genuine must say of each comparison whether it is"
    labels = as_labels(is_genuine, rule)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"{name} and is_genuine must both have shape (n,); "
            f"got {scores.shape} and {labels.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"{name} must not be NaN; got {np.isnan(scores).sum()} NaN, which stand for "
            f"failures to acquire: {advice}, or see sfpose.metrics.verification_summary"
        )
    check_none_missing(labels, rule)
    labels = as_booleans(labels, "is_genuine")
    genuine = int(labels.sum())
    impostors = len(labels) - genuine
    if not (genuine and impostors) and not (one_kind_alone and len(labels)):
        rule = "genuine or" if one_kind_alone else "genuine and one"
        raise ValueError(
            f"there must be at least one {rule} impostor comparison; got {genuine} and {impostors}"
        )
    return scores, labels


def as_numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Values as a float64 array of any shape, NaN where they are masked, or an error."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    return as_array(values, f"{name} must be an array of numbers", np.float64)


def as_booleans(labels: NDArray[np.generic], name: str) -> NDArray[np.bool_]:
    """Labels as booleans, if they are, or 0 and 1."""
    if labels.dtype == np.bool_:
        return labels.astype(np.bool_, copy=False)
    strange = labels[~np.isin(labels, (0, 1))]
    if len(strange):
        raise ValueError(f"{name} must be booleans, or 0 and 1; got {strange.tolist()[0]!r}")
    return labels.astype(np.bool_)


def check_threshold(value: float) -> float:
    """``value`` as a finite float, if it is a number: the infinitely far is refused at any."""
    if not is_number(value) or np.isnan(value):
        raise ValueError(f"threshold must be a number; got {value!r}")
    return min(float(value), float(np.finfo(np.float64).max))


def check_people(
    first_people: ArrayLike, second_people: ArrayLike, shape: tuple[int, ...]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """People of both sides as arrays of the shape that comparisons have, or an error."""
    rule = "people must be named, one for each comparison"
    first, second = as_labels(first_people, rule), as_labels(second_people, rule)
    if first.shape != shape or second.shape != shape:
        raise ValueError(
            f"people of both sides must have shape {shape}; got {first.shape} and {second.shape}"
        )
    for name, side in (("first_people", first), ("second_people", second)):
        check_none_missing(side, f"{name} must name one person for each comparison")
    return first, second


def people_given(
    first_people: ArrayLike | None, second_people: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[NDArray[np.generic], NDArray[np.generic]] | None:
    """The same where they may be left out, of both sides alike."""
    if (first_people is None) != (second_people is None):
        raise ValueError("the people of both sides must be given, or of neither; got one side")
    if first_people is None or second_people is None:
        return None
    return check_people(first_people, second_people, shape)
