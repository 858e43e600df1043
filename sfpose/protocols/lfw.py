"""Labeled Faces in the Wild, View 2: ten folds of given pairs."""

from __future__ import annotations

import os
import re

import numpy as np

from sfpose.protocols.files import ImageFiles, LazyImages
from sfpose.protocols.trials import Trials

__all__ = ["LFW"]

_PAIR = re.compile(r"(\S+)\s+(\d{1,9})\s+(?:(\S+)\s+)?(\d{1,9})")
"""A person and two numbers of images, or two people and the number of an image of each."""


class LFW:
    """The images and the 6,000 pairs of LFW's View 2.

    Parameters
    ----------
    root : path
        Folder or zip file with ``pairs.txt`` and images named
        ``Person_Name_0001.jpg`` at any depth.

    Attributes
    ----------
    images : LazyImages
        The images that pairs name, each once.

    Raises
    ------
    FileNotFoundError
        If there is no ``pairs.txt`` or it names an image that is missing.
    ValueError
        If a line of it cannot be read or pairs an image with itself, or there are several of it or
        of an image that it names, as where the aligned and the original images lie side by side.

    References
    ----------
    Huang et al., "Labeled Faces in the Wild", 2007.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from sfpose.protocols import LFW
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("Ann_0001", "Ann_0002", "Bo_0001"):
    ...         Image.new("RGB", (30, 40)).save(f"{root}/{name}.jpg")
    ...     with open(f"{root}/pairs.txt", "w") as file:
    ...         print("1 1", "Ann 1 2", "Ann 1 Bo 1", sep=chr(10), file=file)
    ...     trials = LFW(root).trials()
    >>> trials.is_genuine.tolist(), trials.folds.tolist()
    ([True, False], [0, 0])
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        files = ImageFiles(root)
        listed = [name for name in files.names if name.rsplit("/", 1)[-1] == "pairs.txt"]
        if not listed:
            raise FileNotFoundError(f"LFW needs a pairs.txt; there is none in {str(root)!r}")
        if len(listed) > 1:
            raise ValueError(f"LFW must have one pairs.txt; {str(root)!r} has {', '.join(listed)}")
        by_file: dict[str, list[str]] = {}
        for path in files.images():
            by_file.setdefault(path.rsplit("/", 1)[-1], []).append(path)
        rows: dict[str, int] = {}
        pairs = []
        for fold, line, people, numbers in _read_pairs(files.read(listed[0])):
            both = []
            for person, number in zip(people, numbers, strict=True):
                name = f"{person}_{number:04d}.jpg"
                found = by_file.get(name, [])
                if not found:
                    raise FileNotFoundError(
                        f"line {line} of pairs.txt names {name}, which is missing"
                    )
                if len(found) > 1:
                    raise ValueError(
                        f"images that pairs.txt names must be there once; there are "
                        f"{' and '.join(found[:2])}"
                    )
                both.append(rows.setdefault(found[0], len(rows)))
            pairs.append((*both, fold, *people))
        self.images = LazyImages(files, list(rows))
        self._pairs = pairs

    def trials(self) -> Trials:
        """The pairs of View 2 with their folds."""
        first, second, folds, one, other = zip(*self._pairs, strict=True)
        people = np.array(one), np.array(other)
        return Trials(
            np.array(first), np.array(second), people[0] == people[1], *people, np.array(folds)
        )


def _read_pairs(data: bytes) -> list[tuple[int, int, tuple[str, str], tuple[int, int]]]:
    """Fold, line number, both people and both image numbers of each pair."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"pairs.txt must be text in UTF-8; {error}") from error
    head = re.fullmatch(r"\s*(\d{1,9})\s+(\d{1,9})\s*", lines[0]) if lines else None
    if head is None:
        raise ValueError("line 1 of pairs.txt must be the number of folds and of pairs")
    folds, size = int(head[1]), int(head[2])
    body = [(n, line.strip()) for n, line in enumerate(lines[1:], 2) if line.strip()]
    if not body or len(body) != folds * size * 2:
        raise ValueError(
            f"pairs.txt must list {folds} folds of {size} genuine and {size} impostor pairs; "
            f"got {len(body)} lines"
        )
    pairs = []
    for place, (number, line) in enumerate(body):
        found = _PAIR.fullmatch(line)
        people = (found[1], found[3] or found[1]) if found else ("", "")
        numbers = (int(found[2]), int(found[4])) if found else (0, 0)
        if (people[0], numbers[0]) == (people[1], numbers[1]):
            raise ValueError(f"line {number} of pairs.txt must name two images; got {line!r}")
        pairs.append((place // (2 * size), number, people, numbers))
    return pairs
