"""The images of a data set, in a folder or in a zip file, decoded when asked for."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from sfpose.preprocessing import decode_image
from sfpose.runtime.files import ZIP_ERRORS

__all__ = ["ImageFiles", "LazyImages"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def is_image(name: str) -> bool:
    """Whether a name with forward slashes ends like an image's and is none of a Mac's own."""
    return name.lower().endswith(_SUFFIXES) and not _is_of_a_mac(name)


def _is_of_a_mac(name: str) -> bool:
    """Whether it is one of those that a Mac's archives hold beside the files themselves."""
    parts = name.split("/")
    return parts[-1].startswith("._") or "__MACOSX" in parts


class ImageFiles:
    """Files below a folder or in a zip file, by name with forward slashes.

    Parameters
    ----------
    root : path
        Folder or zip file.

    Attributes
    ----------
    names : list of str
        All files, sorted, but for what a Mac's archives add: ``__MACOSX/`` and ``._01.jpg``.
    folders : list of str
        All folders but those, sorted; of a zip file those that have an entry of their own.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    OSError
        If a folder cannot be read.
    ValueError
        If the file is no zip file, or a damaged one.

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
        self.root = Path(root)
        if self.root.is_dir():
            names, folders = _walk(self.root)
        elif not self.root.exists():
            raise FileNotFoundError(
                f"a data set must be a folder or a zip file; there is none at {str(root)!r}"
            )
        elif not zipfile.is_zipfile(self.root):
            raise ValueError(f"a data set must be a folder or a zip file; got {str(root)!r}")
        else:
            try:
                entries = self._archive().infolist()
            except ZIP_ERRORS as error:
                raise ValueError(
                    f"a data set must be a folder or a whole zip file; {str(root)!r}: {error}"
                ) from error
            names = [entry.filename for entry in entries if not entry.is_dir()]
            folders = [entry.filename.rstrip("/") for entry in entries if entry.is_dir()]
        self.names = sorted(name for name in names if not _is_of_a_mac(name))
        self.folders = sorted(name for name in folders if not _is_of_a_mac(name))

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
        """Contents of one file.

        Raises
        ------
        FileNotFoundError
            If there is no file of that name.
        ValueError
            If it cannot be read from the zip file: damaged, encrypted, or compressed otherwise
            than Python can undo.
        """
        try:
            if self.root.is_dir():
                return (self.root / name).read_bytes()
            return self._unpacked(name)
        except (KeyError, FileNotFoundError):
            raise FileNotFoundError(f"{str(self.root)!r} must hold {name!r}; it does not") from None

    def _unpacked(self, name: str) -> bytes:
        try:
            return self._archive().read(name)
        except ZIP_ERRORS as error:
            raise ValueError(
                f"every file of {str(self.root)!r} must be readable; {name!r} is not: {error}"
            ) from error


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
