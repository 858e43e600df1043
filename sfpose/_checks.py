"""What several modules ask of an argument, and of what a rate rests on. May import NumPy alone."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEAST_PEOPLE",
    "RULE_OF_3",
    "as_array",
    "as_labels",
    "check_groups",
    "check_index",
    "check_jobs",
    "check_labels",
    "check_landmarks",
    "check_none_missing",
    "check_number",
    "check_rate",
    "check_whole",
    "expected_errors",
    "is_number",
    "joined_labels",
    "little_evidence",
]

RULE_OF_3 = 3
"""With fewer false matches expected, none says with 95 % confidence that a rate is kept."""

LEAST_PEOPLE = 10
"""With fewer, pairs of them are too few and too alike to say how far a rate may be off."""

_MOST_JOBS = 10_000


def check_whole(value: object, name: str, least: int, most: int | None = None) -> int:
    """A whole number, NumPy's too, from ``least``, perhaps to ``most``; a bool is none.

    Raises
    ------
    ValueError
    """
    limit = math.inf if most is None else most
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or not least <= int(value) <= limit
    ):
        rule = f", at least {least}" if most is None else f" in {least} ... {most}"
        raise ValueError(f"{name} must be a whole number{rule}; got {value!r}")
    return int(value)


def check_jobs(value: object) -> int | None:
    """A number of threads as joblib takes it: None, or a whole number other than 0.

    Raises
    ------
    ValueError
    """
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or not 1 <= abs(int(value)) <= _MOST_JOBS
    ):
        rule = f"None or a whole number other than 0, -{_MOST_JOBS} to {_MOST_JOBS}"
        raise ValueError(f"n_jobs must be {rule}; got {value!r}")
    return int(value)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, NumPy's too; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def check_number(value: object, name: str, *, above: float = -math.inf) -> float:
    """A finite number, NumPy's too, above another; a bool is none.

    Raises
    ------
    ValueError
    """
    if not is_number(value) or not above < value < math.inf:
        limit = "" if above == -math.inf else f" above {above:g}"
        raise ValueError(f"{name} must be a finite number{limit}; got {value!r}")
    return float(value)


def check_rate(value: object, name: str, *, zero: bool = False) -> float:
    """A number above 0, or 0 where allowed, and below 1, NumPy's too; a bool is none.

    Raises
    ------
    ValueError
    """
    if not is_number(value) or not (0 < value < 1 or (zero and value == 0)):
        least = "<=" if zero else "<"
        raise ValueError(f"{name} must be a rate, 0 {least} {name} < 1; got {value!r}")
    return float(value)


def check_groups(given: object) -> tuple[str, ...]:
    """What a verifier calibrates apart for: none, one or several of ``"size"`` and ``"pose"``.

    Raises
    ------
    ValueError
    """
    listed: Any = () if given is None else given
    try:
        groups = (listed,) if isinstance(listed, str) else tuple(listed)
        known = set(groups) <= {"size", "pose"}
    except TypeError:
        known = False
    if not known:
        raise ValueError(f'groups must be of "size" and "pose", or None; got {given!r}')
    return groups


def as_array(values: Any, rule: str, kind: type | None = None) -> NDArray[Any]:
    """An array, of numbers of a kind if it is given.

    Raises
    ------
    ValueError
        If NumPy makes none of it, or a value is masked; says the rule.
    """
    parts = values if isinstance(values, list | tuple) else [values]
    masked = [part for part in parts if isinstance(part, np.ma.MaskedArray)]
    if hidden := sum(int(np.ma.getmaskarray(part).sum()) for part in masked):
        raise ValueError(f"{rule}, none of them masked; got {hidden} that are")
    try:
        return np.asarray(values, dtype=kind)
    except (TypeError, ValueError) as error:
        given = type(values).__name__
        raise ValueError(f"{rule}; got a {given} of which NumPy says: {error}") from error


def check_landmarks(values: ArrayLike) -> NDArray[np.float64]:
    """Five points a face, (n, 5, 2), finite.

    Raises
    ------
    ValueError
    """
    points = as_array(values, "landmarks must be numbers of shape (n, 5, 2)", np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise ValueError(f"landmarks must have shape (n, 5, 2); got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("landmarks must be finite; got NaN or infinity")
    return points


def check_index(index: ArrayLike, name: str, size: int) -> NDArray[np.int64]:
    """Row numbers of shape (p,), from 0 to below ``size``; a mask is none.

    Raises
    ------
    ValueError
    """
    array = np.asarray(index)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(
            f"{name} must be whole numbers of shape (p,); got {array.dtype} {array.shape}"
        )
    array = array.astype(np.int64, copy=False)
    if array.size and (array.min() < 0 or array.max() >= size):
        raise ValueError(
            f"{name} must lie in 0 ... {size - 1}; got {array.min()} ... {array.max()}"
        )
    return array


def as_labels(values: Any, rule: str) -> NDArray[Any]:
    """Labels as an array, of objects where NumPy would make others of them.

    Of a list with NaN or a number among names it would make text, of large numbers floats.

    Raises
    ------
    ValueError
        If NumPy makes no array of them; says the rule.
    """
    if isinstance(values, np.ma.MaskedArray):
        shown = np.ma.getdata(values).astype(object)
        shown[np.ma.getmaskarray(values)] = None
        return shown
    labels = as_array(values, rule)
    if hasattr(values, "dtype") or labels.dtype == object:
        return labels
    given = np.asarray(values, dtype=object)
    return labels if labels.tolist() == given.tolist() else given


def joined_labels(*sides: NDArray[Any]) -> NDArray[Any]:
    """One side's labels after the other's, of objects where NumPy would make others of them."""
    if len({side.dtype.kind for side in sides}) == 1:
        return np.concatenate(sides)
    return np.concatenate([side.astype(object) for side in sides])


def check_labels(
    values: ArrayLike, count: int, rule: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct labels of ``count`` rows, sorted, and the number of each row's label.

    Raises
    ------
    ValueError
        If they are more or fewer, one is missing (None, NaN, pandas' NA), or they are of kinds
        that have no order; says the rule.
    """
    labels = as_labels(values, rule)
    if labels.shape != (count,):
        raise ValueError(f"{rule}, shape ({count},); got {labels.shape}")
    check_none_missing(labels, rule)
    try:
        names, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise ValueError(f"{rule}, all by text or all by numbers; got {', '.join(kinds)}") from None
    return names, codes


