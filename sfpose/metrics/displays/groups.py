"""Error rates by group of people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfpose.metrics.displays._common import axes_or_new, figure_of
from sfpose.metrics.groups import GroupErrorRates
from sfpose.metrics.intervals import clopper_pearson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GroupErrorDisplay"]


class GroupErrorDisplay:
    """False match or non-match rate of each group at one threshold, as bars.

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
