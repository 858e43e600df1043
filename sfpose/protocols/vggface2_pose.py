"""The paper's test protocol: same pose and across poses, templates of one and of five."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_labels, check_labels, check_whole
from sfpose.protocols.pose_folder import known_poses
from sfpose.protocols.trials import Trials

__all__ = ["PoseTemplates", "VGGFace2Pose"]


class PoseTemplates(NamedTuple):
    """Which images make each template, and whose and in which pose it is.

    Attributes
    ----------
    rows : int64 array of shape (n_templates, size)
        Rows of the table that each template is the mean of.
    subjects, poses : arrays of shape (n_templates,)

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.protocols import VGGFace2Pose
    >>> protocol = VGGFace2Pose(np.repeat(["ann", "bo"], 4), ["F"] * 8)
    >>> made = protocol.templates(2)
    >>> made.rows.tolist(), made.subjects.tolist()
    ([[0, 1], [2, 3], [4, 5], [6, 7]], ['ann', 'ann', 'bo', 'bo'])
    """

    rows: NDArray[np.int64]
    subjects: NDArray[np.generic]
    poses: NDArray[np.generic]


class VGGFace2Pose:
    """The trials of VGGFace2-Pose, for any table of (subject, pose, image).

    Templates of five are the means of images 1 to 5 and 6 to 10 of a person in a pose,
    templates of one are the images. In one pose, each template of a person is compared
    with the remaining ones, each pair once; across poses, every template of the one
    with every template of the other. Impostors: the first template of a person against
    the second template of the next ``impostors`` people, cyclically.

    Parameters
    ----------
    subjects, poses : arrays of shape (n,)
        A row an image. Images of a person in a pose count in the order of the rows.
    images : array of shape (n,), optional
        Name or number of each image, if it is to be checked that a table lists none of
        them twice: nobody's image may be compared with itself.
    impostors : int, default=100
        People that each one is compared with; all others if there are fewer.

    Attributes
    ----------
    people : array
        Everyone, in the order in which impostors are taken.
    impostors : int
        People that each one is really compared with.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two people, ``impostors`` is no whole number
        above 0, or the table lists a subject, pose and image twice.

    References
    ----------
    Alonso-Fernandez et al., section 4, Table 3 and Figure 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.protocols import VGGFace2Pose
    >>> subjects = np.repeat(np.arange(368), 30)
    >>> poses = np.tile(np.repeat(["frontal", "three-quarter", "profile"], 10), 368)
    >>> protocol = VGGFace2Pose(subjects, poses)
    >>> trials = protocol.trials("frontal", "profile", template_size=5)
    >>> int(trials.is_genuine.sum()), int((~trials.is_genuine).sum())
    (1472, 36800)
    """

    def __init__(
        self,
        subjects: ArrayLike,
        poses: ArrayLike,
        images: ArrayLike | None = None,
        *,
        impostors: int = 100,
    ) -> None:
        rule = "subjects and poses must both have shape (n,)"
        self._subjects, self._poses = as_labels(subjects, rule), as_labels(poses, rule)
        if self._subjects.ndim != 1 or self._subjects.shape != self._poses.shape:
            raise ValueError(f"{rule}; got {self._subjects.shape} and {self._poses.shape}")
        for labels in (self._subjects, self._poses):
            check_labels(labels, len(labels), rule)
        if images is not None:
            _check_distinct(self._subjects, self._poses, np.asarray(images))
        self.people = np.unique(self._subjects)
        if len(self.people) < 2:
            raise ValueError(f"the protocol needs at least two people; got {len(self.people)}")
        self.impostors = min(check_whole(impostors, "impostors", 1), len(self.people) - 1)

    def templates(self, template_size: int = 1) -> PoseTemplates:
        """All templates of a size, by person and pose, in the order of the images.

        Parameters
        ----------
        template_size : int
            Images a template; images left over after the last whole one are not used.

        Raises
        ------
        ValueError
            If ``template_size`` is no whole number above 0, or a person has fewer than two
            templates in a pose.
        """
        check_whole(template_size, "template_size", 1)
        rows, subjects, poses = [], [], []
        for person in self.people:
            own = self._subjects == person
            for pose in np.unique(self._poses):
                images = np.flatnonzero(own & (self._poses == pose))
                count = len(images) // template_size
                if count < 2:
                    raise ValueError(
                        f"two templates of {template_size} need {2 * template_size} images of "
                        f"each person and pose; {person} has {len(images)} of {pose}"
                    )
                rows.append(images[: count * template_size].reshape(count, template_size))
                subjects += [person] * count
                poses += [pose] * count
        return PoseTemplates(np.concatenate(rows), np.array(subjects), np.array(poses))

    def trials(self, first: str, second: str, template_size: int = 1) -> Trials:
        """Comparisons of two poses, as indices into ``templates``.

        Parameters
        ----------
        first, second : str
            Poses; the same for comparisons within one.
        template_size : int

        Returns
        -------
        Trials

        Raises
        ------
        ValueError
            If there is no such pose, or a person has too few images.
        """
        for pose in (first, second):
            if pose not in self._poses.tolist():
                raise ValueError(f"pose must be one of {known_poses(self._poses)}; got {pose!r}")
        _, subjects, poses = self.templates(template_size)

        def of(person: object, pose: str) -> list[int]:
            return np.flatnonzero((subjects == person) & (poses == pose)).tolist()

        one = [of(person, first) for person in self.people]
        other = one if first == second else [of(person, second) for person in self.people]
        genuine: list[tuple[int, int]] = []
        impostor: list[tuple[int, int]] = []
        for place, own in enumerate(one):
            if first == second:
                genuine += combinations(own, 2)
            else:
                genuine += [(a, b) for a in own for b in other[place]]
            following = ((place + step) % len(one) for step in range(1, self.impostors + 1))
            impostor += [(own[0], other[stranger][1]) for stranger in following]
        left, right = np.array(genuine + impostor, dtype=np.int64).T
        labels = np.arange(len(left)) < len(genuine)
        return Trials(left, right, labels, subjects[left], subjects[right])

    def columns(self, poses: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of poses in the order of Table 4: each with itself, then neighbours.

        Parameters
        ----------
        poses : sequence of str
            From frontal to profile.

        Examples
        --------
        >>> from sfpose.protocols import VGGFace2Pose
        >>> VGGFace2Pose([0, 1], ["F", "F"]).columns(["F", "3/4", "P"])
        [('F', 'F'), ('3/4', '3/4'), ('P', 'P'), ('F', '3/4'), ('3/4', 'P'), ('F', 'P')]
        """
        same = [(pose, pose) for pose in poses]
        apart = sorted(combinations(range(len(poses)), 2), key=lambda pair: pair[1] - pair[0])
        return same + [(poses[a], poses[b]) for a, b in apart]


def _check_distinct(
    subjects: NDArray[np.generic], poses: NDArray[np.generic], images: NDArray[np.generic]
) -> None:
    if images.shape != subjects.shape:
        raise ValueError(f"images must have shape {subjects.shape}; got {images.shape}")
    rows = list(zip(subjects.tolist(), poses.tolist(), images.tolist(), strict=True))
    if rows and (most := Counter(rows).most_common(1)[0])[1] > 1:
        row, times = most
        raise ValueError(
            f"a table must list each subject, pose and image once; got {row} {times} times"
        )
