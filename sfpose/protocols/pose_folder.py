"""Any folder or zip of images ``subject/pose/image``."""

from __future__ import annotations

import os
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from sfpose.protocols.files import ImageFiles, LazyImages

__all__ = ["PoseFolder"]


class PoseFolder:
    """A table of (subject, pose, image), read from the names of files.

    Parameters
    ----------
    root : path
        Folder or zip file with images ``subject/pose/image`` at any depth.
    people : container of int, optional
        Numbers of the people to take, such as ``range(101, 251)``; all if not given.

    Attributes
    ----------
    images : LazyImages
        In the order of their names.
    subjects : array of shape (n,)
        Whose image each one is, as the folder is called.
    poses : array of shape (n,)
        As the folder is called.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If no image is left, a name has no subject and pose, or ``people`` is given
        and a subject's name is not a number.
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

    def rows(self, pose: str) -> NDArray[np.int64]:
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
