"""Tippett plots: how far likelihood ratios speak for the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose.metrics._checks import check_ratios
from sfpose.metrics.displays._common import (
    Scorer,
    all_comparisons,
    axes_or_new,
    figure_of,
    label_without_infinite,
    rule_for,
)
from sfpose.metrics.likelihood import LikelihoodRatioCalibrator, log_likelihood_ratio_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TippettDisplay"]


class TippettDisplay:
    """Share of comparisons whose likelihood ratio is at least so large.

    Use ``from_estimator``, ``from_ratios`` or ``from_scores``.

    Parameters
    ----------
    genuine, impostor : float64 arrays
        Log-likelihood ratios (natural logarithms).

    Attributes
    ----------
    cost : float
        Cllr in bits.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of two matplotlib Line2D

    References
    ----------
    Evett and Buckleton, "Statistical analysis of STR data", 1996; Drygajlo et al.,
    "Methodological guidelines for best practice in forensic semiautomatic and automatic
    speaker recognition", ENFSI, 2015.
    """

    def __init__(self, genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> None:
        self.genuine = np.sort(genuine)
        self.impostor = np.sort(impostor)
        self.cost = log_likelihood_ratio_cost(
            np.r_[genuine, impostor], np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
        )

    @classmethod
    def from_ratios(
        cls, log_likelihood_ratios: ArrayLike, is_genuine: ArrayLike, *, ax: Axes | None = None
    ) -> TippettDisplay:
        """Draw the two curves of labelled comparisons.

        Parameters
        ----------
        log_likelihood_ratios : array of shape (n,)
            Natural logarithms; larger means more alike.
        is_genuine : bool array of shape (n,)
        ax : matplotlib Axes, optional

        Returns
        -------
        TippettDisplay

        Raises
        ------
        ValueError
            If shapes differ, a ratio is NaN, or one kind of comparison is missing.

        Examples
        --------
        >>> from sfpose.metrics import TippettDisplay
        >>> display = TippettDisplay.from_ratios([2.0, -1.0, -3.0, 0.5], [1, 1, 0, 0])
        >>> round(display.cost, 3)
        0.888
        """
        ratios, genuine = check_ratios(log_likelihood_ratios, is_genuine)
        return cls(ratios[genuine], ratios[~genuine]).plot(ax=ax)

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        *,
        method: str = "logistic",
        ax: Axes | None = None,
    ) -> TippettDisplay:
        """Calibrate distances on themselves, and draw the curves of the ratios.

        A calibration looks better on what it was learnt from than on other people: for
        those, fit a TemplateVerifier and use ``from_estimator``.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike.
        is_genuine : bool array of shape (n,)
        method : {"logistic", "isotonic"}, default="logistic"
            See ``sfpose.metrics.LikelihoodRatioCalibrator``.
        ax : matplotlib Axes, optional

        Returns
        -------
        TippettDisplay

        Raises
        ------
        ValueError
            If the scores are refused or ``method`` is unknown.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose.metrics import TippettDisplay
        >>> genuine = np.arange(2000) < 500
        >>> distances = np.random.default_rng(0).normal(np.where(genuine, 1.0, 3.0))
        >>> round(TippettDisplay.from_scores(distances, genuine).cost, 1)
        0.5
        """
        calibrator = LikelihoodRatioCalibrator(method).fit(distances, is_genuine)
        return cls.from_ratios(calibrator.transform(distances), is_genuine, ax=ax)

    @classmethod
    def from_estimator(
        cls,
        verifier: Scorer,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        *,
        ax: Axes | None = None,
    ) -> TippettDisplay:
        """Draw the ratios of all pairs of descriptors.

        Parameters
        ----------
        verifier : TemplateVerifier
            Fitted on other people, or deciding by the calibration that ships.
        descriptors : array of shape (n, d), values >= 0
        subjects : array of shape (n,)
        ax : matplotlib Axes, optional

        Returns
        -------
        TippettDisplay

        Raises
        ------
        ValueError
            If lengths differ, descriptors are refused, or nothing decides: see ``verify``.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose import TemplateVerifier
        >>> from sfpose.metrics import TippettDisplay
        >>> rng = np.random.default_rng(0)
        >>> subjects = np.repeat(np.arange(40), 5)
        >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
        >>> verifier = TemplateVerifier(0.02).fit(descriptors[:100], subjects[:100])
        >>> display = TippettDisplay.from_estimator(
        ...     verifier, descriptors[100:], subjects[100:]
        ... )
        >>> display.cost < 0.5
        True
        """
        first, second, people = all_comparisons(descriptors, subjects)
        rule = rule_for(verifier, descriptors)
        # Of all at once, or a cohort would be compared with a row as often as the row is.
        distances = verifier.score_matrix(descriptors, descriptors)[first, second]
        ratios = rule.slope * distances.astype(np.float64) + rule.intercept
        return cls.from_ratios(ratios, people[first] == people[second], ax=ax)

    def plot(self, *, ax: Axes | None = None) -> TippettDisplay:
        """Draw on ``ax``, or on a new figure.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        TippettDisplay
            Itself.
        """
        axes = axes_or_new(ax)
        self.lines_ = []
        for ratios, name in [(self.genuine, "genuine"), (self.impostor, "impostor")]:
            # A ratio counts as "at least so large" at its own value.
            share = 100 * np.arange(len(ratios), 0, -1) / len(ratios)
            label = label_without_infinite(name, ratios)
            (line,) = axes.plot(ratios / np.log(10), share, drawstyle="steps-pre", label=label)
            self.lines_.append(line)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(
            xlabel="Log-likelihood ratio, base 10",
            ylabel="Comparisons with at least this ratio (%)",
            title=f"Cllr {self.cost:.3f} bits",
        )
        axes.legend()
        self.ax_ = axes
        self.figure_: Figure = figure_of(axes)
        return self
