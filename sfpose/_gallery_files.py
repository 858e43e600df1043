"""A gallery on disk: templates as safetensors, ids and counts as JSON, a manifest.

May import ``_scoring`` and ``runtime``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array
from sfpose._scoring import check_searchable
from sfpose.runtime.artifact import DISTANCE
from sfpose.runtime.files import LONGEST_NUMBER, parse_json, read_file
from sfpose.runtime.tensors import map_tensor, tensor_parts

__all__ = [
    "FILES",
    "MANIFEST",
    "GalleryContents",
    "check_counts",
    "check_digest",
    "check_ids",
    "digest_of",
    "gallery_files",
    "read_gallery",
]

FORMAT = "sfpose-gallery"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_TEMPLATES, _IDS, _COUNTS = "templates.safetensors", "ids.json", "counts.json"
FILES = (MANIFEST, _TEMPLATES, _IDS, _COUNTS)

MOST_IMAGES = 10**12
"""That a template can be the mean of; many may be added before int64 ends."""

_LONGEST_NAME = 4096
# Quotes, a comma and a space; JSON has twelve bytes for a character of two surrogates.
_LARGEST_ID = 12 * _LONGEST_NAME + 4
_LARGEST_COUNT = len(str(MOST_IMAGES)) + 2


class GalleryContents(NamedTuple):
    """Templates, whose they are, of how many images each is the mean, their network's digest."""

    ids: list[str | int]
    counts: NDArray[np.int64]
    templates: NDArray[np.float32]
    network: str | None = None


def gallery_files(
    contents: GalleryContents, manifest_name: str = MANIFEST
) -> dict[str, Sequence[bytes | memoryview]]:
    """Name and buffers of each file of a gallery; one of nobody has no file of templates."""
    ids, counts, templates, network = contents
    files: dict[str, Sequence[bytes | memoryview]] = {
        _IDS: [json.dumps(ids).encode()],
        _COUNTS: [json.dumps(counts.tolist()).encode()],
    }
    if ids:
        files[_TEMPLATES] = tensor_parts("templates", templates)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "templates": len(ids),
        "distance": dict(DISTANCE),
        "network": network,
        "files": {
            name: {"sha256": digest_of(parts), "bytes": sum(len(part) for part in parts)}
            for name, parts in files.items()
        },
    }
    files[manifest_name] = [(json.dumps(manifest, indent=1) + "\n").encode()]
    return files


