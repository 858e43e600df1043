"""Where writers prepare what they write: folders beside it, each locked while its writer lives."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_name", "locked", "own_part", "remove_abandoned", "warn_left"]

_PART = 16
_MOST_FOLDERS = 255  # pathlib makes them by calling itself
_LONGEST_NAME = 255 - len("..") - _PART - len(".part")


def check_name(path: Path, given: object = None) -> None:
    """Refuse a path that names nothing, or by a name that is too long to write beside it.

    Parameters
    ----------
    path : Path
    given : path, optional
        What to say in an error that came, where links of it were followed.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> from pathlib import Path
    >>> from sfpose.runtime.parts import check_name
    >>> check_name(Path("door"))
    """
    try:
        size = 0 if "\0" in str(path) else len(os.fsencode(path.name))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= _LONGEST_NAME or len(path.parts) > _MOST_FOLDERS:
        raise ValueError(
            f"a path must lead to a name of 1 to {_LONGEST_NAME} bytes, without NUL, "
            f"in at most {_MOST_FOLDERS} folders; "
            f"got {str(path if given is None else given)!r}"
        )


@contextlib.contextmanager
def own_part(path: Path, mode: int = 0o700) -> Iterator[Path]:
    """A folder beside a path to prepare it in, locked for as long as its writer lives.

    Parameters
    ----------
    path : Path
    mode : int, default=0o700
        Permissions of the folder, less the umask.

    Yields
    ------
    Path
        Gone afterwards, with all that is in it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.parts import own_part
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with own_part(Path(folder) / "door") as part:
    ...         part.parent == Path(folder)
    True
    """
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(_PART // 2)}.part")
        folder.mkdir(mode)
        with locked(folder, wait=True):
            # Before it was locked, another writer may have taken it for abandoned.
            if not folder.is_dir():
                continue
            try:
                yield folder
            finally:
                _remove(folder)
            if folder.exists():
                warn_left(folder)
            return


def remove_abandoned(path: Path) -> None:
    """Remove what writers of a path that were killed left beside it.

    What cannot be locked belongs to a writer at work, and what has another name to somebody else.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.parts import remove_abandoned
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".door.0123456789abcdef.part", ".door.mine.part"):
    ...         (Path(folder) / name).mkdir()
    ...     remove_abandoned(Path(folder) / "door")
    ...     [left.name for left in Path(folder).iterdir()]
    ['.door.mine.part']
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * _PART}.part"):
        with locked(left, wait=False) as held:
            if held:
                _remove(left)


def warn_left(folder: Path) -> None:
    """Tell that a folder is there still: an old version in it may hold who was to be removed."""
    warnings.warn(
        "what a writer prepared or replaced must be removed, and could not be: remove "
        f"{str(folder)!r}",
        RuntimeWarning,
        stacklevel=3,
    )


def _remove(folder: Path) -> None:
    if not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.chmod(0o700)  # or nothing could be taken out of one that was read-only
    shutil.rmtree(folder, ignore_errors=True)


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
    >>> from sfpose.runtime.parts import locked
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
