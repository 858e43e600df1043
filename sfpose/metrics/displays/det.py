"""Detection error trade-off curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose.metrics._checks import check_scores, check_threshold, people_given
from sfpose.metrics.displays._common import (
    Scorer,
    all_comparisons,
    axes_or_new,
    figure_of,
    rule_for,
)
from sfpose.metrics.error_rates import crossing, det_curve, error_rates_at_threshold
from sfpose.metrics.intervals import Interval, intervals_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DetCurveDisplay"]

_TICKS = np.array([0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
_LEAST, _MOST = _TICKS[0] / 2, 0.9
"""Rates that the picture shows; smaller ones, 0 among them, are drawn at the least."""


class DetCurveDisplay:
    """Detection error trade-off on normal-deviate axes.

    Use ``from_scores`` or ``from_estimator``.

    Parameters
    ----------
    fmr, fnmr : float64 arrays of shape (n,)
    eer : float
    name : str, optional
        For the legend.
    operating_point : (float, float), optional
        False match and non-match rate to mark.
    operating_intervals : (Interval or None, Interval or None), default=(None, None)
        Intervals of the two rates there, drawn as bars.

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
        operating_intervals: tuple[Interval | None, Interval | None] = (None, None),
    ) -> None:
        self.fmr = fmr
        self.fnmr = fnmr
        self.eer = eer
        self.name = name
        self.operating_point = operating_point
        self.operating_intervals = operating_intervals

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        *,
        name: str | None = None,
        threshold: float | None = None,
        first_people: ArrayLike | None = None,
        second_people: ArrayLike | None = None,
        ax: Axes | None = None,
    ) -> DetCurveDisplay:
        """Draw the curve of labelled comparisons.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike.
        is_genuine : bool array of shape (n,)
        name : str, optional
            For the legend.
        threshold : float, optional
            Operating point to mark.
        first_people, second_people : arrays of shape (n,), optional
            Who is on either side, for 95 % intervals over people at the threshold; none is
            drawn of a rate for which fewer than 10 people have pairs.
        ax : matplotlib Axes, optional
            A new figure if not given.

        Returns
        -------
        DetCurveDisplay

        Raises
        ------
        ValueError
            If the scores are refused, ``threshold`` is NaN, only one side's people are given,
            or they have another shape.

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
        people = people_given(first_people, second_people, scores.shape)
        fmr, fnmr, _ = det_curve(scores, genuine)
        point: tuple[float, float] | None = None
        intervals: tuple[Interval | None, Interval | None] = (None, None)
        if threshold is not None:
            point = error_rates_at_threshold(scores, genuine, threshold)
            if people is not None:
                accepted = scores <= check_threshold(threshold)
                intervals = intervals_at(accepted, genuine, *people)
        display = cls(
            fmr,
            fnmr,
            crossing(fmr, fnmr),
            name=name,
            operating_point=point,
            operating_intervals=intervals,
        )
        return display.plot(ax=ax)

    @classmethod
    def from_estimator(
        cls,
        verifier: Scorer,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        *,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> DetCurveDisplay:
        """Draw the curve of all pairs of descriptors, and the threshold on it.

        Parameters
        ----------
        verifier : TemplateVerifier
            Fitted on other people, or deciding by the calibration that ships;
            its threshold is that of one image a side.
        descriptors : array of shape (n, d), values >= 0
        subjects : array of shape (n,)
        name : str, optional
            For the legend.
        ax : matplotlib Axes, optional

        Returns
        -------
        DetCurveDisplay

        Raises
        ------
        ValueError
            If lengths differ, descriptors are refused, or nothing decides: see ``verify``.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose import TemplateVerifier
        >>> from sfpose.metrics import DetCurveDisplay
        >>> rng = np.random.default_rng(0)
        >>> subjects = np.repeat(np.arange(40), 5)
        >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
        >>> verifier = TemplateVerifier(0.02).fit(descriptors[:100], subjects[:100])
        >>> display = DetCurveDisplay.from_estimator(
        ...     verifier, descriptors[100:], subjects[100:]
        ... )
        >>> display.eer < 0.1
        True
        """
        first, second, people = all_comparisons(descriptors, subjects)
        rule = rule_for(verifier, descriptors)
        distances = verifier.score_matrix(descriptors, descriptors)[first, second]
        return cls.from_scores(
            distances,
            people[first] == people[second],
            name=name,
            threshold=rule.threshold,
            first_people=people[first],
            second_people=people[second],
            ax=ax,
        )

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

        axes = axes_or_new(ax)
        # Rates of 0 lie at infinity; they are drawn at the edge of the picture. Those near 1
        # leave it.
        x, y = (norm.ppf(np.clip(rate, _LEAST, 1 - _LEAST)) for rate in (self.fmr, self.fnmr))
        label = f"EER {100 * self.eer:.2f} %"
        if self.name is not None:
            label = f"{self.name} ({label})"
        (self.line_,) = axes.plot(x, y, label=label, drawstyle="steps-post")
        if self.operating_point is not None:
            point = norm.ppf(np.clip(self.operating_point, _LEAST, _MOST))
            bars = [
                None
                if interval is None
                else np.abs(norm.ppf(np.clip(interval, _LEAST, _MOST))[:, None] - centre)
                for interval, centre in zip(self.operating_intervals, point, strict=True)
            ]
            axes.errorbar(
                float(point[0]),
                float(point[1]),
                xerr=bars[0],
                yerr=bars[1],
                fmt="o",
                color=self.line_.get_color(),
                capsize=3,
                clip_on=False,
            )
        # A little below the least rate, or the frame would cover a line that runs there.
        ends = norm.ppf([_LEAST / 1.5, _MOST])
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
        self.figure_: Figure = figure_of(axes)
        return self
