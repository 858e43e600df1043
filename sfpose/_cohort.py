"""Distances over what strangers are at: adaptive symmetric score normalisation.

May import ``_scoring`` and ``decision``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._scoring import Floats, check_descriptors, check_searchable, chi2_matrix_of_checked
from sfpose.decision import DescriptorForm

__all__ = ["Cohort", "Nearness"]

_FEWEST = 100
"""Descriptors that a cohort must hold; fewer tell too little of who is near."""

_LEAST_NEAREST = 30
_NEAREST_SHARE = 0.05
_LEAST_SPREAD = 0.01
_PART = 256


class Nearness(NamedTuple):
    """How far templates (n,) are from the strangers who are nearest to each."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def at(self, rows: Any) -> Nearness:
        """That of some of the templates."""
        return Nearness(self.mean[rows], self.deviation[rows])


class Cohort:
    """Descriptors of other people, whom templates are held against.

    A face that resembles many strangers lies near to more of them at any threshold. So from
    each distance the mean distance of either side to the strangers nearest to it is taken
    off, in units of their standard deviation, and the mean of both sides is what counts.

    Parameters
    ----------
    descriptors : array of shape (m, d), values >= 0, m >= 100
        One a person, none of them somebody who will be compared.
    form : DescriptorForm
        What they must be like.

    Raises
    ------
    ValueError
        If descriptors are refused, of another form or too few.

    References
    ----------
    Matejka et al., "Analysis of score normalization in multilingual speaker recognition",
    Interspeech 2017 (adaptive S-norm, each side with a cohort of its own).
    """

    def __init__(self, descriptors: ArrayLike, form: DescriptorForm) -> None:
        self.descriptors = check_searchable(descriptors, name="cohort")
        form.check(self.descriptors, "cohort")
        if len(self.descriptors) < _FEWEST:
            raise ValueError(
                f"cohort must hold descriptors of at least {_FEWEST} people; "
                f"got {len(self.descriptors)}"
            )
        self.nearest = max(_LEAST_NEAREST, round(_NEAREST_SHARE * len(self.descriptors)))
        """So many of it are held against each template: those that are nearest."""

    def check_strangers(self, rows: NDArray[np.floating[Any]]) -> None:
        """Refuse to hold people against themselves, which a threshold would not survive.

        Raises
        ------
        ValueError
            If a descriptor of the cohort is among these rows (n, d).
        """
        known = {row.tobytes() for row in rows.astype(np.float32)}
        shared = sum(row.tobytes() in known for row in self.descriptors)
        if shared:
            raise ValueError(
                "cohort must be of other people than descriptors, or strangers would be accepted "
                f"far more often than stated; got {shared} of {len(self.descriptors)} among them"
            )

    def nearness(self, templates: ArrayLike, *, n_jobs: int | None = None) -> Nearness:
        """Mean and deviation of the distances of templates (n, d) to their nearest strangers."""
        width = self.descriptors.shape[1]
        rows = check_descriptors(templates, name="templates", width=width)
        mean, deviation = np.empty((2, len(rows)))
        for first in range(0, len(rows), _PART):
            part = slice(first, first + _PART)
            distances = chi2_matrix_of_checked(rows[part], self.descriptors, n_jobs=n_jobs)
            near = np.partition(distances, self.nearest - 1, axis=1)[:, : self.nearest]
            mean[part] = near.mean(axis=1, dtype=np.float64)
            deviation[part] = near.std(axis=1, dtype=np.float64)
        # Strangers who are all as far say nothing of a scale. Those of faces, and of pictures
        # of none, deviate by a fortieth of the mean and more.
        floor = np.maximum(_LEAST_SPREAD * mean, np.finfo(np.float32).tiny)
        return Nearness(mean, np.maximum(deviation, floor))

    def nearness_of_both(
        self, A: ArrayLike, B: ArrayLike, *, n_jobs: int | None = None
    ) -> tuple[Nearness, Nearness]:
        """That of the templates of either side, found once where both are the same."""
        first = self.nearness(A, n_jobs=n_jobs)
        return first, first if B is A else self.nearness(B, n_jobs=n_jobs)

    @staticmethod
    def normalised(distances: Floats, first: Nearness, second: Nearness) -> NDArray[np.float64]:
        """Distances (n,) of pairs, or (n, m) of each with each, by the nearness of both sides."""
        if distances.ndim == 2:
            first = first.at(np.s_[:, None])
        found = (distances - first.mean) / first.deviation
        found += (distances - second.mean) / second.deviation
        return np.asarray(found / 2)
