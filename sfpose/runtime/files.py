"""Single files: read with care, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import stat
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
    "check_name",
    "copy_permissions",
    "locked",
    "own_part",
    "parse_json",
    "read_file",
    "remove_abandoned",
    "whole_file",
]

ZIP_ERRORS = (
    *(zipfile.BadZipFile, LZMAError, zlib.error, EOFError, OSError, OverflowError, RuntimeError),
    UnicodeDecodeError,
)
"""What zipfile raises where a file is damaged, encrypted, or packed as it cannot undo."""

_PART = 16
_LONGEST_NAME = 255 - len("..") - _PART - len(".part")


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

    Raises
    ------
    FileExistsError
        If something is there that is no ordinary file.
    ValueError
        If the path is none that can be written.
    OSError
        If it cannot be written.

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
    check_name(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"what is replaced must be an ordinary file; {str(path)!r} is not")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    with own_part(path) as folder:
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
    >>> from sfpose.runtime.files import check_name
    >>> check_name(Path("door"))
    """
    try:
        size = 0 if "\0" in str(path) else len(os.fsencode(path.name))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= _LONGEST_NAME:
        raise ValueError(
            f"a path must lead to a name of 1 to {_LONGEST_NAME} bytes, without NUL; "
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
    >>> from sfpose.runtime.files import own_part
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
    >>> from sfpose.runtime.files import remove_abandoned
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
