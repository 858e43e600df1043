"""Error rates of each pose against each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sfpose.metrics.displays._common import axes_or_new, figure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PoseErrorDisplay"]


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
        axes = axes_or_new(ax)
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
        figure: Figure = figure_of(axes)
        figure.colorbar(image, ax=axes, label="Equal error rate (%)")
        self.ax_ = axes
        self.figure_ = figure
        return self
