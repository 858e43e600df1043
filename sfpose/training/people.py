"""Images of people on disk as one table, whatever the files look like.

A table knows whose each image is and decodes an image when asked for it, from any
thread; nothing is kept in memory but names.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_number
from sfpose.preprocessing import decode_image
from sfpose.protocols.files import ImageFiles
from sfpose.training.recordio import RecordImages

__all__ = ["ImageTable", "ListedImages", "PeopleFolder", "open_people"]


class ImageTable(Protocol):
    """Images and the people that they show.

    Attributes
    ----------
    people : list of str
        Names; also of people without any image.
    labels : int64 array of shape (n,)
        Whose each image is, as a row of ``people``.
    aligned : bool
        Whether the images were aligned by five landmarks, to be taken whole.
    """

    people: list[str]
    labels: NDArray[np.int64]
    aligned: bool

    def __len__(self) -> int:
        """Number of images."""

    def name(self, row: int) -> str:
        """What an image is called in messages."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image (H, W, 3)."""


_SPLITS = frozenset(["train", "training", "val", "valid", "validation", "test"])


class PeopleFolder:
    """A folder or zip file with one folder a person, images at any depth in it.

    Parameters
    ----------
    root : path

    Attributes
    ----------
    people, labels, aligned
        See ``ImageTable``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If an image lies in no person's folder, or the folders are called train, val or test.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.training.people import PeopleFolder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for person in ("ann", "bo"):
    ...         (pathlib.Path(folder) / person).mkdir()
    ...     Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder + "/ann/1.png")
    ...     table = PeopleFolder(folder)
    >>> table.people, table.labels.tolist()
    (['ann', 'bo'], [0])
    """

    aligned = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._files = ImageFiles(root)
        self._names = self._files.images()
        loose = next((name for name in self._names if "/" not in name), None)
        if loose is not None:
            raise ValueError(
                f"images must lie in a folder a person; got {loose!r} in {str(root)!r}"
            )
        owners = [name.split("/", 1)[0] for name in self._names]
        below = [name for name in self._files.names if "/" in name]
        folders = [name.split("/", 1)[0] for name in (*below, *self._files.folders)]
        self.people = sorted({*owners, *folders})
        if {person.lower() for person in self.people} <= _SPLITS:
            raise ValueError(
                f"each folder must be a person; {', '.join(self.people)} in {str(root)!r} are "
                "parts of a data set: give one of them"
            )
        self.labels = _rows_of(self.people, owners)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """Path of an image below the root."""
        return self._names[row]

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image (H, W, 3)."""
        name = self._names[row]
        return decode_image(io.BytesIO(self._files.read(name)), name)


def _rows_of(people: list[str], owners: list[str]) -> NDArray[np.int64]:
    rows = {person: row for row, person in enumerate(people)}
    return np.fromiter((rows[owner] for owner in owners), dtype=np.int64, count=len(owners))


class ListedImages:
    """The images that a list names, cut out by a table of boxes: VGGFace2.

    Parameters
    ----------
    root : path
        Folder or zip file with the images.
    image_list : path
        Text file, one ``person/image.jpg`` a line.
    boxes : path, optional
        CSV file with the columns NAME_ID, X, Y, W, H (``loose_bb_train.csv``): name of
        the image without its suffix, corner and size of the box in pixels. Images are
        taken whole if not given.
    margin : float, default=0.0
        Enlarge each box about its centre by this share, inside of the image; the
        networks that came with VGGFace2 had 0.3.

    Attributes
    ----------
    people, labels, aligned
        See ``ImageTable``.

    Raises
    ------
    FileNotFoundError
        If a file is missing, one that the list names among them.
    ValueError
        If a line cannot be read, an image is listed twice or has no box, or ``margin`` is no
        finite number above -1.
    """

    aligned = False

    def __init__(
        self,
        root: str | os.PathLike[str],
        image_list: str | os.PathLike[str],
        boxes: str | os.PathLike[str] | None = None,
        *,
        margin: float = 0.0,
    ) -> None:
        self._files = ImageFiles(root)
        with _text(Path(image_list)) as lines:
            self._names = [line.strip() for line in lines if line.strip()]
        if len(set(self._names)) < len(self._names):
            raise ValueError(f"{str(image_list)!r} must name each image once; it names one twice")
        wrong = next((name for name in self._names if "/" not in name), None)
        if wrong is not None:
            raise ValueError(f"{str(image_list)!r} must hold lines 'person/image'; got {wrong!r}")
        present = set(self._files.names)
        missing = [name for name in self._names if name not in present]
        if missing:
            raise FileNotFoundError(
                f"every image that {str(image_list)!r} names must be in {str(root)!r}; "
                f"{len(missing)} of {len(self._names)} are not, the first is {missing[0]!r}"
            )
        owners = [name.split("/", 1)[0] for name in self._names]
        self.people = sorted(set(owners))
        self.labels = _rows_of(self.people, owners)
        self._margin = check_number(margin, "margin", above=-1.0)
        self._boxes = None if boxes is None else _read_boxes(Path(boxes), self._names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """The line of the list."""
        return self._names[row]

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image (H, W, 3) and cut out its box."""
        name = self._names[row]
        image = decode_image(io.BytesIO(self._files.read(name)), name)
        if self._boxes is None:
            return image
        x, y, width, height = self._boxes[row].tolist()
        more_x, more_y = width * self._margin / 2, height * self._margin / 2
        left, right = max(0, round(x - more_x)), round(x + width + more_x)
        top, bottom = max(0, round(y - more_y)), round(y + height + more_y)
        inside = image[top : max(0, bottom), left : max(0, right)]
        if 0 in inside.shape:
            raise ValueError(
                f"the box of {name!r} must lie on the image of {image.shape[1]} x "
                f"{image.shape[0]} pixels; got x {x}, y {y}, width {width}, height {height}"
            )
        return inside


