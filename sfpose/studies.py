"""What the paper leaves to later (section 6): how to choose the images of a template.

May import ``_checks``, ``_scoring``, ``evaluation`` and ``protocols``. Every study enrols from
the first half of each person's images in a pose and probes with the second half, all people
against all, so that a study runs on any folder ``subject/pose/image``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, as_labels, check_labels, check_whole
from sfpose._scoring import chi2_pairs_at
from sfpose.evaluation import Comparison, Row, row_from_distances
from sfpose.protocols import Trials, all_pairs
from sfpose.protocols.pose_folder import known_poses

__all__ = ["PoseStudies", "keep_ocular_region"]

Floats = NDArray[np.floating]


def keep_ocular_region(
    crops: NDArray[np.uint8], *, top: float = 0.3, bottom: float = 0.62
) -> NDArray[np.uint8]:
    """Grey out all of aligned crops but a band about the eyes.

    Parameters
    ----------
    crops : uint8 array of shape (n, size, size, 3)
        As ``sfpose.FaceAligner`` gives them.
    top, bottom : float
        The band that stays, as shares of the height; brows to cheekbones.

    Returns
    -------
    uint8 array of the same shape

    Raises
    ------
    ValueError
        If the crops are no uint8 RGB images or the band is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.studies import keep_ocular_region
    >>> kept = keep_ocular_region(np.zeros((1, 100, 100, 3), np.uint8))
    >>> kept[0, [10, 50, 90], 0, 0].tolist()
    [128, 0, 128]
    """
    images = np.asarray(crops)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] != 3:
        raise ValueError(
            f"crops must be uint8 of shape (n, size, size, 3); got {images.dtype} {images.shape}"
        )
    if not 0 <= top < bottom <= 1:
        raise ValueError(f"the band must lie in 0 <= top < bottom <= 1; got {top} and {bottom}")
    height = images.shape[1]
    kept = np.full_like(images, 128)
    band = slice(round(top * height), round(bottom * height))
    kept[:, band] = images[:, band]
    return kept


class PoseStudies:
    """Studies of one embedded data set.

    Parameters
    ----------
    descriptors : array of shape (n, d)
        One an image; none of NaN.
    subjects, poses : arrays of shape (n,)
    compare : callable
        ``compare(rows, first, second)``, distances of rows by index; chi-square if not given.
    draws : int, default=200
        Resamplings of people for the intervals.

    Attributes
    ----------
    people : array
        Those with at least two images in each pose; others take no part.
    left_out : int
        How many do not.
    enrolled : str
        The pose that frames are compared with: frontal, or the first one if none is.

    Raises
    ------
    ValueError
        If lengths differ, a value is masked or fewer than two people have two images in each pose.

    References
    ----------
    Alonso-Fernandez et al., section 6.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.studies import PoseStudies
    >>> rng = np.random.default_rng(0)
    >>> subjects = np.repeat(np.arange(10), 8)
    >>> poses = np.tile(np.repeat(["frontal", "profile"], 4), 10)
    >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (10, 30)), 8, axis=0) * 9)
    >>> studies = PoseStudies(descriptors, subjects, poses, draws=5)
    >>> [row.name for row in studies.number_of_images("frontal", "profile")]
    ['1 frontal - 1 profile', '2 frontal - 1 profile']
    """

    def __init__(
        self,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        poses: ArrayLike,
        *,
        compare: Comparison = chi2_pairs_at,
        draws: int = 200,
    ) -> None:
        self._rows = as_array(descriptors, "descriptors must have shape (n, d)")
        rule = "there must be one descriptor, subject and pose an image"
        self._subjects, self._poses = as_labels(subjects, rule), as_labels(poses, rule)
        if not len(self._rows) == len(self._subjects) == len(self._poses):
            raise ValueError(
                f"{rule}; got {len(self._rows)}, {len(self._subjects)} and {len(self._poses)}"
            )
        for labels in (self._subjects, self._poses):
            check_labels(labels, len(labels), rule)
        self.poses = sorted(set(self._poses.tolist()))
        self.enrolled = "frontal" if "frontal" in self.poses else self.poses[0]
        everyone = np.unique(self._subjects)
        counts = np.array(
            [[self._images(person, pose).size for pose in self.poses] for person in everyone]
        )
        self.people = everyone[(counts >= 2).all(axis=1)]
        self.left_out = len(everyone) - len(self.people)
        if len(self.people) < 2:
            raise ValueError(
                f"two people need two images in each of {known_poses(self._poses)}; "
                f"got {len(self.people)}"
            )
        self._compare, self._draws = compare, draws

    def _images(self, person: object, pose: str) -> NDArray[np.int64]:
        return np.flatnonzero((self._subjects == person) & (self._poses == pose))

    def _half(self, person: object, pose: str, second: bool) -> NDArray[np.int64]:
        images = self._images(person, pose)
        middle = (len(images) + 1) // 2
        return images[middle:] if second else images[:middle]

    def _templates(self, choose: Callable[[object], NDArray[np.int64]]) -> Floats:
        """One mean a person, of the images that are chosen for them."""
        return np.stack([self._rows[choose(person)].mean(axis=0) for person in self.people])

    def _of_pose(self, pose: str, count: int | None = None) -> Floats:
        """Templates of up to ``count`` images of one pose."""
        return self._templates(lambda person: self._half(person, pose, second=False)[:count])

    def _probes(self, pose: str) -> tuple[Floats, NDArray[np.generic]]:
        images = [self._half(person, pose, second=True) for person in self.people]
        return self._rows[np.concatenate(images)], np.repeat(self.people, list(map(len, images)))

    def _against(
        self, templates: Floats, probes: Floats, owners: NDArray[np.generic]
    ) -> tuple[Trials, Floats]:
        rows = np.concatenate([templates, probes]).astype(np.float32)
        owner = np.concatenate([self.people, owners])
        trials = all_pairs(owner, np.arange(len(templates)), np.arange(len(templates), len(rows)))
        return trials, self._compare(rows, trials.first, trials.second)

    def _row(self, name: str, trials: Trials, distances: Floats) -> Row:
        return row_from_distances(name, trials, distances, draws=self._draws)

    def number_of_images(
        self, enrolled: str, probed: str, counts: Sequence[int] = (1, 2, 3, 5)
    ) -> list[Row]:
        """How many images of one pose a template needs, against single probes of another.

        Parameters
        ----------
        enrolled, probed : str
            Poses.
        counts : sequence of int
            Those that somebody's half of the images does not hold are left out.

        Returns
        -------
        list of Row

        Raises
        ------
        ValueError
            If there is no such pose, or a count is no whole number of at least 1.
        """
        for pose in (enrolled, probed):
            if pose not in self.poses:
                raise ValueError(f"pose must be one of {known_poses(self._poses)}; got {pose!r}")
        for count in counts:
            check_whole(count, "counts", 1)
        fewest = min(len(self._half(person, enrolled, second=False)) for person in self.people)
        probes, owners = self._probes(probed)
        rows = []
        for count in (count for count in counts if count <= fewest):
            means = self._of_pose(enrolled, count)
            name = f"{count} {enrolled} - 1 {probed}"
            rows.append(self._row(name, *self._against(means, probes, owners)))
        return rows

    def mixed_poses(self, images: int | None = None) -> list[Row]:
        """Templates of one pose and of all poses, of up to as many images, against each pose.

        Parameters
        ----------
        images : int, optional
            Of a template, as far as half of a person's images go; the number of poses if not given.

        Returns
        -------
        list of Row

        Raises
        ------
        ValueError
            If ``images`` is no whole number of at least 1.
        """
        total = len(self.poses) if images is None else check_whole(images, "images", 1)

        def mixed(person: object) -> NDArray[np.int64]:
            halves = [self._half(person, pose, second=False).tolist() for pose in self.poses]
            turns = max(map(len, halves))
            inturn = [half[turn] for turn in range(turns) for half in halves if turn < len(half)]
            return np.array(inturn[:total])

        kinds = [(f"up to {total} {pose}", self._of_pose(pose, total)) for pose in self.poses]
        most = "" if total <= len(self.poses) else "up to "
        kinds.append((f"{most}{total} mixed", self._templates(mixed)))
        rows = []
        for pose in self.poses:
            probes, owners = self._probes(pose)
            for name, means in kinds:
                rows.append(self._row(f"{name} - 1 {pose}", *self._against(means, probes, owners)))
        return rows

    def several_enrolled(self) -> list[Row]:
        """A probe of any pose against several templates of a person, one a pose.

        The distance to a person is that to their nearest template, the mean of the
        distances, or that to the mean of all templates.

        Returns
        -------
        list of Row
        """
        owned = [self._of_pose(pose) for pose in self.poses]
        parts = [self._probes(pose) for pose in self.poses]
        probes = np.concatenate([rows for rows, _ in parts])
        owners = np.concatenate([names for _, names in parts])
        scored = [self._against(means, probes, owners) for means in owned]
        trials = scored[0][0]
        distances = np.stack([found for _, found in scored])
        _, together = self._against(np.mean(owned, axis=0), probes, owners)
        return [
            self._row("nearest of one template a pose", trials, distances.min(axis=0)),
            self._row("mean distance to them", trials, distances.mean(axis=0)),
            self._row("distance to their mean", trials, together),
        ]

    def best_frame(self, measures: dict[str, ArrayLike]) -> list[Row]:
        """One frame of each person's probes in all poses, against a template of ``enrolled``.

        Parameters
        ----------
        measures : dict of str to array of shape (n,)
            For each image, less is better: such as the absolute yaw, or the negative
            sharpness.

        Returns
        -------
        list of Row
            Each frame for itself, the frame that each measure chooses, and the mean of
            all frames.

        Raises
        ------
        ValueError
            If a measure has another length, or is NaN or masked for an image.
        """
        given: dict[str, NDArray[np.float64]] = {}
        for name, measure in measures.items():
            rule = f"measure {name!r} must be a number for each of {len(self._rows)} images"
            given[name] = values = as_array(measure, rule, np.float64)
            if values.shape != (len(self._rows),) or np.isnan(values).any():
                raise ValueError(
                    f"{rule}; got shape {values.shape} with {int(np.isnan(values).sum())} NaN"
                )
        means = self._of_pose(self.enrolled)
        frames = [
            np.concatenate([self._half(person, pose, second=True) for pose in self.poses])
            for person in self.people
        ]
        every = np.concatenate(frames)
        owners = np.repeat(self.people, list(map(len, frames)))
        rows = [self._row("every frame", *self._against(means, self._rows[every], owners))]
        for name, values in given.items():
            chosen = np.array([own[np.argmin(values[own])] for own in frames])
            found = self._against(means, self._rows[chosen], self.people)
            rows.append(self._row(f"best frame by {name}", *found))
        averaged = np.stack([self._rows[own].mean(axis=0) for own in frames])
        rows.append(self._row("mean of all frames", *self._against(means, averaged, self.people)))
        return rows

    def same_pose(self) -> list[Row]:
        """Single images of a pose against those of the same pose, such as ocular crops.

        Returns
        -------
        list of Row
        """
        rows = []
        for pose in self.poses:
            probes, owners = self._probes(pose)
            first = self._of_pose(pose, 1)
            rows.append(self._row(f"1 {pose} - 1 {pose}", *self._against(first, probes, owners)))
        return rows
