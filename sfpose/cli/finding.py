"""Photos that the subcommands are given, as files and in folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfpose.cli.arguments import as_typed
from sfpose.cli.output import note

__all__ = ["PeoplePhotos", "find_photos", "photos_by_person"]

_LINKED, _NO_FILE = "folder(s) behind a link", "photo(s) that are no file"
_OTHER_KINDS = {
    *(".apng", ".arw", ".avif", ".bmp", ".cr2", ".cr3", ".dng", ".gif", ".heic", ".heif", ".hif"),
    *(".jp2", ".jxl", ".nef", ".orf", ".raf", ".rw2", ".tif", ".tiff"),
}
"""Endings of pictures that cannot be read, and must not be passed over without a word."""


def find_photos(paths: Sequence[str]) -> list[Path]:
    """Photos among files and, at any depth, in folders; in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If a folder holds no photo.
    OSError
        If a folder cannot be read.
    """
    found: list[Path] = []
    left: Counter[str] = Counter()
    for text in paths:
        path = _given(text)
        if path.is_dir():
            photos, others = _photos_below(path)
            if not photos:
                held = f"; it holds {_listed(others)}" if others else ""
                raise ValueError(f"there must be JPEG, PNG or WebP photos in {text}{held}")
            found += photos
            left += others
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"there must be a photo or a folder at {text!r}")
    _say_left_out(left)
    return found


def _photos_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Photos at any depth, and how many pictures of each other kind there are, and what else."""
    from sfpose.protocols import ImageFiles

    # Not Path.rglob, which passes over folders that it may not read.
    below = ImageFiles(folder)
    files = [folder / name for name in below.images()]
    endings = Counter(Path(name).suffix.lower() for name in below.names)
    others = Counter({kind: count for kind, count in endings.items() if kind in _OTHER_KINDS})
    photos = [file for file in files if file.is_file()]
    # Links may lead in a circle, and are named rather than followed.
    others[_LINKED] = sum((folder / name).is_symlink() for name in below.folders)
    others[_NO_FILE] = len(files) - len(photos)
    return photos, +others


def _given(text: str) -> Path:
    if not text:  # An unset variable, which would be the working folder.
        raise ValueError("a path of photos must not be empty; got ''")
    return Path(text)


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _say_left_out(kinds: Counter[str]) -> None:
    endings = Counter({kind: count for kind, count in kinds.items() if kind[0] == "."})
    if endings:
        note(f"left out: {_listed(endings)}; only JPEG, PNG and WebP are read")
    if kinds - endings:
        note(f"left out: {_listed(kinds - endings)}")


class PeoplePhotos(NamedTuple):
    """Photos, whose each is, and who has a folder but no photo."""

    photos: list[Path]
    people: list[str]
    without: list[str]


def photos_by_person(folder: str) -> PeoplePhotos:
    """Photos in the folders of a folder, which bear the names of people and may be links.

    What is hidden, as deleted photos and thumbnails are, is passed over.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a photo lies in no person's folder, or there is none.
    OSError
        If a folder cannot be read.
    """
    from sfpose.protocols.files import is_hidden, is_image

    root = _given(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there must be a folder of people at {folder!r}")
    photos: list[Path] = []
    people: list[str] = []
    without: list[str] = []
    left: Counter[str] = Counter()
    for entry in sorted(root.iterdir()):
        if is_hidden(entry.name):
            continue
        # A link to nothing was one to a folder.
        if entry.is_dir() or not entry.exists():
            found, others = _photos_below(entry) if entry.is_dir() else ([], Counter())
            left += others
            name = as_typed(entry.name)
            photos += found
            people += [name] * len(found)
            without += [] if found else [name]
        elif is_image(entry.name) or entry.suffix.lower() in _OTHER_KINDS:
            raise ValueError(f"photos must lie in a folder for each person; got {str(entry)!r}")
    _say_left_out(left)
    if not photos:
        raise ValueError(f"there must be JPEG, PNG or WebP photos of people in {folder}")
    return PeoplePhotos(photos, people, without)
