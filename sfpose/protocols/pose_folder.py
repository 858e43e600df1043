"""Any folder or zip of images ``subject/pose/image``."""

from __future__ import annotations

import os
import re
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from sfpose.protocols.files import ImageFiles, LazyImages, whole_number

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
        By folder, then by name with numbers by size: 2 before 10.
    subjects : array of shape (n,)
        Whose image each one is, as the folder is called.
    poses : array of shape (n,)
        As the folder is called.
    without_image : list of str
        People whose folder holds no image; they take no part.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If no image is left, a name has no subject and pose, two images have the same
        subject, pose and name, or ``people`` is given and a subject's name is not a
        number.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sfpose.protocols import PoseFolder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for pose in ("frontal", "profile"):
    ...         (Path(root) / "ann" / pose).mkdir(parents=True)
    ...         Image.new("RGB", (30, 40)).save(f"{root}/ann/{pose}/1.png")
    ...     folder = PoseFolder(root)
    >>> folder.subjects.tolist(), folder.poses.tolist(), folder.rows("profile").tolist()
    (['ann', 'ann'], ['frontal', 'profile'], [1])
    """

    def __init__(
        self, root: str | os.PathLike[str], *, people: Container[int] | None = None
    ) -> None:
        files = ImageFiles(root)
        names, subjects, poses = [], [], []
        homes: set[str] = set()
        known: dict[tuple[str, str, str], str] = {}
        for name in sorted(files.images(), key=_in_order):
            parts = name.split("/")
            if len(parts) < 3:
                raise ValueError(f"images must lie in subject/pose folders; got {name!r}")
            subject, pose = parts[-3], parts[-2]
            homes.add("/".join(parts[:-3]))
            if people is not None:
                number = whole_number(subject)
                if number is None:
                    raise ValueError(
                        "people can be chosen by number only where folders are numbers; "
                        f"got {subject!r}"
                    )
                if number not in people:
                    continue
            if (other := known.setdefault((subject, pose, parts[-1]), name)) != name:
                raise ValueError(
                    "no two images may have the same subject, pose and name; "
                    f"got {other!r} and {name!r}"
                )
            names.append(name)
            subjects.append(subject)
            poses.append(pose)
        if not names:
            raise ValueError(f"{str(root)!r} holds no image of the people that were asked for")
        self.images = LazyImages(files, names)
        self.subjects = np.array(subjects)
        self.poses = np.array(poses)
        beside = (folder.rpartition("/") for folder in files.folders)
        empty = {person for home, _, person in beside if home in homes} - {
            name.split("/")[-3] for name in files.images()
        }
        self.without_image = sorted(
            person for person in empty if people is None or whole_number(person) in people
        )

    def rows(self, pose: str) -> NDArray[np.int64]:
        """Rows of the images of one pose.

        Raises
        ------
        ValueError
            If no image shows it.
        """
        rows = np.flatnonzero(self.poses == pose)
        if not len(rows):
            raise ValueError(f"pose must be one of {known_poses(self.poses)}; got {pose!r}")
        return rows


def known_poses(poses: NDArray[np.generic]) -> str:
    """The poses that images show, a few of them where there are many, for a message."""
    known = sorted(set(poses.tolist()))
    return f"{known[:6]}" + (f" and {len(known) - 6} more" if len(known) > 6 else "")


def _in_order(name: str) -> tuple[str, list[tuple[int, str]]]:
    """A key by which images of a folder lie in the order of their numbers."""
    folder, _, file = name.rpartition("/")
    parts = re.split("([0-9]+)", file)
    # Texts and numbers by turns: of two numbers the one with more digits is larger.
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return folder, [(len(part) if place % 2 else 0, part) for place, part in enumerate(parts)]
