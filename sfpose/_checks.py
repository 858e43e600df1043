"""What several modules ask of an argument. May import NumPy alone."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_groups",
    "check_jobs",
    "check_labels",
    "check_number",
    "check_rate",
    "check_whole",
]


def check_whole(value: object, name: str, least: int) -> int:
    """A whole number, NumPy's too, of at least ``least``; a bool is none.

    Raises
    ------
    ValueError
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return int(value)


def check_jobs(value: object) -> int | None:
    """A number of threads as joblib takes it: None, or a whole number other than 0.

    Raises
    ------
    ValueError
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) == 0:
        raise ValueError(f"n_jobs must be None or a whole number other than 0; got {value!r}")
    return int(value)


def check_number(value: object, name: str, *, above: float = -math.inf) -> float:
    """A finite number, NumPy's too, above another; a bool is none.

    Raises
    ------
    ValueError
    """
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not number or not above < float(value) < math.inf:  # type: ignore[arg-type]
        limit = "" if above == -math.inf else f" above {above:g}"
        raise ValueError(f"{name} must be a finite number{limit}; got {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_rate(value: object, name: str) -> float:
    """A number between 0 and 1, NumPy's too, neither of them; a bool is none.

    Raises
    ------
    ValueError
    """
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not number or not 0 < float(value) < 1:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a rate, 0 < {name} < 1; got {value!r}")
    return float(value)  # type: ignore[arg-type]


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


def check_labels(values: ArrayLike, count: int, rule: str) -> NDArray[Any]:
    """One label for each of ``count`` rows, as an array.

    Raises
    ------
    ValueError
        If they are more or fewer, one is missing (None, NaN, pandas' NA), or they are of kinds
        that have no order; says the rule.
    """
    labels = np.asarray(values)
    if labels.shape != (count,):
        raise ValueError(f"{rule}, shape ({count},); got {labels.shape}")
    if labels.dtype.kind in "fcmMO":
        for row, label in enumerate(labels.tolist()):
            if _is_missing(label):
                raise ValueError(f"{rule}; that of row {row} is missing")
    if labels.dtype.kind == "O":
        try:
            np.unique(labels)
        except TypeError:
            kinds = sorted({type(label).__name__ for label in labels.tolist()})
            raise ValueError(
                f"{rule}, all by text or all by numbers; got {', '.join(kinds)}"
            ) from None
    return labels


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas' NA says neither yes nor no
        return True
