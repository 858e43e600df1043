"""Entries of zip files, which say of themselves what they like."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sfpose.runtime.files import ZIP_ERRORS

__all__ = ["missing", "zip_pieces"]

_MOST_ENTRIES = 1000
_LARGEST_DIRECTORY = 2**20


class _Directory(io.FileIO):
    """A zip file of which no more is read at once than the directory of an artifact's takes."""

    def read(self, size: int | None = -1, /) -> bytes:
        limit = _LARGEST_DIRECTORY
        asked = limit + 1 if size is None or size < 0 else size
        if asked > limit + 1 or len(data := super().read(asked)) > limit:
            raise zipfile.BadZipFile(f"its directory must have at most {limit} bytes")
        return data


def zip_pieces(path: Path, name: str, most: int) -> Iterator[bytes]:
    """An entry of an artifact's zip file, piece by piece.

    Parameters
    ----------
    path : Path
    name : str
    most : int
        Largest size of the entry, in bytes.

    Yields
    ------
    bytes
        A mebibyte at most.

    Raises
    ------
    ValueError
        If the zip file is damaged, names what lies outside of it or one name twice, or has no such
        entry, or a larger one.
    """
    try:
        with (
            _Directory(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_entry(archive, path, name, most)) as entry,
        ):
            while piece := entry.read(2**20):
                yield piece
    except ZIP_ERRORS as error:
        raise ValueError(f"an artifact must be a whole zip file; {str(path)!r}: {error}") from error


def _entry(archive: zipfile.ZipFile, path: Path, name: str, most: int) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"a zip file must have at most {_MOST_ENTRIES} entries; it has more")
    names = [entry.orig_filename for entry in entries]
    for given in names:
        if given.startswith("/") or "\\" in given or ".." in given.split("/"):
            raise ValueError(f"names in a zip file must lie below it; got {given!r}")
    found = [entry for entry in entries if entry.orig_filename == name]
    if not found:
        raise missing(name, path)
    if len(set(names)) != len(names):
        raise ValueError(f"names in a zip file must differ; {str(path)!r} repeats one")
    (entry,) = found
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} must be stored or deflated; it is compressed otherwise")
    if entry.file_size > most:
        raise ValueError(f"{name} must have at most {most} bytes; got {entry.file_size}")
    return entry


def missing(name: str, path: Path) -> ValueError:
    """That an artifact lacks a file."""
    return ValueError(f"an artifact must hold {name}; there is none in {str(path)!r}")
