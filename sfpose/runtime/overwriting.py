"""What may be overwritten: the like of what is written, and nothing else that lies in it."""

from __future__ import annotations

import contextlib
import errno
import os
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sfpose.runtime.files import ZIP_ERRORS, parse_json, read_file

__all__ = ["check_alike", "check_free", "check_outside", "format_of"]

_LARGEST_MARKER = 2**20
_OF_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in folders that somebody looked at: no loss."""


def check_free(place: Path) -> None:
    """Refuse a place where something is.

    Parameters
    ----------
    place : Path

    Raises
    ------
    FileExistsError

    Examples
    --------
    >>> from pathlib import Path
    >>> from sfpose.runtime.overwriting import check_free
    >>> check_free(Path("nothing of that name"))
    """
    if place.exists():
        raise FileExistsError(f"{str(place)!r} must not exist, or overwrite=True be given; it does")


def check_alike(
    place: Path,
    wanted: str | None,
    names: Collection[str],
    marker: str = "manifest.json",
    *,
    zipped: bool = False,
) -> None:
    """Refuse to overwrite what is of another kind, or would take something else with it.

    Parameters
    ----------
    place : Path
        A folder or zip file that is there.
    wanted : str or None
        Format of what is to be there instead, as ``format_of`` tells it.
    names : collection of str
        Files that both may hold.
    marker : str, default="manifest.json"
        The one that states the format.
    zipped : bool, default=False
        Whether a zip file is to be there.

    Raises
    ------
    FileExistsError

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sfpose.runtime.overwriting import check_alike
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = (Path(folder) / "manifest.json").write_text('{"format": "letters"}')
    ...     check_alike(Path(folder), "letters", ["manifest.json", "a", "b"])
    """
    try:
        found, held = _in_zip(place, marker) if zipped else _in_folder(place, marker)
    except (*ZIP_ERRORS, KeyError, ValueError):
        found, held = None, []
    if found is None or found != wanted:
        raise FileExistsError(
            f"what is overwritten must be of the same format, {wanted}; "
            f"{str(place)!r} is {'something else' if found is None else f'of {found}'}"
        )
    if strange := sorted({*held} - {*names, *_OF_DESKTOPS}):
        raise FileExistsError(
            f"what is overwritten must hold nothing but the files of its format, {wanted}; "
            f"{str(place)!r} holds {strange[0]!r} too, which would be lost"
        )


def _in_folder(place: Path, marker: str) -> tuple[str | None, list[str]]:
    """Format of a folder, and the names in it."""
    names = [file.name + "/" * file.is_dir() for file in place.iterdir()]
    return format_of(read_file(place, marker, _LARGEST_MARKER)), names


def _in_zip(place: Path, marker: str) -> tuple[str | None, list[str]]:
    if not place.is_file():
        raise ValueError(f"{str(place)!r} is no ordinary file")
    with zipfile.ZipFile(place) as archive, archive.open(marker) as entry:
        return format_of(entry.read(_LARGEST_MARKER)), archive.namelist()


def format_of(data: bytes | Sequence[bytes | memoryview]) -> str | None:
    """What a manifest says that its folder is.

    Parameters
    ----------
    data : bytes or sequence of buffers
        The manifest, JSON.

    Returns
    -------
    str or None
        None if it does not say.

    Raises
    ------
    ValueError
        If it is no JSON.

    Examples
    --------
    >>> from sfpose.runtime.overwriting import format_of
    >>> format_of(b'{"format": "letters", "bundle": {}}')
    'letters with a bundle'
    """
    whole = data if isinstance(data, bytes) else b"".join(data)
    manifest: Any = parse_json(whole, "a manifest")
    stated = manifest.get("format") if isinstance(manifest, dict) else None
    # A bundle is an artifact with more in it, which must not be lost for the artifact alone.
    return f"{stated} with a bundle" if stated and "bundle" in manifest else stated


def check_outside(place: Path) -> None:
    """Refuse to replace the folder that this process, or the shell that began it, works in.

    Parameters
    ----------
    place : Path
        Absolute, without links.

    Raises
    ------
    OSError

    Examples
    --------
    >>> from pathlib import Path
    >>> from sfpose.runtime.overwriting import check_outside
    >>> check_outside(Path.cwd() / "door")
    """
    with contextlib.suppress(FileNotFoundError):
        here = Path(os.path.realpath(os.getcwd()))
        if place in (here, *here.parents):
            raise OSError(
                errno.EBUSY,
                f"a folder that is replaced must not hold the working directory; {here} is it",
            )
