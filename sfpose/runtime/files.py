"""Single files: read with care, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

try:
    from lzma import LZMAError
except ImportError:  # a Python without it reads no entry that could raise it
    LZMAError = zlib.error  # type: ignore[misc, assignment]

__all__ = [
    "ZIP_ERRORS",
    "copy_permissions",
    "locked",
    "parse_json",
    "parts_of",
    "read_file",
    "whole_file",
]

ZIP_ERRORS = (
    *(zipfile.BadZipFile, LZMAError, zlib.error, EOFError, OSError, OverflowError, RuntimeError),
    UnicodeDecodeError,
)
"""What zipfile raises where a file is damaged, encrypted, or packed as it cannot undo."""


def read_file(folder: Path, name: str, most: int) -> bytes:
    """Contents of a file that lies in a folder itself.

    Parameters
    ----------
    folder : Path
    name : str
    most : int
        Largest size that is read, in bytes.

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a symbolic link, no ordinary file, or larger than ``most``.
    """
    path = folder / name
    if path.is_symlink():
        raise ValueError(f"{name} must be a file of its own; {str(path)!r} is a symbolic link")
    if not path.exists():
        raise FileNotFoundError(f"there must be {name}; there is none in {str(folder)!r}")
    if not path.is_file():
        raise ValueError(f"{name} must be an ordinary file; {str(path)!r} is not")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(
            f"{name} must have at most {most} bytes; got {path.stat().st_size} in {str(folder)!r}"
        )
    return data


def parse_json(data: bytes, name: str) -> object:
    """JSON without the liberties that hide something.

    Parameters
    ----------
    data : bytes
    name : str
        What to call it in an error.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is no JSON in UTF-8, says a key twice, has a number that is not finite, or is
        nested too deeply.

    Examples
    --------
    >>> from sfpose.runtime.files import parse_json
    >>> parse_json(b'{"size": 64}', "manifest.json")
    {'size': 64}
    """
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON; {error}") from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"numbers must be finite; got {constant}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes ``path`` when all is written, and not if that fails.

    Each writer has its own, so that the processes of one run may all make the same.

    Parameters
    ----------
    path : Path
        The file to make or to replace, which keeps its permissions; folders above it are made.

    Yields
    ------
    Path
        What to write instead, of the same name.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.files import whole_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "new" / "notes.txt") as part:
    ...         size = part.write_text("all of it")
    ...     sorted(file.name for file in (Path(folder) / "new").iterdir())
    ['notes.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    with _own_folder(path) as folder:
        part = folder / path.name
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            copy_permissions(path.stat(), part)
        os.replace(part, path)


def copy_permissions(old: os.stat_result, new: Path) -> None:
    """Give a file or folder the permissions of the one that it is to replace, and to nobody else.

    Parameters
    ----------
    old : os.stat_result
        Of what is replaced. Its owner and group are taken over as far as this user may.
    new : Path

    Raises
    ------
    OSError
        If the permissions cannot be set.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.files import copy_permissions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     old, new = Path(folder) / "old", Path(folder) / "new"
    ...     old.touch(mode=0o600)
    ...     new.touch(mode=0o644)
    ...     copy_permissions(old.stat(), new)
    ...     new.stat().st_mode == old.stat().st_mode
    True
    """
    permissions = stat.S_IMODE(old.st_mode)
    for owner in (old.st_uid, -1):
        with contextlib.suppress(AttributeError, OSError):
            os.chown(new, owner, old.st_gid)
            break
    else:
        # What one group may read is not for another.
        permissions &= ~stat.S_IRWXG
    new.chmod(permissions)


@contextlib.contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that is locked for as long as its writer lives."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        with locked(folder, wait=True):
            # Before it was locked, another writer may have taken it for abandoned.
            if not folder.is_dir():
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def parts_of(path: Path) -> Iterator[Path]:
    """What writers of a file or folder prepare beside it, or left there when they were killed."""
    return path.parent.glob(f".{glob.escape(path.name)}.*.part")


def _remove_abandoned(path: Path) -> None:
    """Remove what writers of ``path`` that were killed left behind."""
    for left in parts_of(path):
        with locked(left, wait=False) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder.

    Parameters
    ----------
    folder : Path
    wait : bool
        For whoever holds it.

    Yields
    ------
    bool
        False if it is held or gone, or there are no such locks.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.files import locked
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with locked(Path(folder), wait=True), locked(Path(folder), wait=False) as again:
    ...         again
    False
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        try:
            yield held
        finally:
            if held:
                # Said aloud: a child that was forked meanwhile holds the descriptor too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
