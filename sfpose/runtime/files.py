"""Single files: read with care, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from sfpose.runtime.parts import check_name, own_part, remove_abandoned

try:
    from lzma import LZMAError
except ImportError:  # a Python without it reads no entry that could raise it
    LZMAError = zlib.error  # type: ignore[misc, assignment]

__all__ = [
    "LONGEST_NUMBER",
    "ZIP_ERRORS",
    "copy_permissions",
    "parse_json",
    "read_file",
    "whole_file",
]

ZIP_ERRORS = (
    *(zipfile.BadZipFile, LZMAError, zlib.error, EOFError, OSError, OverflowError, RuntimeError),
    UnicodeDecodeError,
)
"""What zipfile raises where a file is damaged, encrypted, or packed as it cannot undo."""

LONGEST_NUMBER = 100
"""Digits of a whole number in JSON."""

_DEEPEST = 50

_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
"""POSIX access control lists: of a file or folder, and of what will be made in a folder."""


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
        # Python makes room for as much as is asked for.
        data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
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
        If it is no JSON in UTF-8, says a key twice, has a number that is not finite or of more
        than 100 digits, or is nested more than 50 deep.

    Examples
    --------
    >>> from sfpose.runtime.files import parse_json
    >>> parse_json(b'{"size": 64}', "manifest.json")
    {'size': 64}
    """
    try:
        table = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_short,
        )
        # Where there are no more brackets, none can lie deeper.
        if data.count(b"[") + data.count(b"{") > _DEEPEST:
            _check_depth(table)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON; {error}") from error
    return table


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"numbers must be finite; got {constant}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(text[:100])
    return number


def _short(text: str) -> int:
    # Those are no sizes, and Python's arithmetic with floats has an end.
    if len(text.lstrip("-")) > LONGEST_NUMBER:
        raise ValueError(
            f"whole numbers must have at most {LONGEST_NUMBER} digits; got {len(text)}"
        )
    return int(text)


def _check_depth(table: object) -> None:
    """Refuse what could not be written, copied or compared again, which takes more stack."""
    level = [table]
    for _ in range(_DEEPEST + 1):
        inner = [each for each in level if isinstance(each, (list, dict))]
        if not inner:
            return
        level = [v for each in inner for v in (each.values() if isinstance(each, dict) else each)]
    raise ValueError(f"it must be nested at most {_DEEPEST} deep; it is deeper")


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
            copy_permissions(path, part)
        os.replace(part, path)


def copy_permissions(old: Path, new: Path) -> None:
    """Give a file or folder the permissions of the one that it is to replace, and to nobody else.

    Parameters
    ----------
    old : Path
        What is replaced. Its owner, group and access control lists are taken over as far as this
        user may.
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
    ...     copy_permissions(old, new)
    ...     new.stat().st_mode == old.stat().st_mode
    True
    """
    status, lists = old.stat(), _lists_of(old)
    permissions = stat.S_IMODE(status.st_mode)
    for owner in (status.st_uid, -1):
        with contextlib.suppress(AttributeError, OSError):
            os.chown(new, owner, status.st_gid)
            break
    else:
        # What one group may read is not for another.
        lists, permissions = {}, permissions & ~stat.S_IRWXG
    if _ACCESS in lists:
        # With a list, the bits of the group are the most that anybody in it may do.
        permissions &= ~stat.S_IRWXG
    new.chmod(permissions)
    try:
        _set_lists(new, lists)
    except OSError:
        _set_lists(new, {})
        new.chmod(permissions)


def _lists_of(path: Path) -> dict[str, bytes]:
    """The access control lists of a file or folder, where there are such."""
    lists = {}
    for name in (_ACCESS, _DEFAULT):
        with contextlib.suppress(AttributeError, OSError):
            lists[name] = os.getxattr(path, name)
    return lists


def _set_lists(path: Path, lists: Mapping[str, bytes]) -> None:
    """Give a file or folder these access control lists, and none of its own."""
    for name in (_ACCESS, _DEFAULT):
        if name in lists:
            os.setxattr(path, name, lists[name])
        else:
            with contextlib.suppress(AttributeError, OSError):
                os.removexattr(path, name)
