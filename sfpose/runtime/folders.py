"""Folders and zip files that are written whole or not at all.

A folder of files is replaced by two renames: the old one steps aside as
``.NAME.previous``, the new one takes its place. Whoever is killed between the two leaves
the old folder under that name; :func:`read_whole` finds it there and the next
:func:`write_folder` puts it back. Other leftovers (``.NAME.*.part``) are never read and are
removed by the next writer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

__all__ = ["change_folder", "read_whole", "write_folder", "write_zip"]

Contents: TypeAlias = Mapping[str, bytes | Sequence[bytes | memoryview]]
Result = TypeVar("Result")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _settled(path: Path) -> Path:
    """Where the last whole version is: ``path``, unless a writer was stopped midway."""
    path = Path(os.path.realpath(path))
    previous = _previous(path)
    # A writer at work may be done between two looks: look again at the first place.
    return previous if not path.exists() and previous.exists() and not path.exists() else path


def _version(path: Path) -> tuple[Path, tuple[int, int, int] | None]:
    """Where the last whole version is and what tells it from others."""
    folder = _settled(path)
    try:
        status = folder.stat()
    except OSError:
        return folder, None
    return folder, (status.st_dev, status.st_ino, status.st_mtime_ns)


def read_whole(path: str | os.PathLike[str], read: Callable[[Path], Result]) -> Result:
    """Read several files of a folder that a writer may replace meanwhile.

    Parameters
    ----------
    path : path
        Where :func:`write_folder` was told to write.
    read : callable
        Takes the folder; called again if the folder was replaced while it read.

    Returns
    -------
    object
        What ``read`` returns of one version of the folder.
    """
    while True:
        version = _version(Path(path))
        try:
            result = read(version[0])
        except (OSError, ValueError):
            if _version(Path(path)) == version:
                raise
        else:
            if _version(Path(path)) == version:
                return result


def write_folder(
    path: str | os.PathLike[str], contents: Contents, *, overwrite: bool, marker: str
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
        Replace a folder that holds ``marker``.
    marker : str
        File by which a folder of the same kind is known.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, or it holds no ``marker``.
    ValueError
        If a name is no plain file name.
    OSError
        If it cannot be written; what was there is there still.
    """
    return _write(path, lambda _: contents, overwrite, marker)


def change_folder(
    path: str | os.PathLike[str], change: Callable[[Path], Contents], *, marker: str
) -> Path:
    """Write a folder anew by what it holds, while no other writer does.

    Parameters
    ----------
    path, marker
        As for :func:`write_folder`.
    change : callable
        Takes the folder, which need not be there yet, and gives the files that are to be in it.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError, ValueError, OSError
        As :func:`write_folder` does, and what ``change`` raises; what was there is there still.
    """
    return _write(path, change, True, marker)


def _write(
    path: str | os.PathLike[str], change: Callable[[Path], Contents], overwrite: bool, marker: str
) -> Path:
    with _replacing(Path(path)) as (place, new):
        if place.exists() and not (overwrite and (place / marker).is_file()):
            raise FileExistsError(
                f"{str(path)!r} must not exist, or hold {marker} and be overwritten by wish"
            )
        contents = change(place)
        for name in contents:
            if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
                raise ValueError(f"files must have plain names; got {name!r}")
        _replace(place, new, contents)
    return Path(path)


def write_zip(
    path: str | os.PathLike[str], contents: Mapping[str, bytes], *, overwrite: bool
) -> Path:
    """Write files as a zip file that is there whole or not at all.

    Parameters
    ----------
    path : path
        The file to make; a symbolic link is followed.
    contents : mapping of str to bytes
        Files by name.
    overwrite : bool
        Replace a zip file that is there.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, or it is no zip file.
    OSError
        If it cannot be written; what was there is there still.
    """
    with _replacing(Path(path)) as (place, new):
        if place.exists() and not (overwrite and zipfile.is_zipfile(place)):
            raise FileExistsError(f"{str(path)!r} must not exist, or be a zip file and overwritten")
        packed = new / "zip"
        with open(packed, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in contents.items():
                    archive.writestr(name, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(packed, place)
    return Path(path)


@contextlib.contextmanager
def _replacing(asked: Path) -> Iterator[tuple[Path, Path]]:
    """Where to write, and a folder beside it to prepare it in, for one writer at a time.

    The folder is gone afterwards, and so is what writers that were killed left behind.
    """
    place = Path(os.path.realpath(asked))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _one_writer(place.parent) as alone:
            if alone:
                _clean(place)
            new = _part(place)
            new.mkdir()
            try:
                yield place, new
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{str(asked)!r} cannot be written and is as it was: {error.strerror or error}",
        ) from error


@contextlib.contextmanager
def _one_writer(parent: Path) -> Iterator[bool]:
    """Hold the lock of a folder; False where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        try:
            yield alone
            with contextlib.suppress(OSError):  # not every file system can
                os.fsync(descriptor)
        finally:
            if alone:
                # Said aloud: a child that was forked meanwhile holds the descriptor too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _clean(path: Path) -> None:
    """Put back or remove what writers that were killed left behind."""
    previous = _previous(path)
    if previous.exists() and not path.exists():
        os.replace(previous, path)
    elif previous.exists():
        os.replace(previous, _part(path))
    for left in path.parent.glob(f".{_literal(path.name)}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _replace(path: Path, new: Path, contents: Contents) -> None:
    for name, data in contents.items():
        with open(new / name, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
    if path.exists():
        # Folders cannot be exchanged in one step everywhere: the old one steps aside.
        previous = _previous(path)
        os.replace(path, previous)
        try:
            os.replace(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.replace(previous, path)
            raise
        os.replace(previous, new)
    else:
        os.replace(new, path)
