"""Error rates by group of people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sfpose._checks import check_labels
from sfpose.metrics.displays._common import (
    Scorer,
    all_comparisons,
    axes_or_new,
    figure_of,
    rule_for,
)
from sfpose.metrics.groups import GroupErrorRates, group_error_rates
from sfpose.metrics.intervals import clopper_pearson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GroupErrorDisplay"]


class GroupErrorDisplay:
    """False match or non-match rate of each group at one threshold, as bars.

    Use ``from_scores`` or ``from_estimator``, or give rates and call ``plot``.

    Parameters
    ----------
    rates : GroupErrorRates
    rate : {"fmr", "fnmr"}, default="fmr"

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    Raises
    ------
    ValueError
        If ``rate`` is neither.

    Examples
    --------
    >>> from sfpose.metrics import GroupErrorDisplay, group_error_rates
    >>> rates = group_error_rates([1, 4, 2, 9], [0, 0, 0, 1], ["a", "a", "b", "b"], 3)
    >>> GroupErrorDisplay(rates).plot().ax_.get_xlabel()
    'False match rate (%)'
    """

    def __init__(self, rates: GroupErrorRates, rate: str = "fmr") -> None:
        if rate not in ("fmr", "fnmr"):
            raise ValueError(f'rate must be "fmr" or "fnmr"; got {rate!r}')
        self.rates = rates
        self.rate = rate

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        groups: ArrayLike,
        threshold: float,
        *,
        rate: str = "fmr",
        target: float | None = None,
        ax: Axes | None = None,
    ) -> GroupErrorDisplay:
        """Draw the rates of labelled comparisons.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike.
        is_genuine : bool array of shape (n,)
        groups : array of shape (n,)
            Group of each comparison.
        threshold : float
        rate : {"fmr", "fnmr"}, default="fmr"
        target : float, optional
            A rate to mark with a line.
        ax : matplotlib Axes, optional

        Returns
        -------
        GroupErrorDisplay

        Raises
        ------
        ValueError
            If the scores are refused, shapes differ, or ``rate`` is neither.

        Examples
        --------
        >>> from sfpose.metrics import GroupErrorDisplay
        >>> display = GroupErrorDisplay.from_scores(
        ...     [1, 4, 2, 9], [0, 0, 0, 1], ["a", "a", "b", "b"], 3
        ... )
        >>> display.rates.fmr.tolist()
        [0.5, 1.0]
        """
        rates = group_error_rates(distances, is_genuine, groups, threshold)
        return cls(rates, rate).plot(target=target, ax=ax)

    @classmethod
    def from_estimator(
        cls,
        verifier: Scorer,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        groups: ArrayLike,
        *,
        rate: str = "fmr",
        ax: Axes | None = None,
    ) -> GroupErrorDisplay:
        """Draw the rates of all pairs within each group at the threshold.

        Parameters
        ----------
        verifier : TemplateVerifier
            Fitted on other people, or deciding by the calibration that ships;
            its threshold is that of one image a side.
        descriptors : array of shape (n, d), values >= 0
        subjects : array of shape (n,)
        groups : array of shape (n,)
            Group of each descriptor's person. Pairs of two groups are left out: who
            passes for somebody else usually is of the same group.
        rate : {"fmr", "fnmr"}, default="fmr"
            With ``"fmr"`` the target that the threshold was calibrated for is marked.
        ax : matplotlib Axes, optional

        Returns
        -------
        GroupErrorDisplay

        Raises
        ------
        ValueError
            If lengths differ, descriptors are refused, one has no group, nothing decides, or
            ``rate`` is neither.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose import TemplateVerifier
        >>> from sfpose.metrics import GroupErrorDisplay
        >>> rng = np.random.default_rng(0)
        >>> subjects = np.repeat(np.arange(40), 5)
        >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
        >>> verifier = TemplateVerifier(0.02).fit(descriptors[:100], subjects[:100])
        >>> groups = np.where(subjects % 2, "odd", "even")[100:]
        >>> display = GroupErrorDisplay.from_estimator(
        ...     verifier, descriptors[100:], subjects[100:], groups
        ... )
        >>> display.rates.impostor.tolist()
        [1125, 1125]
        """
        first, second, people = all_comparisons(descriptors, subjects)
        rule = "groups must name one for each descriptor"
        names, labels = check_labels(groups, len(people), rule)
        within = labels[first] == labels[second]
        first, second = first[within], second[within]
        decided = rule_for(verifier, descriptors)
        return cls.from_scores(
            verifier.score_matrix(descriptors, descriptors)[first, second],
            people[first] == people[second],
            names[labels[first]],
            decided.threshold,
            rate=rate,
            target=decided.target_fmr if rate == "fmr" else None,
            ax=ax,
        )

    def plot(self, *, target: float | None = None, ax: Axes | None = None) -> GroupErrorDisplay:
        """Draw on ``ax``, or on a new figure.

        Whiskers are 95 % Clopper-Pearson intervals, which take comparisons as
        independent.

        Parameters
        ----------
        target : float, optional
            A rate to mark with a line, such as the one that was calibrated for.
        ax : matplotlib Axes, optional

        Returns
        -------
        GroupErrorDisplay
            Itself.
        """
        axes = axes_or_new(ax)
        rates = getattr(self.rates, self.rate)
        counts = self.rates.impostor if self.rate == "fmr" else self.rates.genuine
        known = np.flatnonzero(counts > 0)[::-1]
        limits = np.array(
            [
                clopper_pearson_interval(round(rates[group] * counts[group]), int(counts[group]))
                for group in known
            ]
        )
        reach = 100 * np.abs(limits.T - rates[known])
        names = [str(self.rates.groups[group]) for group in known]
        self.bars_ = axes.barh(names, 100 * rates[known], xerr=reach, capsize=2, color="tab:blue")
        if target is not None:
            axes.axvline(100 * target, color="0.2", linestyle="--", label="target")
            axes.legend()
        kind = "match" if self.rate == "fmr" else "non-match"
        axes.set(xlabel=f"False {kind} rate (%)")
        self.ax_ = axes
        self.figure_: Figure = figure_of(axes)
        return self
