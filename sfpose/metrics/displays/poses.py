"""Error rates of each pose against each."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sfpose._checks import as_labels, check_labels, joined_labels
from sfpose.metrics._checks import check_scores
from sfpose.metrics.displays._common import Scorer, all_comparisons, axes_or_new, figure_of
from sfpose.metrics.error_rates import equal_error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PoseErrorDisplay"]


class PoseErrorDisplay:
    """Equal error rate of each pose against each pose, as a coloured table.

    Use ``from_scores`` or ``from_estimator``, or give rates and call ``plot``.

    Parameters
    ----------
    poses : sequence of str
    rates : float array of shape (n_poses, n_poses)
        Equal error rates, 0 to 1; NaN where nothing was measured.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Raises
    ------
    ValueError
        If ``rates`` has another shape.

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

    @classmethod
    def from_scores(
        cls,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        first_poses: ArrayLike,
        second_poses: ArrayLike,
        *,
        poses: Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> PoseErrorDisplay:
        """Draw the rates of labelled comparisons, whichever side shows which pose.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike.
        is_genuine : bool array of shape (n,)
        first_poses, second_poses : arrays of shape (n,)
            Pose on either side of each comparison.
        poses : sequence of str, optional
            The poses in the order of the table; all of them in alphabetical order if
            not given.
        ax : matplotlib Axes, optional

        Returns
        -------
        PoseErrorDisplay
            Its table is symmetric, and NaN where a pair of poses has no genuine or no
            impostor comparison.

        Raises
        ------
        ValueError
            If the scores are refused, shapes differ, a pose is missing, or ``poses`` name one
            twice or none that there is.

        Examples
        --------
        >>> from sfpose.metrics import PoseErrorDisplay
        >>> display = PoseErrorDisplay.from_scores(
        ...     [1, 2, 3, 3, 5, 4], [1, 0, 1, 0, 0, 1], list("FFFPFP"), list("FFPFPF")
        ... )
        >>> display.poses, display.rates.tolist()
        (['F', 'P'], [[0.0, 0.5], [0.5, nan]])
        """
        scores, genuine = check_scores(distances, is_genuine)
        rule = "poses must be named, one for each comparison"
        sides = as_labels(first_poses, rule), as_labels(second_poses, rule)
        for name, side in zip(("first_poses", "second_poses"), sides, strict=True):
            check_labels(side, len(scores), f"{name} must name one for each comparison")
        both = joined_labels(*sides)
        known: list[Any] = check_labels(both, len(both), rule)[0].tolist()
        names = known if poses is None else list(poses)
        if len(set(names)) != len(names) or not set(names) & set(known):
            raise ValueError(f"poses must be of {known}, each once; got {names}")
        rates = np.full((len(names),) * 2, np.nan)
        for one, other in combinations_with_replacement(range(len(names)), 2):
            pair = names[one], names[other]
            chosen = (sides[0] == pair[0]) & (sides[1] == pair[1])
            chosen |= (sides[0] == pair[1]) & (sides[1] == pair[0])
            if genuine[chosen].any() and not genuine[chosen].all():
                rate = equal_error_rate(scores[chosen], genuine[chosen])
                rates[one, other] = rates[other, one] = rate
        return cls(names, rates).plot(ax=ax)

    @classmethod
    def from_estimator(
        cls,
        verifier: Scorer,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        descriptor_poses: ArrayLike,
        *,
        poses: Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> PoseErrorDisplay:
        """Draw the rates of all pairs of descriptors.

        Parameters
        ----------
        verifier : TemplateVerifier
        descriptors : array of shape (n, d), values >= 0
        subjects : array of shape (n,)
        descriptor_poses : array of shape (n,)
            Pose of each descriptor's image.
        poses : sequence of str, optional
            As for ``from_scores``.
        ax : matplotlib Axes, optional

        Returns
        -------
        PoseErrorDisplay

        Raises
        ------
        ValueError
            If lengths differ or descriptors are refused.

        Examples
        --------
        >>> import numpy as np
        >>> from sfpose import TemplateVerifier
        >>> from sfpose.metrics import PoseErrorDisplay
        >>> rng = np.random.default_rng(0)
        >>> subjects = np.repeat(np.arange(30), 4)
        >>> poses = np.tile(["frontal", "frontal", "profile", "profile"], 30)
        >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (30, 50)), 4, axis=0) * 9)
        >>> display = PoseErrorDisplay.from_estimator(
        ...     TemplateVerifier(), descriptors, subjects, poses
        ... )
        >>> display.rates.shape
        (2, 2)
        """
        first, second, people = all_comparisons(descriptors, subjects)
        rule = "descriptor_poses must name one for each descriptor"
        check_labels(shown := as_labels(descriptor_poses, rule), len(people), rule)
        return cls.from_scores(
            verifier.score_matrix(descriptors, descriptors)[first, second],
            people[first] == people[second],
            shown[first],
            shown[second],
            poses=poses,
            ax=ax,
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
        middle = np.nanmax(percent, initial=0) / 2
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
