"""What the displays share: axes to draw on, and the comparisons of an estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Scorer", "all_comparisons", "axes_or_new", "figure_of"]


class Scorer(Protocol):
    """What ``from_estimator`` needs of a fitted TemplateVerifier."""

    target_fmr: float
    threshold_: float

    def score_matrix(self, A: ArrayLike, B: ArrayLike, /) -> NDArray[np.floating[Any]]: ...

    def log_likelihood_ratio(self, A: ArrayLike, B: ArrayLike, /) -> NDArray[np.float64]: ...


def axes_or_new(ax: Axes | None) -> Axes:
    """``ax``, or the axes of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("displays need matplotlib: pip install matplotlib") from error
    return plt.subplots()[1] if ax is None else ax


def figure_of(axes: Axes) -> Figure:
    """The figure that holds ``axes``."""
    return cast("Figure", axes.figure)


def all_comparisons(
    descriptors: ArrayLike, subjects: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.generic]]:
    """Index pairs of all rows with each other, and whose rows they are.

    Raises
    ------
    ValueError
        If there is not one subject for each descriptor.
    """
    people = np.asarray(subjects)
    count = len(np.asarray(descriptors))
    if people.shape != (count,):
        raise ValueError(
            f"subjects must name one person for each descriptor, shape ({count},); "
            f"got {people.shape}"
        )
    first, second = np.triu_indices(count, 1)
    return first, second, people