def digest_of(parts: Sequence[bytes | memoryview]) -> str:
    """SHA-256 of a file that these buffers make, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_gallery(folder: Path, verify: bool, manifest_name: str = MANIFEST) -> GalleryContents:
    """Read what ``gallery_files`` wrote; the templates stay a memory map.

    Format 1 had no counts: each of its templates counts as one image.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the folder is of another format, was changed, or its files contradict each
        other.
    """
    if not (folder / manifest_name).exists():
        raise FileNotFoundError(f"there must be a gallery at {str(folder)!r}; there is none")
    manifest = parse_json(read_file(folder, manifest_name, 2**20), manifest_name)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{str(folder)!r} must be a gallery of format {FORMAT!r}; it is not")
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f"format_version must be 1 to {FORMAT_VERSION}; got {version!r}")
    stated = manifest.get("templates")
    if type(stated) is not int or stated < 0:
        raise ValueError(f"{manifest_name} must state the number of templates; got {stated!r}")
    network = manifest.get("network")
    if not isinstance(network, str | None):
        raise ValueError(
            f"{manifest_name} must state the sha256 of the network, or null; got {network!r}"
        )
    if manifest.get("distance") != DISTANCE:
        raise ValueError(
            f"a gallery must be for the distance {DISTANCE['definition']} with factor "
            f"{DISTANCE['factor']}; got {manifest.get('distance')!r}"
        )
    held = stated > 0 or (folder / _TEMPLATES).exists()
    if verify:
        names = (_IDS, _COUNTS)[:version]  # format 1 has no counts
        for name in (*names, _TEMPLATES) if held else names:
            check_digest(folder / name, manifest.get("files"))
    # First of all, since a list costs far more memory than its file, and a map costs none.
    templates = np.empty((0, 0), np.float32)
    if held:
        templates = map_tensor(folder / _TEMPLATES, "templates")
    _check_one_each(stated, templates)
    ids = check_ids(_read_list(folder, _IDS, (str, int), _LARGEST_ID, stated))
    _check_one_each(len(ids), templates)
    counts = np.ones(stated, np.int64)
    if version > 1:
        numbers = _read_list(folder, _COUNTS, (int,), _LARGEST_COUNT, stated)
        if len(numbers) != stated or not all(1 <= number <= MOST_IMAGES for number in numbers):
            raise ValueError(
                f"{_COUNTS} must hold one number a template, 1 to {MOST_IMAGES}; it does not"
            )
        counts = np.array(numbers, np.int64)
    if verify and ids:
        check_searchable(templates, name="templates")
    return GalleryContents(ids, counts, templates, network)


def _check_one_each(ids: int, templates: NDArray[np.float32]) -> None:
    if templates.ndim != 2 or len(templates) != ids:
        raise ValueError(
            f"a gallery must have one id a template; got {ids} ids "
            f"for templates of shape {templates.shape}"
        )


def check_ids(ids: Sequence[str | int]) -> list[str | int]:
    """Ids as a list, or an error if they are not a sequence of distinct names or numbers.

    Raises
    ------
    ValueError
    """
    if isinstance(ids, (str, bytes, set, frozenset)) or not hasattr(ids, "__len__"):
        raise ValueError(f"ids must be a sequence of ids; got one {type(ids).__name__}")
    # NumPy's numbers and texts are what an array's elements are.
    names = [name.item() if isinstance(name, np.generic) else name for name in ids]
    for name in names:
        # A bool is an int that JSON would not give back as one.
        if type(name) not in (str, int) or (isinstance(name, str) and not name.strip()):
            raise ValueError(f"ids must be str or int, and not blank; got {name!r}")
        if isinstance(name, int) and abs(name) >= 10**LONGEST_NUMBER:
            raise ValueError(f"ids must have at most {LONGEST_NUMBER} digits; one has more")
        if isinstance(name, str) and len(name) > _LONGEST_NAME:
            raise ValueError(
                f"ids must have at most {_LONGEST_NAME} characters; got {len(name)} that begin "
                f"with {name[:50]!r}"
            )
        if isinstance(name, str) and not _is_kept(name):
            raise ValueError(f"ids must be texts that JSON gives back as they are; got {name!r}")
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"ids must differ from each other; {twice!r} is given twice")
    return names


def _is_kept(name: str) -> bool:
    """Whether JSON gives a text back as it is: of two halves of a character it makes one."""
    return name.isascii() or json.loads(json.dumps(name)) == name


def check_counts(counts: ArrayLike | None, length: int) -> NDArray[np.int64]:
    """Numbers of images as int64, ones if not given, or an error if they are no such.

    Raises
    ------
    ValueError
    """
    if counts is None:
        return np.ones(length, np.int64)
    images = as_array(counts, "counts must be whole numbers above 0")
    if images.shape != (length,) or images.dtype.kind not in "iu":
        raise ValueError(
            f"counts must be whole numbers above 0 of shape ({length},); "
            f"got {images.dtype} {images.shape}"
        )
    if ((images < 1) | (images > MOST_IMAGES)).any():
        raise ValueError(
            f"counts must be whole numbers above 0, up to {MOST_IMAGES}; "
            f"got {images.min()} to {images.max()}"
        )
    return images.astype(np.int64)


def _read_list(
    folder: Path, name: str, kinds: tuple[type, ...], largest: int, count: int
) -> list[Any]:
    """A list of so many entries, each of no more bytes than the largest."""
    listed = parse_json(read_file(folder, name, 2 + largest * max(count, 1)), name)
    if not isinstance(listed, list):
        raise ValueError(f"{name} must be a list; got {type(listed).__name__}")
    odd = [value for value in listed if type(value) not in kinds]
    if odd:
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must hold {allowed} alone; got {odd[0]!r}")
    return listed


def check_digest(path: Path, files: object) -> None:
    """Refuse a file that is not there, or not what the table of files states of it.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    entry = files.get(path.name) if isinstance(files, dict) else None
    stated = entry.get("sha256") if isinstance(entry, dict) else None
    if path.is_symlink() or not path.is_file():
        raise FileNotFoundError(f"a gallery must hold {path.name}; {str(path)!r} is no file of it")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    if digest.hexdigest() != stated:
        raise ValueError(f"{path.name} must have the sha256 that {MANIFEST} states; it was changed")
