"""The images of a data set, in a folder or in a zip file, decoded when asked for."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sfpose.preprocessing import decode_image

__all__ = ["ImageFiles", "LazyImages"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFiles:
    """Files below a folder or in a zip file, by name with forward slashes.

    Parameters
    ----------
    root : path
        Folder or zip file.

    Attributes
    ----------
    names : list of str
        All files, sorted.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If the file is no zip file.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if self.root.is_dir():
            found = (path for path in self.root.rglob("*") if path.is_file())
            self.names = sorted(path.relative_to(self.root).as_posix() for path in found)
        elif not self.root.exists():
            raise FileNotFoundError(
                f"a data set must be a folder or a zip file; there is none at {str(root)!r}"
            )
        elif not zipfile.is_zipfile(self.root):
            raise ValueError(f"a data set must be a folder or a zip file; got {str(root)!r}")
        else:
            entries = self._archive().infolist()
            self.names = sorted(entry.filename for entry in entries if not entry.is_dir())

    def _archive(self) -> zipfile.ZipFile:
        # Kept open: its index is read once, not once an image.
        opened: zipfile.ZipFile | None = self.__dict__.get("_opened")
        if opened is None:
            opened = self._opened = zipfile.ZipFile(self.root)
        return opened

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def images(self) -> list[str]:
        """Names that end like an image's."""
        return [name for name in self.names if name.lower().endswith(_SUFFIXES)]

    def read(self, name: str) -> bytes:
        """Contents of one file.

        Raises
        ------
        FileNotFoundError
            If there is no file of that name.
        """
        try:
            if self.root.is_dir():
                return (self.root / name).read_bytes()
            return self._archive().read(name)
        except (KeyError, FileNotFoundError):
            raise FileNotFoundError(f"{str(self.root)!r} must hold {name!r}; it does not") from None


class LazyImages(Sequence[NDArray[np.uint8]]):
    """Images of a data set as a sequence that decodes each one when it is asked for.

    Parameters
    ----------
    files : ImageFiles
    names : list of str
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
