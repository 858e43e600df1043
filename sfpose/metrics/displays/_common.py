"""What the displays share: axes to draw on, and the comparisons of an estimator."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Scorer",
    "all_comparisons",
    "axes_or_new",
    "figure_of",
    "label_without_infinite",
    "rule_for",
]


class Decider(Protocol):
    """What decides about a comparison."""

    @property
    def threshold(self) -> float: ...

    @property
    def target_fmr(self) -> float: ...

    @property
    def slope(self) -> float: ...

    @property
    def intercept(self) -> float: ...


class Scorer(Protocol):
    """What ``from_estimator`` needs of a TemplateVerifier."""

    def decision_rule(self) -> Decider: ...

    def decision_function(self, A: ArrayLike, B: ArrayLike, /) -> NDArray[np.float64]: ...

    def score_matrix(self, A: ArrayLike, B: ArrayLike, /) -> NDArray[np.floating[Any]]: ...


def pyplot() -> ModuleType:
    """matplotlib.pyplot, or an error that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("displays need matplotlib: pip install matplotlib") from error
    return plt


def axes_or_new(ax: Axes | None) -> Axes:
    """``ax``, or the axes of a new figure."""
    return cast("Axes", pyplot().subplots()[1]) if ax is None else ax


def figure_of(axes: Axes) -> Figure:
    """The figure that holds ``axes``."""
    return cast("Figure", axes.figure)


def label_without_infinite(name: str, values: NDArray[np.float64]) -> str:
    """A name for a legend, and how many of the values cannot be drawn."""
    left_out = int(np.isinf(values).sum())
    return f"{name} ({left_out:,} infinite left out)" if left_out else name


def rule_for(verifier: Scorer, descriptors: ArrayLike) -> Decider:
    """What decides about descriptors, if it does: a threshold of others means nothing."""
    one = np.asarray(descriptors)[:1]
    verifier.decision_function(one, one)
    return verifier.decision_rule()


def all_comparisons(
    descriptors: ArrayLike, subjects: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Index pairs of all rows with each other, and whose rows they are.

    Raises
    ------
    ValueError
        If there is not one subject for each descriptor.
    """
    count = len(np.asarray(descriptors))
    _, people = check_labels(subjects, count, "subjects must name one person for each descriptor")
    first, second = np.triu_indices(count, 1)
    return first, second, people
