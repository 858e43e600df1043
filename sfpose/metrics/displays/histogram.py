"""Histograms of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose.metrics._checks import check_scores, check_threshold
from sfpose.metrics.displays._common import (
    Scorer,
    all_comparisons,
    axes_or_new,
    figure_of,
    label_without_infinite,
    rule_for,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ScoreHistogramDisplay"]


class ScoreHistogramDisplay:
    """Distances of genuine and impostor comparisons, with a threshold.

    Use ``from_scores`` or ``from_estimator``.

    Parameters
    ----------
    genuine, impostor : float64 arrays
    threshold : float, optional

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        genuine: NDArray[np.float64],
        impostor: NDArray[np.float64],
        *,
        threshold: float | None = None,
    ) -> None:
        self.genuine = genuine
        self.impostor = impostor
        self.threshold = threshold

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        *,
        threshold: float | None = None,
        bins: int = 60,
        ax: Axes | None = None,
    ) -> ScoreHistogramDisplay:
        """Draw the histograms of labelled comparisons.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike. Infinite where an image could not be acquired.
        is_genuine : bool array of shape (n,)
        threshold : float, optional
            Drawn as a line.
        bins : int, default=60
        ax : matplotlib Axes, optional

        Returns
        -------
        ScoreHistogramDisplay

        Raises
        ------
        ValueError
            If the scores are refused, or ``threshold`` is no number.

        Examples
        --------
        >>> from sfpose.metrics import ScoreHistogramDisplay
        >>> display = ScoreHistogramDisplay.from_scores([1, 2, 4, 5], [1, 1, 0, 0], threshold=3)
        >>> display.genuine.tolist(), display.impostor.tolist()
        ([1.0, 2.0], [4.0, 5.0])
        """
        scores, genuine = check_scores(distances, is_genuine)
        limit = None if threshold is None else check_threshold(threshold)
        display = cls(scores[genuine], scores[~genuine], threshold=limit)
        return display.plot(bins=bins, ax=ax)

    @classmethod
    def from_estimator(
        cls,
        verifier: Scorer,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        *,
        bins: int = 60,
        ax: Axes | None = None,
    ) -> ScoreHistogramDisplay:
        """Draw the distances of all pairs of descriptors, with the threshold.

        Parameters
        ----------
        verifier : TemplateVerifier
            Fitted on other people, or deciding by the calibration that ships;
            its threshold is that of one image a side.
        descriptors : array of shape (n, d), values >= 0
        subjects : array of shape (n,)
        bins : int, default=60
        ax : matplotlib Axes, optional

        Returns
        -------
        ScoreHistogramDisplay

        Raises
        ------
        ValueError
            If lengths differ, descriptors are refused, or nothing decides: see ``verify``.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose import TemplateVerifier
        >>> from sfpose.metrics import ScoreHistogramDisplay
        >>> rng = np.random.default_rng(0)
        >>> subjects = np.repeat(np.arange(40), 5)
        >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
        >>> verifier = TemplateVerifier(0.02).fit(descriptors[:100], subjects[:100])
        >>> display = ScoreHistogramDisplay.from_estimator(
        ...     verifier, descriptors[100:], subjects[100:]
        ... )
        >>> len(display.genuine), len(display.impostor)
        (200, 4750)
        """
        first, second, people = all_comparisons(descriptors, subjects)
        threshold = rule_for(verifier, descriptors).threshold
        distances = verifier.score_matrix(descriptors, descriptors)[first, second]
        genuine = people[first] == people[second]
        return cls.from_scores(distances, genuine, threshold=threshold, bins=bins, ax=ax)

    def plot(self, *, bins: int = 60, ax: Axes | None = None) -> ScoreHistogramDisplay:
        """Draw on ``ax``, or on a new figure; infinite distances are left out and counted.

        Parameters
        ----------
        bins : int, default=60
        ax : matplotlib Axes, optional

        Returns
        -------
        ScoreHistogramDisplay
            Itself.
        """
        axes = axes_or_new(ax)
        kinds = {"genuine": self.genuine, "impostor": self.impostor}
        finite = {name: values[np.isfinite(values)] for name, values in kinds.items()}
        edges = np.histogram_bin_edges(np.concatenate([*finite.values()]), bins)
        for name, values in finite.items():
            label = label_without_infinite(name, kinds[name])
            # Of no values there is no density.
            drawn = len(values) > 0
            axes.hist(values, edges.tolist(), density=drawn, alpha=0.55, label=label)
        if self.threshold is not None:
            axes.axvline(self.threshold, color="0.2", linestyle="--", label="threshold")
        axes.set(xlabel="Distance", ylabel="Density")
        axes.legend()
        self.ax_ = axes
        self.figure_: Figure = figure_of(axes)
        return self
