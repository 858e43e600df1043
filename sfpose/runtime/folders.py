"""Folders and zip files that are written whole or not at all.

A folder of files is replaced by two renames: the old one steps aside as ``.NAME.previous``, the
new one takes its place. Whoever is killed between the two leaves the old folder under that name;
``read_whole`` finds it there and the next ``write_folder`` puts it back. Other leftovers
(``.NAME.*.part``) are never read and are removed by the next writer that can lock them, unless
they have names that no writer gives.

A folder is overwritten only if it is of the same format and holds no file that the new version
does not know. The new version has the permissions of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from sfpose.runtime.files import copy_permissions
from sfpose.runtime.overwriting import check_alike, check_free, check_outside, format_of
from sfpose.runtime.replacing import (
    held,
    is_held,
    place_of,
    previous_of,
    put_in_place,
    replacing,
    saying,
    version_of,
)

__all__ = [
    "changing_folder",
    "read_whole",
    "settled",
    "write_folder",
    "write_zip",
]

Buffers: TypeAlias = bytes | Sequence[bytes | memoryview]
Contents: TypeAlias = Mapping[str, Buffers]
Result = TypeVar("Result")

_MOST_READS = 100


def settled(path: str | os.PathLike[str]) -> Path:
    """Where the last whole version is: ``path``, unless a writer was stopped midway.

    Parameters
    ----------
    path : path
        Where ``write_folder`` was told to write.

    Returns
    -------
    Path
        Absolute; links are followed. It need not be there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.folders import settled
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / ".door.previous").mkdir()
    ...     settled(Path(folder) / "door").name
    '.door.previous'
    """
    path = place_of(path)
    previous = previous_of(path)
    # A writer at work may be done between two looks: look again at the first place.
    return previous if not path.exists() and previous.exists() and not path.exists() else path


def read_whole(path: str | os.PathLike[str], read: Callable[[Path], Result]) -> Result:
    """Read several files of a folder that a writer may replace meanwhile.

    Parameters
    ----------
    path : path
        Where ``write_folder`` was told to write.
    read : callable
        Takes the folder; called again if the folder was replaced while it read.

    Returns
    -------
    object
        What ``read`` returns of one version of the folder.

    Raises
    ------
    OSError, ValueError
        What ``read`` raises, of a folder that was not replaced meanwhile; if it was, again and
        again; if the path names nothing.

    Examples
    --------
    >>> import tempfile
    >>> from sfpose.runtime.folders import read_whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_whole(folder, lambda version: sorted(version.iterdir()))
    []
    """
    for _ in range(_MOST_READS):
        folder = settled(path)
        with held(folder) as number:
            try:
                result = read(folder)
            except (OSError, ValueError):
                if settled(path) == folder and is_held(folder, number):
                    raise
            else:
                if settled(path) == folder and is_held(folder, number):
                    return result
    raise OSError(
        errno.EBUSY,
        f"{str(path)!r} must not be replaced while it is read; it was, {_MOST_READS} times",
    )


def write_folder(
    path: str | os.PathLike[str],
    contents: Contents,
    *,
    overwrite: bool,
    marker: str,
    known: Collection[str] = (),
) -> Path:
    """Write files as a folder that is there whole or not at all.

    Of several writers of one folder, in threads or processes, each waits for the one
    before; where the system has no locks for folders (Windows, some network file
    systems) the later one fails instead.

    Parameters
    ----------
    path : path
        The folder to make; a symbolic link is followed.
    contents : mapping of str to bytes or sequence of buffers
        Files by name; the buffers of one are written after each other.
    overwrite : bool
        Replace a folder of the same format, which keeps its permissions. It must be no mount
        point, nor hold the working directory, since it is replaced by renaming another.
    marker : str
        File of JSON whose ``format`` says what the folder is.
    known : collection of str, optional
        Names that such a folder may hold besides those of ``contents``.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, it is of another format, or holds
        anything that such a folder does not.
    ValueError
        If a name is no plain file name.
    OSError
        If it cannot be written; what was there is there still.

    Examples
    --------
    >>> import tempfile
    >>> from sfpose.runtime.folders import write_folder
    >>> files = {"manifest.json": b'{"format": "letters"}', "a": b"A"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_folder(f"{folder}/one", files, overwrite=False, marker="manifest.json")
    ...     sorted(file.name for file in path.iterdir())
    ['a', 'manifest.json']
    """
    with changing_folder(path, overwrite=overwrite, marker=marker, known=known) as (_, files):
        files.update(contents)
    return Path(path)


@contextlib.contextmanager
def changing_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    marker: str,
    known: Collection[str] = (),
) -> Iterator[tuple[Path, dict[str, Buffers]]]:
    """Write a folder anew at the end of a block, while no other writer does.

    Nothing is written if the block raises.

    Parameters
    ----------
    path, overwrite, marker, known
        As for ``write_folder``.

    Yields
    ------
    folder : Path
        It need not be there yet.
    files : dict of str to bytes or sequence of buffers
        Empty; to be filled with the files that are to be in it.

    Raises
    ------
    FileExistsError, ValueError, OSError
        As ``write_folder`` does; what was there is there still.

    Examples
    --------
    >>> import tempfile
    >>> from sfpose.runtime.folders import changing_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     with changing_folder(f"{root}/one", marker="mark") as (folder, files):
    ...         files["mark"] = b"{}"
    ...     folder.is_dir()
    True
    """
    with replacing(path, marker) as (place, new):
        version = version_of(place)
        if not overwrite:
            check_free(place)
        contents: dict[str, Buffers] = {}
        yield place, contents
        for name in contents:
            if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
                raise ValueError(f"files must have plain names; got {name!r}")
        with saying(path):
            if version is not None:
                check_alike(place, format_of(contents[marker]), {*contents, *known}, marker)
                check_outside(place)
            _fill(new, contents, place if version else None, marker)
            put_in_place(place, new, version)


def write_zip(
    path: str | os.PathLike[str],
    contents: Mapping[str, bytes],
    *,
    overwrite: bool,
    marker: str,
    known: Collection[str] = (),
) -> Path:
    """Write files as a zip file that is there whole or not at all.

    Parameters
    ----------
    path : path
        The file to make; a symbolic link is followed.
    contents : mapping of str to bytes
        Files by name.
    overwrite : bool
        Replace a zip file of the same format, which keeps its permissions.
    marker, known
        As for ``write_folder``.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, it is of another format, or holds
        anything that such a file does not.
    OSError
        If it cannot be written; what was there is there still.

    Examples
    --------
    >>> import tempfile
    >>> from sfpose.runtime.folders import write_zip
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_zip(f"{folder}/a.zip", {"mark": b"{}"}, overwrite=False, marker="mark")
    ...     path.is_file()
    True
    """
    with replacing(path, marker) as (place, new):
        if not overwrite:
            check_free(place)
        with saying(path):
            if place.exists():
                wanted = format_of(contents[marker])
                check_alike(place, wanted, {*contents, *known}, marker, zipped=True)
            packed = new / "zip"
            with open(packed, "wb") as file:
                if place.exists():
                    copy_permissions(place, packed)
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name, data in contents.items():
                        archive.writestr(name, data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(packed, place)
    return Path(path)


def _fill(new: Path, contents: Contents, old: Path | None, marker: str) -> None:
    """Write the files of a folder, with the permissions of those of the old one."""
    for name, data in contents.items():
        with open(new / name, "wb") as file:
            if old is not None:
                like = old / name if (old / name).exists() else old / marker
                copy_permissions(like, new / name)
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
    if old is not None:
        copy_permissions(old, new)
