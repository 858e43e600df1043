"""What a teacher says of crops of photos: asked once, and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.geometry import similarity_to_canonical, widen_matrix
from sfpose.training.augmentation import compose, inside_photos, sample_images
from sfpose.training.faces import PhotoStore, TaughtFaces, known_matrices
from sfpose.training.teachers import TEACHER_SIZE, Teacher, each_look, unit_rows

__all__ = ["PhotoCrops", "ask", "ask_at_zooms", "digest"]


class PhotoCrops:
    """Draws photos as the teacher saw them; nothing is moved to the device before the first.

    Black where a photo ends: of faces whose surroundings are cut off so, what SFace says is nearer
    to what it says of the whole than where they are filled, by reflection or otherwise.

    Parameters
    ----------
    faces : TaughtFaces
    device : torch.device
    """

    def __init__(self, faces: TaughtFaces, device: torch.device) -> None:
        self._faces, self._device = faces, device

    @cached_property
    def _photos(self) -> PhotoStore:
        return PhotoStore(self._faces.photos, self._device)

    @cached_property
    def _to_photo(self) -> Tensor:
        faces = self._faces
        known = faces.scores > 0
        return known_matrices(similarity_to_canonical, faces.landmarks, known, self._device)

    def __call__(self, rows: Tensor, inner: Tensor) -> Tensor:
        """Crops (n, 3, 112, 112) of photos by their rows (n,).

        ``inner`` maps the unit square to what is seen of the canonical crop: (n, 3, 3), or
        (3, 3) for all.
        """
        photos = self._photos.take(rows.to(self._device))
        return sample_images(photos, self._matrices(rows, inner), TEACHER_SIZE)

    def inside(self, rows: Tensor, inner: Tensor, size: int = TEACHER_SIZE) -> Tensor:
        """How far inside of their photos these crops lie, (n, 1, size, size)."""
        shape = self._faces.photos.shape[1:3]
        return inside_photos(self._matrices(rows, inner), shape, size)

    def _matrices(self, rows: Tensor, inner: Tensor) -> Tensor:
        return compose(self._to_photo[rows.to(self._device)], inner.to(self._device))


def ask(
    teacher: Teacher,
    crops: Callable[[NDArray[np.int64]], Tensor],
    path: Path,
    shape: tuple[int, ...],
    part: int = 256,
) -> NDArray[np.float32]:
    """Embeddings (n, 2, d) of crops by their number and of their mirror images.

    What ``path`` holds already is not asked again.

    Raises
    ------
    ValueError
        If ``path`` holds embeddings of another shape or kind, or is damaged.
    """
    from tqdm import tqdm

    kept = _open(path, shape)
    left = np.flatnonzero(~kept.any((1, 2)))
    with tqdm(total=len(left), desc="asking the teacher", unit="face", disable=None) as bar:
        for first in range(0, len(left), part):
            now = left[first : first + part]
            kept[now] = np.stack(each_look(teacher, crops(now)), 1)
            bar.update(len(now))
    return np.asarray(kept)


def digest(*arrays: NDArray[Any]) -> str:
    """Sixteen hexadecimal digits that tell other arrays apart, for the names of files."""
    found = sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap:
    if path.exists():
        # Looked at first: opened to write, a file that is cut off would be filled up with zeros.
        try:
            if not path.is_file():
                raise ValueError("it is no ordinary file")
            kept = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path} must be a whole .npy file; {error}") from error
        if kept.shape != shape or kept.dtype != np.float32:
            raise ValueError(
                f"{path} must hold embeddings of shape {shape} in float32; "
                f"it has {kept.dtype} of {kept.shape}"
            )
        return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def ask_at_zooms(
    faces: TaughtFaces,
    landmarks: NDArray[np.float32] | None,
    teacher: Teacher,
    zooms: Sequence[float],
    cache: Path,
    *,
    device: torch.device | str = "cpu",
) -> TaughtFaces:
    """Put the mean of what a teacher says of each face at several zooms in the place of one.

    A teacher errs otherwise at each zoom: of CFP people 001 to 100, frontal against profile, SFace
    has an EER of 5.27 % at its own zoom and of 4.93 % with the mean of 0.92, 1 and 1.09 of it
    (``benchmarks/teacher_zooms.py``).

    Parameters
    ----------
    faces : TaughtFaces
    landmarks : float32 array of shape (n, 5, 2) or None
        By which faces are aligned for the teacher; the stored ones if None.
    teacher : Teacher
        The one that gave the stored embeddings, which count as one zoom more.
    zooms : sequence of float
        Sides of the crops over the canonical crop's, each above 0.
    cache : Path
        Folder for what the teacher said. What an interrupted call has asked is kept.
    device : torch.device or str, default="cpu"
        Where crops are drawn.

    Returns
    -------
    TaughtFaces
        ``faces`` with other embeddings, each the mean of rows of length 1.

    Raises
    ------
    ValueError
        If a zoom is not above 0 and finite.
    """
    if not all(0 < zoom < np.inf for zoom in zooms):
        raise ValueError(f"zooms must be above 0 and finite; got {list(zooms)}")
    points = faces.landmarks if landmarks is None else landmarks
    drawn = PhotoCrops(replace(faces, landmarks=points), torch.device(device))
    known = np.flatnonzero(faces.scores > 0)
    # What is said of other landmarks is another thing.
    by = digest(points)
    looks = np.stack([faces.embeddings, faces.mirror_embeddings], axis=1)
    said = unit_rows(looks[known])
    for zoom in zooms:
        wider = torch.from_numpy(widen_matrix(zoom).astype(np.float32))

        def crops(now: NDArray[np.int64], wider: Tensor = wider) -> Tensor:
            return drawn(torch.from_numpy(known[now]), wider)

        said += unit_rows(
            ask(teacher, crops, cache / f"photos_black_{by}_{zoom:g}.npy", said.shape)
        )
    taught = np.zeros_like(looks)
    taught[known] = said / (1 + len(zooms))
    return replace(faces, embeddings=taught[:, 0], mirror_embeddings=taught[:, 1])
