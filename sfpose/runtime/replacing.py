"""One folder or file in the place of another: by one writer at a time, in steps that can be undone.

``folders`` says what is left by whoever is killed midway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from sfpose.runtime.files import locked, parts_of

__all__ = ["previous_of", "put_in_place", "replacing", "saying", "version_of"]

_HELD: ContextVar[frozenset[Path]] = ContextVar("_HELD", default=frozenset())
"""Folders whose lock this thread holds: to ask for one again would be to wait for oneself."""


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
def replacing(asked: Path) -> Iterator[tuple[Path, Path]]:
    """Where to write, and a folder beside it to prepare it in, for one writer at a time.

    The folder is gone afterwards, and so is what writers that were killed left behind.
    """
    place = Path(os.path.realpath(asked))
    if place.parent in _HELD.get():
        raise ValueError(
            "what lies side by side must be written one after the other; "
            f"got {str(asked)!r} while it, or what lies beside it, is being changed"
        )
    with contextlib.ExitStack() as stack:
        with saying(asked):
            place.parent.mkdir(parents=True, exist_ok=True)
            alone = stack.enter_context(locked(place.parent, wait=True))
            _settle(place)
            if alone:
                held = _HELD.set(_HELD.get() | {place.parent})
                stack.callback(_HELD.reset, held)
                for left in parts_of(place):
                    _remove(left)
            new = _part(place)
            # Nobody else looks on while what is private is written again.
            new.mkdir(0o700 if place.exists() else 0o777)
            stack.callback(_remove, new)
        yield place, new
        _sync(place.parent)


@contextlib.contextmanager
def saying(asked: Path) -> Iterator[None]:
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


def _settle(place: Path) -> None:
    """Put back, or remove, the version that a killed writer moved aside.

    Without locks the writer may be alive; then one of its renames fails, and what it was to
    replace is there still.
    """
    previous = previous_of(place)
    if not previous.exists():
        return
    if place.exists():
        old = _part(place)
        os.replace(previous, old)
        _remove(old)
    else:
        os.replace(previous, place)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _remove(folder: Path) -> None:
    if not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.chmod(0o700)  # or nothing could be taken out of one that was read-only
    shutil.rmtree(folder, ignore_errors=True)


def put_in_place(path: Path, new: Path, version: tuple[int, int, int] | None) -> None:
    """Put a new folder where that version is, or nothing."""
    if version is None:
        os.replace(new, path)
        return
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
    with contextlib.suppress(FileNotFoundError):  # where another writer has put it away
        os.replace(previous, new)
