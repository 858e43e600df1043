"""Comparisons of templates under the pose protocol: planned first, then measured on descriptors.

May import ``protocols``. What cannot be compared is refused by ``plan``, before
minutes went into embedding images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sfpose.protocols import PoseFolder, Trials, VGGFace2Pose
from sfpose.protocols.pose_folder import known_poses

__all__ = [
    "Comparison",
    "Descriptors",
    "PlannedTemplates",
    "PoseColumn",
    "compared",
    "distances_of",
    "everybody_has",
    "mean_of_known",
    "plan",
]

Descriptors = NDArray[np.floating]


class Comparison(Protocol):
    """Distances of pairs of rows given by index: ``compare(rows, first, second)``."""

    def __call__(  # noqa: D102
        self, rows: Descriptors, first: NDArray[np.int64], second: NDArray[np.int64], /
    ) -> Descriptors: ...


class PoseColumn(NamedTuple):
    """A column of Table 4: its comparisons and their distances.

    Attributes
    ----------
    template_size : int
        Images a template.
    poses : (str, str)
    trials : Trials
    distances : array of shape (n,)
        NaN where an image could not be acquired.

    Examples
    --------
    >>> from sfpose.evaluation import PoseColumn
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(list("aabb"), range(4))
    >>> PoseColumn(1, ("frontal", "profile"), trials, 1.0 - trials.is_genuine).name
    'frontal - profile, 1 image'
    """

    template_size: int
    poses: tuple[str, str]
    trials: Trials
    distances: Descriptors

    @property
    def name(self) -> str:
        """Both poses and the number of images."""
        images = "1 image" if self.template_size == 1 else f"{self.template_size} images"
        return f"{self.poses[0]} - {self.poses[1]}, {images}"


class PlannedTemplates(NamedTuple):
    """Templates of one size, and what to compare them in.

    Attributes
    ----------
    size : int
    images : int64 array of shape (templates, size)
        Rows of their images in the folder.
    trials : dict of (str, str) to Trials
        By pairs of poses, as indices of templates.
    """

    size: int
    images: NDArray[np.int64]
    trials: dict[tuple[str, str], Trials]


def plan(folder: PoseFolder, poses: Mapping[int, Sequence[str]]) -> list[PlannedTemplates]:
    """Templates and trials, given the poses to compare by the images of a template.

    Raises
    ------
    ValueError
        If there is no such pose, or somebody has too few images of one.
    """
    planned = []
    for size, kinds in poses.items():
        kept = np.flatnonzero(np.isin(folder.poses, list(kinds)))
        named = ", ".join(map(repr, kinds))
        if not len(kept):
            raise ValueError(f"pose must be one of {known_poses(folder.poses)}; got {named}")
        without = np.setdiff1d(folder.subjects, folder.subjects[kept])
        if len(without):
            raise ValueError(f"everybody must have images of {named}; {without[0]!s} has none")
        protocol = VGGFace2Pose(folder.subjects[kept], folder.poses[kept])
        trials = {pair: protocol.trials(*pair, size) for pair in protocol.columns(kinds)}
        planned.append(PlannedTemplates(size, kept[protocol.templates(size).rows], trials))
    return planned


def everybody_has(folder: PoseFolder, pose: str, count: int) -> bool:
    """Whether all people of a folder have so many images of a pose."""
    held = Counter(folder.subjects[folder.poses == pose].tolist())
    return all(held[person] >= count for person in folder.subjects.tolist())


def compared(
    planned: Sequence[PlannedTemplates], rows: Descriptors, compare: Comparison
) -> Iterator[PoseColumn]:
    """What was planned, of a folder's descriptors (n, d); those of NaN were not acquired."""
    for size, images, pairs in planned:
        templates = np.stack([mean_of_known(rows[own]) for own in images])
        for poses, trials in pairs.items():
            yield PoseColumn(size, poses, trials, distances_of(trials, templates, compare))


def distances_of(trials: Trials, rows: Descriptors, compare: Comparison) -> Descriptors:
    """Distances of trials; NaN where a row is of NaN."""
    lost = np.asarray(np.isnan(rows).any(axis=1))
    distances = compare(np.where(lost[:, None], 1, rows), trials.first, trials.second)
    return np.where(lost[trials.first] | lost[trials.second], np.nan, distances)


def mean_of_known(rows: Descriptors) -> Descriptors:
    """Mean over the first axis of rows without NaN; NaN if there is none."""
    known = rows[~np.isnan(rows).any(axis=-1)]
    return known.mean(axis=0) if len(known) else np.full(rows.shape[-1], np.nan)
