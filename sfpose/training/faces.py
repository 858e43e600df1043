"""Photos with stored landmarks and teacher embeddings, decoded into one compact array."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.protocols.files import ImageFiles
from sfpose.runtime.files import whole_file

__all__ = [
    "PhotoStore",
    "TaughtFaces",
    "decode_archives",
    "known_matrices",
    "load_taught_faces",
    "pass_order",
]


def pass_order(length: int, seed: int, first: int, count: int) -> NDArray[np.int64]:
    """Which of ``length`` rows are drawn as number ``first`` and the ``count - 1`` after.

    Each pass draws every row once, in an order that follows from the seed and the
    number of the pass alone, so that a resumed run draws what an unbroken one would.
    """
    parts: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    while count > 0:
        number, place = divmod(first, length)
        parts.append(_order_of_pass(length, seed, number)[place : place + count])
        first, count = first + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=4)  # Shuffling millions of rows takes longer than a batch.
def _order_of_pass(length: int, seed: int, number: int) -> NDArray[np.int64]:
    order = np.random.default_rng((seed, number)).permutation(length)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class TaughtFaces:
    """Photos of one size with what a teacher said of each.

    Attributes
    ----------
    photos : uint8 array of shape (n, side, side, 3)
        RGB, possibly a read-only memory map.
    landmarks : float32 array of shape (n, 5, 2)
        Pixel coordinates, the eye on the image's left first.
    scores : float32 array of shape (n,)
        The detector's score; 0 where it found no face.
    embeddings, mirror_embeddings : float32 array of shape (n, d)
        The teacher's embedding of the aligned face and of its mirror image.
    held_out : bool array of shape (n,)
        Photos that no training step may see.
    photos_key : str or None
        Tells these photos from others in the names of files; whoever puts other photos in their
        place puts another here, or None.
    """

    photos: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    mirror_embeddings: NDArray[np.float32]
    held_out: NDArray[np.bool_]
    photos_key: str | None = None


class PhotoStore:
    """Photos by their rows, on the device where they are used.

    A GPU keeps them all in its memory; on the CPU they stay where they are, which may be a file.

    Parameters
    ----------
    photos : uint8 array of shape (n, h, w, 3)
    device : torch.device

    Attributes
    ----------
    shape : (int, int)
        Height and width of a photo.
    """

    def __init__(self, photos: NDArray[np.uint8], device: torch.device) -> None:
        self._photos = photos
        self._there = None if device.type == "cpu" else torch.tensor(photos, device=device)
        self.shape = photos.shape[1:3]

    def take(self, rows: Tensor) -> Tensor:
        """Photos (k, h, w, 3) of rows (k,), on the store's device."""
        if self._there is not None:
            return self._there[rows]
        return torch.from_numpy(self._photos[rows.numpy()])


def known_matrices(
    make: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    landmarks: NDArray[np.float32],
    known: NDArray[np.bool_],
    device: torch.device,
) -> Tensor:
    """What ``make`` gives of the landmarks (n, 5, 2) that are known, in float32; zeros elsewhere.

    Where no face was found landmarks may be anything, such as all zeros, which it would refuse.
    """
    made = make(landmarks[known])
    filled = np.zeros((len(landmarks), *made.shape[1:]), np.float32)
    filled[known] = made
    return torch.from_numpy(filled).to(device)


_Entries = list[tuple[Path, zipfile.ZipInfo]]


def _listed_entries(archives: Sequence[Path], names: Sequence[str]) -> _Entries:
    """Archive and entry of each name."""
    found: dict[str, tuple[Path, zipfile.ZipInfo]] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            found.update({entry.filename: (path, entry) for entry in archive.infolist()})
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"every listed image must be in the archives; {len(missing)} are not, "
            f"the first is {missing[0]!r}"
        )
    return [found[name] for name in names]


