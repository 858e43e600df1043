"""Pictures of error rates, in scikit-learn's manner; matplotlib is imported when drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose.metrics.error_rates import (
    check_scores,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DetCurveDisplay", "PoseErrorDisplay", "ScoreHistogramDisplay"]

_TICKS = np.array([0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])


def _axes(ax: Axes | None) -> Axes:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("displays need matplotlib: pip install matplotlib") from error
    return plt.subplots()[1] if ax is None else ax


class DetCurveDisplay:
    """Detection error trade-off on normal-deviate axes.

    Use :meth:`from_scores`.

    Parameters
    ----------
    fmr, fnmr : float64 arrays of shape (n,)
    eer : float
    name : str, optional
        For the legend.
    operating_point : (float, float), optional
        False match and non-match rate to mark.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    References
    ----------
    Martin et al., "The DET curve in assessment of detection task performance", 1997.
    """

    def __init__(
        self,
        fmr: NDArray[np.float64],
        fnmr: NDArray[np.float64],
        eer: float,
        *,
        name: str | None = None,
        operating_point: tuple[float, float] | None = None,
    ) -> None:
        self.fmr = fmr
        self.fnmr = fnmr
        self.eer = eer
        self.name = name
        self.operating_point = operating_point

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        *,
        name: str | None = None,
        threshold: float | None = None,
        ax: Axes | None = None,
    ) -> DetCurveDisplay:
        """Draw the curve of labelled comparisons.

        Parameters
        ----------
        distances : array of shape (n,)
        is_genuine : bool array of shape (n,)
        name : str, optional
            For the legend.
        threshold : float, optional
            Operating point to mark.
        ax : matplotlib Axes, optional
            A new figure if not given.

        Returns
        -------
        DetCurveDisplay

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose.metrics import DetCurveDisplay
        >>> rng = np.random.default_rng(0)
        >>> genuine = np.arange(2000) < 500
        >>> distances = rng.normal(np.where(genuine, 1.0, 3.0))
        >>> display = DetCurveDisplay.from_scores(distances, genuine, name="example")
        >>> round(display.eer, 1)
        0.2
        """
        scores, genuine = check_scores(distances, is_genuine)
        fmr, fnmr, _ = det_curve(scores, genuine)
        point = None
        if threshold is not None:
            point = error_rates_at_threshold(scores, genuine, threshold)
        eer = equal_error_rate(scores, genuine)
        return cls(fmr, fnmr, eer, name=name, operating_point=point).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> DetCurveDisplay:
        """Draw on ``ax``, or on a new figure.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        DetCurveDisplay
            Itself.
        """
        from scipy.stats import norm

        axes = _axes(ax)
        # Rates of 0 and 1 lie at infinity; they are drawn at the edge of the picture.
        edge = 1e-5
        x, y = (norm.ppf(np.clip(rate, edge, 1 - edge)) for rate in (self.fmr, self.fnmr))
        label = f"EER {100 * self.eer:.2f} %"
        if self.name is not None:
            label = f"{self.name} ({label})"
        (self.line_,) = axes.plot(x, y, label=label, drawstyle="steps-post")
        if self.operating_point is not None:
            point = norm.ppf(np.clip(self.operating_point, edge, 1 - edge))
            axes.plot(*point, "o", color=self.line_.get_color())
        ends = norm.ppf([_TICKS[0] / 2, 0.9])
        axes.plot(ends, ends, color="0.8", linewidth=0.8, zorder=0)
        ticks, labels = norm.ppf(_TICKS), [f"{100 * tick:g}" for tick in _TICKS]
        axes.set(
            xticks=ticks,
            xticklabels=labels,
            yticks=ticks,
            yticklabels=labels,
            xlim=ends,
            ylim=ends,
            xlabel="False match rate (%)",
            ylabel="False non-match rate (%)",
            aspect="equal",
        )
        axes.legend(loc="upper right")
        self.ax_ = axes
        self.figure_: Figure = axes.figure  # type: ignore[assignment]
        return self


class ScoreHistogramDisplay:
    """Distances of genuine and impostor comparisons, with a threshold.

    Use :meth:`from_scores`.

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
        is_genuine : bool array of shape (n,)
        threshold : float, optional
            Drawn as a line.
        bins : int, default=60
        ax : matplotlib Axes, optional

        Returns
        -------
        ScoreHistogramDisplay
        """
        scores, genuine = check_scores(distances, is_genuine)
        display = cls(scores[genuine], scores[~genuine], threshold=threshold)
        return display.plot(bins=bins, ax=ax)

    def plot(self, *, bins: int = 60, ax: Axes | None = None) -> ScoreHistogramDisplay:
        """Draw on ``ax``, or on a new figure.

        Parameters
        ----------
        bins : int, default=60
        ax : matplotlib Axes, optional

        Returns
        -------
        ScoreHistogramDisplay
            Itself.
        """
        axes = _axes(ax)
        edges = np.histogram_bin_edges(np.concatenate([self.genuine, self.impostor]), bins)
        for values, name in [(self.genuine, "genuine"), (self.impostor, "impostor")]:
            axes.hist(values, edges.tolist(), density=True, alpha=0.55, label=name)
        if self.threshold is not None:
            axes.axvline(self.threshold, color="0.2", linestyle="--", label="threshold")
        axes.set(xlabel="Distance", ylabel="Density")
        axes.legend()
        self.ax_ = axes
        self.figure_: Figure = axes.figure  # type: ignore[assignment]
        return self


class PoseErrorDisplay:
    """Equal error rate of each pose against each pose, as a coloured table.

    Parameters
    ----------
    poses : sequence of str
    rates : float array of shape (n_poses, n_poses)
        Equal error rates, 0 to 1; NaN where nothing was measured.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sfpose.metrics import PoseErrorDisplay
    >>> rates = [[0.01, 0.05], [float("nan"), 0.03]]
    >>> PoseErrorDisplay(["frontal", "profile"], rates).plot().ax_.get_xlabel()
    'Pose of the probe'
    """

    def __init__(self, poses: Sequence[str], rates: ArrayLike) -> None:
        self.poses = list(poses)
        self.rates = np.asarray(rates, dtype=np.float64)
        if self.rates.shape != (len(self.poses),) * 2:
            raise ValueError(
                f"rates must have shape ({len(self.poses)}, {len(self.poses)}); "
                f"got {self.rates.shape}"
            )

    def plot(self, *, ax: Axes | None = None) -> PoseErrorDisplay:
        """Draw on ``ax``, or on a new figure.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        PoseErrorDisplay
            Itself.
        """
        axes = _axes(ax)
        percent = 100 * self.rates
        image = axes.imshow(percent, cmap="YlOrRd", vmin=0)
        middle = np.nanmax(percent) / 2
        for (row, column), rate in np.ndenumerate(percent):
            if not np.isnan(rate):
                colour = "white" if rate > 1.4 * middle else "black"
                axes.text(column, row, f"{rate:.2f}", ha="center", va="center", color=colour)
        places = range(len(self.poses))
        axes.set_xticks(places, self.poses)
        axes.set_yticks(places, self.poses)
        axes.set(xlabel="Pose of the probe", ylabel="Pose of the template")
        figure: Figure = axes.figure  # type: ignore[assignment]
        figure.colorbar(image, ax=axes, label="Equal error rate (%)")
        self.ax_ = axes
        self.figure_ = figure
        return self
