"""Celebrities in Frontal-Profile, or any folder subject/pose/image."""

from __future__ import annotations

import os
from collections.abc import Container

import numpy as np

from sfpose.protocols.files import ImageFiles, LazyImages
from sfpose.protocols.trials import Trials, all_pairs, first_of_each

__all__ = ["CFP"]


class CFP:
    """Images of people in several poses, and all comparisons between them.

    The comparisons are all pairs of the selected people, not the ten folds of the
    original protocol: more of them, from the same images.

    Parameters
    ----------
    root : path
        Folder or zip file with images ``subject/pose/image`` at any depth: CFP's own
        layout (``001/frontal/01.jpg``, ``001/profile/01.jpg``), or another set in it.
    people : container of int, optional
        Numbers of the people to take, such as ``range(101, 251)``; all if not given.

    Attributes
    ----------
    images : LazyImages
    subjects : array of shape (n,)
        Whose image each one is, as the folder is called.
    poses : array of shape (n,)

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If no image is left, a name has no subject and pose, or ``people`` is given
        and a subject's name is not a number.

    References
    ----------
    Sengupta et al., "Frontal to profile face verification in the wild", WACV 2016.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, people: Container[int] | None = None
    ) -> None:
        files = ImageFiles(root)
        names, subjects, poses = [], [], []
        for name in files.images():
            parts = name.split("/")
            if len(parts) < 3:
                raise ValueError(f"images must lie in subject/pose folders; got {name!r}")
            subject, pose = parts[-3], parts[-2]
            if people is not None:
                if not subject.isdigit():
                    raise ValueError(
                        "people can be chosen by number only where folders are numbers; "
                        f"got {subject!r}"
                    )
                if int(subject) not in people:
                    continue
            names.append(name)
            subjects.append(subject)
            poses.append(pose)
        if not names:
            raise ValueError(f"{str(root)!r} holds no image of the people that were asked for")
        self.images = LazyImages(files, names)
        self.subjects = np.array(subjects)
        self.poses = np.array(poses)

    def rows(self, pose: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows of the images of one pose.

        Raises
        ------
        ValueError
            If no image shows it.
        """
        rows = np.flatnonzero(self.poses == pose)
        if not len(rows):
            raise ValueError(
                f"pose must be one of {sorted(set(self.poses.tolist()))}; got {pose!r}"
            )
        return rows

    def trials(self, first: str = "frontal", second: str = "profile") -> Trials:
        """All pairs of images of two poses; of one pose, each pair once.

        Parameters
        ----------
        first, second : str
            Poses.
        """
        if first == second:
            return all_pairs(self.subjects, self.rows(first))
        return all_pairs(self.subjects, self.rows(first), self.rows(second))

    def template_rows(self, pose: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows of the first ``count`` images of each person in one pose."""
        return first_of_each(self.subjects, self.rows(pose), count)