@contextmanager
def _text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file to read; what is none, or no list, is refused by name."""
    if path.exists() and not path.is_file():
        raise ValueError(f"a list must be an ordinary file; {str(path)!r} is not")
    try:
        with open(path, newline=newline, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} must be text in UTF-8; {error}") from error
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} must be a table of commas; {error}") from error


def _read_boxes(path: Path, names: list[str]) -> NDArray[np.int32]:
    rows = {name.rsplit(".", 1)[0]: row for row, name in enumerate(names)}
    boxes = np.zeros((len(names), 4), dtype=np.int32)
    found = np.zeros(len(names), dtype=np.bool_)
    with _text(path, newline="") as file:
        lines = csv.reader(file)
        header = [title.strip().upper() for title in next(lines, [])]
        if header != ["NAME_ID", "X", "Y", "W", "H"]:
            raise ValueError(f"{str(path)!r} must have the columns NAME_ID,X,Y,W,H; got {header}")
        for number, line in enumerate(lines, start=2):
            row = rows.get(line[0]) if line else None
            if row is None:
                continue
            sides = [side.strip() for side in line[1:]]
            if len(sides) != 4 or not all(re.fullmatch(r"[+-]?\d{1,9}", side) for side in sides):
                raise ValueError(
                    f"{str(path)!r} must hold a name and, of up to nine digits, four whole numbers "
                    f"a line; line {number} is {','.join(line)[:200]!r}"
                )
            boxes[row], found[row] = [int(side) for side in sides], True
    if not found.all():
        first = names[int(np.argmin(found))]
        raise ValueError(
            f"{str(path)!r} must have a box for every listed image; {int((~found).sum())} of "
            f"{len(names)} have none, the first is {first!r}"
        )
    return boxes


def open_people(path: str | os.PathLike[str], *, box_margin: float = 0.0) -> ImageTable:
    """The table of a data set, told by the files that are there.

    Parameters
    ----------
    path : path
        A ``.rec`` file, or a folder with ``train.rec``: RecordIO. A folder with
        ``train_list.txt`` (or in ``meta/``): listed images in ``train/``, or in the
        folder itself without that, with ``loose_bb_train.csv`` (or in ``bb_landmark/``)
        if there: VGGFace2. Any other folder or zip file: a folder a person.
    box_margin : float, default=0.0
        See ``ListedImages``.

    Returns
    -------
    ImageTable
    """
    root = Path(path)
    if root.suffix == ".rec":
        return RecordImages(root)
    if (root / "train.rec").exists():
        return RecordImages(root / "train.rec")
    listed = _first_of(root / "train_list.txt", root / "meta" / "train_list.txt")
    if listed is None:
        return PeopleFolder(root)
    boxes = _first_of(root / "loose_bb_train.csv", root / "bb_landmark" / "loose_bb_train.csv")
    images = root / "train" if (root / "train").is_dir() else root
    return ListedImages(images, listed, boxes, margin=box_margin)


def _first_of(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