def check_none_missing(labels: NDArray[Any], rule: str) -> None:
    """Refuse labels of shape (n,) among which is None, NaN or pandas' NA; says the rule.

    Raises
    ------
    ValueError
    """
    if labels.dtype.kind in "fcmMOT":
        for row, label in enumerate(labels.tolist()):
            if _is_missing(label):
                raise ValueError(f"{rule}; that of row {row} is missing")


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas' NA says neither yes nor no
        return True


def expected_errors(rate: float, trials: int) -> float:
    """How many of so many trials err at a rate, not below a whole number by rounding alone."""
    # 0.0003 * 100,000 lies below 30.
    return round(rate * trials, 9)


def little_evidence(target_fmr: float, impostor_pairs: int | None, people: int) -> str | None:
    """On how little a threshold was calibrated, where that is too little to state a rate.

    Parameters
    ----------
    target_fmr : float
    impostor_pairs : int or None
        None if it is not known.
    people : int
        0 if it is not known.

    Returns
    -------
    str or None
        None where neither is known to be too few.
    """
    few = [f"{people} people"] if 0 < people < LEAST_PEOPLE else []
    if impostor_pairs is not None and expected_errors(target_fmr, impostor_pairs) < RULE_OF_3:
        few.append(f"{impostor_pairs} pairs of strangers")
    return f"calibrated on {' and '.join(few)}" if few else None