def _key(entries: _Entries) -> str:
    """Sixteen digits of names and checksums, for which no image need be read."""
    lines = [f"{entry.filename} {entry.CRC} {entry.file_size}" for _, entry in entries]
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def decode_archives(
    archives: Sequence[Path], names: Sequence[str], cache: Path
) -> NDArray[np.uint8]:
    """Decode images of equal size from zip archives into one memory-mapped array.

    Parameters
    ----------
    archives : sequence of Path
        Zip files that hold the images between them; of equal names the last one's counts.
    names : sequence of str
        Member names, in the order of the result's rows.
    cache : Path
        ``.npy`` file to write, or to map if it is already there. A digest of the names and of
        the images' checksums is put behind its stem, so that other images have another file.

    Returns
    -------
    uint8 array of shape (len(names), h, w, 3), read-only memory map

    Raises
    ------
    ValueError
        If an image is in none of the archives, or its file is none that ``ImageFiles`` reads:
        damaged, or of more than 256 MB.
    """
    entries = _listed_entries(archives, names)
    file = cache.with_stem(f"{cache.stem}_{_key(entries)}")
    if not file.exists():
        with whole_file(file) as part:
            _decode(entries, part)
    return np.load(file, mmap_mode="r")


def _decode(entries: _Entries, file: Path) -> None:
    from PIL import Image

    def encoded() -> Iterator[bytes]:
        opened = {path: ImageFiles(path) for path in {path for path, _ in entries}}
        for path, entry in entries:
            yield opened[path].read(entry.filename)

    def decode(data: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    archived = encoded()
    first = decode(next(archived))
    shape = (len(entries), *first.shape)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    array[0] = first

    def keep(row: int, data: bytes) -> None:
        array[row] = decode(data)  # Here, or what is decoded would wait in memory for its turn.

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(keep, range(1, len(entries)), archived):
            pass
    array.flush()


def load_taught_faces(folder: Path, cache: Path) -> TaughtFaces:
    """Read FairFace photos and the file of stored teacher outputs that goes with them.

    Parameters
    ----------
    folder : Path
        Holds ``fairface_128_*.zip`` and ``fairface_teacher.npz``.
    cache : Path
        Folder for the decoded array (2.2 GB for 45,000 photos of 128x128). Another data set
        has another file there.

    Returns
    -------
    TaughtFaces
        Photos under ``val/`` are marked as held out.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold them.
    ValueError
        If the outputs lack an array, are not one for each photo, or one of a photo with a face is
        not finite.
    """
    if not (folder / "fairface_teacher.npz").is_file():
        raise FileNotFoundError(
            "data must be a folder with fairface_128_*.zip and fairface_teacher.npz; "
            f"{str(folder)!r} is none"
        )
    with np.load(folder / "fairface_teacher.npz") as stored:
        missing = {"files", "landmarks", "score", "embedding", "embedding_flip"} - {*stored.files}
        if missing:
            raise ValueError(f"fairface_teacher.npz must hold {', '.join(sorted(missing))}")
        files = [str(name) for name in stored["files"]]
        scores = _of_each(stored, "score", (len(files),))
        embeddings = _of_each(stored, "embedding", (len(files), -1), scores)
        mirrored = _of_each(stored, "embedding_flip", embeddings.shape, scores)
        landmarks = _of_each(stored, "landmarks", (len(files), 5, 2), scores)
        archives = sorted(folder.glob("fairface_128_*.zip"))
        return TaughtFaces(
            photos=decode_archives(archives, files, cache / "fairface_128.npy"),
            photos_key=_key(_listed_entries(archives, files)),
            landmarks=landmarks,
            scores=scores,
            embeddings=embeddings,
            mirror_embeddings=mirrored,
            held_out=np.array([name.startswith("val/") for name in files]),
        )


def _of_each(
    stored: Mapping[str, NDArray[np.generic]],
    name: str,
    shape: tuple[int, ...],
    scores: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """An array of teacher outputs, -1 for a side of any length; finite where there is a face."""
    values = stored[name]
    fits = values.ndim == len(shape) and all(
        wanted in (side, -1) for wanted, side in zip(shape, values.shape, strict=True)
    )
    if not fits or values.dtype.kind not in "fiu":
        sides = ", ".join("d" if side < 0 else str(side) for side in shape)
        raise ValueError(
            f"{name} of fairface_teacher.npz must be numbers of shape ({sides}), as files has; "
            f"got {values.dtype} {values.shape}"
        )
    numbers = values.astype(np.float32)
    finite = np.asarray(np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1))
    asked = np.ones(len(numbers), np.bool_) if scores is None else scores > 0
    if not finite[asked].all():
        row = int(np.flatnonzero(asked & ~finite)[0])
        raise ValueError(
            f"{name} of fairface_teacher.npz must be finite where a face is; row {row} is not"
        )
    return numbers
