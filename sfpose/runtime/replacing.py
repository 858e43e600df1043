"""One folder or file in the place of another: by one writer at a time, in steps that can be undone.

``folders`` says what is left by whoever is killed midway.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from sfpose.runtime.parts import check_name, locked, own_part, remove_abandoned, warn_left

__all__ = [
    "check_previous",
    "held",
    "is_held",
    "place_of",
    "previous_of",
    "put_in_place",
    "replacing",
    "saying",
    "version_of",
]


@dataclass
class _Hold:
    """A folder whose lock is held, until its writer is done."""

    folder: Path
    released: bool = False


_HELD: ContextVar[tuple[_Hold, ...]] = ContextVar("_HELD", default=())
"""What this thread holds: to ask for a lock again would be to wait for oneself.

A block may be left in another thread or context than it was entered in, as dependencies of web
frameworks are: what is released says so itself, and is not taken out here.
"""


def place_of(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, absolute and without links; nothing need be there.

    Raises
    ------
    ValueError
        If it names nothing.
    """
    try:
        # An empty path would be the working directory.
        place = Path(os.path.realpath(path)) if os.fspath(path) else Path()
    except ValueError:  # NUL, or what no name can hold
        place = Path()
    check_name(place, path)
    return place


def previous_of(path: Path) -> Path:
    """Where a folder stands aside while another takes its place."""
    return path.with_name(f".{path.name}.previous")


def version_of(path: Path) -> tuple[int, int, int] | None:
    """What tells a version of a folder from others; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def held(path: Path) -> Iterator[tuple[int, int] | None]:
    """What tells a file or folder from others, to none of which it is given until the end.

    Unlike the time of a folder, it stays when somebody else writes into it. None if there is none.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        if path.is_dir() or path.is_file():
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        yield _number(path if descriptor is None else descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_held(path: Path, number: tuple[int, int] | None) -> bool:
    """Whether what ``held`` gave of a path is what is there now."""
    return _number(path) == number


def _number(place: Path | int) -> tuple[int, int] | None:
    try:
        status = os.stat(place)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def replacing(asked: str | os.PathLike[str], marker: str) -> Iterator[tuple[Path, Path]]:
    """Where to write, and a folder beside it to prepare it in, for one writer at a time.

    The folder is gone afterwards, and so is what writers that were killed left behind: they are
    told by their names and locks, a version that stepped aside by the ``marker`` that it holds.
    """
    place = place_of(asked)
    holds = tuple(hold for hold in _HELD.get() if not hold.released)
    if place.parent in (hold.folder for hold in holds):
        raise ValueError(
            "what lies side by side must be written one after the other; "
            f"got {str(asked)!r} while it, or what lies beside it, is being changed"
        )
    with contextlib.ExitStack() as stack:
        with saying(asked):
            place.parent.mkdir(parents=True, exist_ok=True)
            alone = stack.enter_context(locked(place.parent, wait=True))
            if alone:
                hold = _Hold(place.parent)
                _HELD.set((*holds, hold))
                stack.callback(setattr, hold, "released", True)
            _settle(place, marker)
            remove_abandoned(place)
            # Nobody else looks on while what is private is written again.
            new = stack.enter_context(own_part(place, 0o700 if place.exists() else 0o777))
        yield place, new
        _sync(place.parent)


@contextlib.contextmanager
def saying(asked: str | os.PathLike[str]) -> Iterator[None]:
    """Name the place in whatever keeps it from being written."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{str(asked)!r} cannot be written and is as it was: {error.strerror or error}",
        ) from error


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _settle(place: Path, marker: str) -> None:
    """Put back, or remove, the version that a killed writer moved aside.

    Without locks the writer may be alive; then one of its renames fails, and what it was to
    replace is there still.
    """
    previous = check_previous(place, marker)
    if previous is None:
        return
    if place.exists():
        with own_part(place) as old:
            os.replace(previous, old / previous.name)
    else:
        os.replace(previous, place)


def check_previous(place: Path, marker: str) -> Path | None:
    """The version of a folder that a killed writer moved aside, if there is one.

    Raises
    ------
    FileExistsError
        If something else is there.
    """
    previous = previous_of(place)
    if not os.path.lexists(previous):
        return None
    if previous.is_symlink() or not (previous / marker).is_file():
        raise FileExistsError(
            f"{str(previous)!r} must be a version of {place.name!r} that a writer left there when "
            f"it was stopped; it has no {marker}: move it away"
        )
    return previous


def put_in_place(path: Path, new: Path, version: tuple[int, int, int] | None) -> None:
    """Put a new folder where that version is, or nothing."""
    if version is None:
        os.replace(new, path)
        return
    if os.name == "posix" and not (os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()):
        raise PermissionError(
            errno.EACCES,
            "you must own what is replaced, or may write into it, or its old version would stay",
        )
    # Folders cannot be exchanged in one step everywhere: the old one steps aside.
    previous = previous_of(path)
    try:
        os.replace(path, previous)
    except OSError as error:
        if error.errno == errno.EBUSY:
            error.strerror = (
                "a folder that is replaced must be no mount point; write into a folder inside it"
            )
        raise
    try:
        if version_of(previous) != version:
            raise OSError(errno.EBUSY, "somebody else wrote to it meanwhile")
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.replace(previous, path)
        raise
    try:
        os.replace(previous, new)
    except FileNotFoundError:  # where another writer has put it away
        pass
    except OSError:
        warn_left(previous)
