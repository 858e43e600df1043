"""The images of a data set, in a folder or in a zip file, decoded when asked for."""

from __future__ import annotations

import io
import os
import re
import zipfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from sfpose.preprocessing import MAX_PIXELS, decode_image
from sfpose.runtime.files import ZIP_ERRORS

__all__ = ["ImageFiles", "LazyImages", "whole_number"]

_LARGEST = 4 * MAX_PIXELS
"""Bytes of a file at most: no image that is decoded needs more."""

# Of JPEG, PNG and WebP, as decode_image reads them. An .apng is an animation, which it refuses.
_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp")


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return name.lower().endswith(_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether it is a program's own, as of a bin or of thumbnails, or of a Mac's archives."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts)


def whole_number(text: str) -> int | None:
    """A number of up to nine decimal digits, or None.

    Examples
    --------
    >>> from sfpose.protocols.files import whole_number
    >>> whole_number("007"), whole_number("-7"), whole_number("7" * 10)
    (7, None, None)
    """
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


class ImageFiles:
    """Files below a folder or in a zip file, by name with forward slashes.

    A link to a file is read as the file that it leads to, wherever that lies. A link to a folder
    counts as a folder without files.

    Parameters
    ----------
    root : path
        Folder or zip file.

    Attributes
    ----------
    names : list of str
        All files, sorted, but for hidden ones, which begin with a dot or lie in a folder that
        does, and what a Mac's archives add: ``__MACOSX/``.
    folders : list of str
        All folders but those, sorted; of a zip file those that have an entry of their own.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    OSError
        If a folder cannot be read.
    ValueError
        If the file is no zip file or a damaged one, or two files in it have one name, or none.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.protocols import ImageFiles
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = (Path(root) / "notes.txt").write_text("no image")
    ...     files = ImageFiles(root)
    >>> files.names, files.images()
    (['notes.txt'], [])
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not os.fspath(root):  # An unset variable, which would be the working folder.
            raise ValueError("the path of a data set must not be empty; got ''")
        self.root = Path(root)
        if self.root.is_dir():
            names, folders = _walk(self.root)
        elif not self.root.exists():
            raise FileNotFoundError(
                f"a data set must be a folder or a zip file; there is none at {str(root)!r}"
            )
        elif not self.root.is_file() or not zipfile.is_zipfile(self.root):
            raise ValueError(f"a data set must be a folder or a zip file; got {str(root)!r}")
        else:
            try:
                entries = self._archive().infolist()
            except ZIP_ERRORS as error:
                raise ValueError(
                    f"a data set must be a folder or a whole zip file; {str(root)!r}: {error}"
                ) from error
            every = [entry.filename for entry in entries]
            names = [name for name in every if not name.endswith("/")]
            folders = [name.rstrip("/") for name in every if name.endswith("/")]
            [(name, times)] = Counter(names).most_common(1) or [("", 0)]
            if times > 1 or "" in names:
                raise ValueError(
                    f"files in a zip must have names, which differ; {str(root)!r} has "
                    + (f"{name!r} {times} times" if times > 1 else "one without a name")
                )
        self.names = sorted(name for name in names if not is_hidden(name))
        self.folders = sorted(name for name in folders if not is_hidden(name))

    def _archive(self) -> zipfile.ZipFile:
        # Kept open: its index is read once, not once an image. By process, since one that was
        # forked shares its parent's place in the file, and perhaps a lock that nobody frees.
        opened: dict[int, zipfile.ZipFile] = self.__dict__.setdefault("_opened", {})
        process = os.getpid()
        if process not in opened:
            opened[process] = zipfile.ZipFile(self.root)
        return opened[process]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def images(self) -> list[str]:
        """Names that end like an image's."""
        return [name for name in self.names if is_image(name)]

    def read(self, name: str) -> bytes:
        """Contents of one of ``names``.

        Raises
        ------
        FileNotFoundError
            If it is none of them, or has gone since.
        ValueError
            If it is no ordinary file, has more than 256 MB, or cannot be read from the zip file:
            damaged, encrypted, or neither stored nor deflated.
        """
        place = bisect_left(self.names, name)
        listed = place < len(self.names) and self.names[place] == name
        if listed and self.root.is_file():
            return self._unpacked(name)
        path = self.root / name
        if not listed or not path.exists():
            raise FileNotFoundError(f"{str(self.root)!r} must hold {name!r}; it does not")
        if not path.is_file():
            raise ValueError(f"files of a data set must be ordinary ones; {str(path)!r} is not")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._check_size(name, size)
            return file.read(size)

    def _check_size(self, name: str, size: int) -> None:
        if size > _LARGEST:
            raise ValueError(
                f"every file of {str(self.root)!r} must have at most {_LARGEST} bytes; "
                f"{name!r} has {size}"
            )

    def _unpacked(self, name: str) -> bytes:
        archive = self._archive()
        entry = archive.getinfo(name)
        self._check_size(name, entry.file_size)
        try:
            # Of other kinds Python unpacks all at once, however little is asked for.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("it is neither stored nor deflated")
            with archive.open(entry) as file:
                data = file.read(entry.file_size)
            if len(data) < entry.file_size:
                raise EOFError("it is cut off")
        except ZIP_ERRORS as error:
            raise ValueError(
                f"every file of {str(self.root)!r} must be readable; {name!r} is not: {error}"
            ) from error
        return data


def _refuse(error: OSError) -> NoReturn:
    raise error


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Files and folders below a folder."""
    names: list[str] = []
    folders: list[str] = []
    for home, inside, files in os.walk(root, onerror=_refuse):
        here = Path(home).relative_to(root)
        names += [(here / name).as_posix() for name in files]
        folders += [(here / name).as_posix() for name in inside]
    return names, folders


class LazyImages(Sequence[NDArray[np.uint8]]):
    """Images of a data set as a sequence that decodes each one when it is asked for.

    Parameters
    ----------
    files : ImageFiles
    names : sequence of str

    Raises
    ------
    FileNotFoundError
        When an image is asked for that is missing.
    ValueError
        When an image is asked for that cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from sfpose.protocols import ImageFiles, LazyImages
    >>> with tempfile.TemporaryDirectory() as root:
    ...     Image.new("RGB", (30, 40)).save(f"{root}/a.png")
    ...     files = ImageFiles(root)
    ...     images = LazyImages(files, files.images())
    ...     print(len(images), images[0].shape)
    1 (40, 30, 3)
    """

    def __init__(self, files: ImageFiles, names: Sequence[str]) -> None:
        self.files = files
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> LazyImages: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | LazyImages:
        if isinstance(index, slice):
            return LazyImages(self.files, self.names[index])
        name = self.names[index]
        return decode_image(io.BytesIO(self.files.read(name)), name)
