"""Faces that nobody has: blends of two photos, with what the teacher itself says of them.

A student that sees the same photos many times learns them by heart. A blend of two
aligned faces is a new face to student and teacher alike, so with the teacher at hand
there is no end to what can be shown (Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent", CVPR 2022, call this function matching).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfpose.geometry import similarity_to_canonical, widen_matrix
from sfpose.pose import head_pose
from sfpose.training.augmentation import (
    MIRRORED_LANDMARKS,
    compose,
    mirror_matrices,
    points_in_crop,
    sample_images,
)
from sfpose.training.faces import TaughtFaces

__all__ = ["Teacher", "mix_faces", "onnx_teacher"]

Teacher = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Embeddings (n, d) of aligned crops (n, 112, 112, 3), uint8 RGB."""

_TEACHER_SIZE = 112
_MARGIN = 1.3
_NEIGHBOURS = 200
_PART = 64


def onnx_teacher(path: str | Path, *, threads: int = 2) -> Teacher:
    """A teacher from an ONNX file that takes one aligned face at a time, as SFace does.

    Parameters
    ----------
    path : str or Path
        Takes float32 (1, 3, 112, 112), RGB, values 0 to 255; gives (1, d).
    threads : int, default=2
        Faces embedded at the same time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        planes = crops.transpose(0, 3, 1, 2)[:, None].astype(np.float32)
        with ThreadPoolExecutor(threads) as pool:
            rows = pool.map(lambda plane: session.run(None, {name: plane})[0][0], planes)
            return np.stack(list(rows)).astype(np.float32)

    return embed


def mix_faces(
    faces: TaughtFaces, teacher: Teacher, count: int, cache: Path, *, seed: int = 0
) -> TaughtFaces:
    """Training faces and ``count`` blends of two of them at a time.

    Both faces of a blend look the same way, one of them mirrored where it takes that,
    and each gives 35 to 65 percent.

    Parameters
    ----------
    faces : TaughtFaces
        Those held out, and those in which no face was found, are not blended.
    teacher : Teacher
        See :func:`onnx_teacher`; the one that gave the stored embeddings.
    count : int
    cache : Path
        Folder for the blends, about 50 kB each, and for what the teacher said of
        them. Blends that an interrupted call finished are kept.
    seed : int, default=0

    Returns
    -------
    TaughtFaces
        The faces as given, then the blends, as photos with landmarks of their own.
    """
    side, dims = faces.photos.shape[1], faces.embeddings.shape[1]
    cache.mkdir(parents=True, exist_ok=True)
    photos = _open(cache / f"mixed_photos_{seed}.npy", np.uint8, (count, side, side, 3))
    landmarks = _open(cache / f"mixed_landmarks_{seed}.npy", np.float32, (count, 5, 2))
    rows = _open(cache / f"mixed_embeddings_{seed}.npy", np.float32, (count, dims))
    pairs = _Pairs(faces, seed)
    for first in range(0, count, _PART):
        part = slice(first, min(first + _PART, count))
        if rows[part].any(1).all():
            continue
        photos[part], landmarks[part], crops = pairs.blend(first, part.stop - first)
        # Last, because a row that is not zero says that all of the blend is there.
        rows[part] = teacher(crops)
    return replace(
        faces,
        photos=np.concatenate([faces.photos, photos]),
        landmarks=np.concatenate([faces.landmarks, landmarks]),
        scores=np.concatenate([faces.scores, np.ones(count, np.float32)]),
        embeddings=np.concatenate([faces.embeddings, rows]),
        mirror_embeddings=np.concatenate([faces.mirror_embeddings, rows]),
        held_out=np.concatenate([faces.held_out, np.zeros(count, bool)]),
    )


def _open(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    if path.exists():
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape == shape:
            return array
        raise ValueError(f"{path} must hold blends of shape {shape}; it has {array.shape}")
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


class _Pairs:
    """Draws pairs of faces that look the same way and blends them."""

    def __init__(self, faces: TaughtFaces, seed: int) -> None:
        self._faces = faces
        self._seed = seed
        usable = np.flatnonzero((faces.scores >= 0.6) & ~faces.held_out)
        self._yaw = np.zeros(len(faces.scores))
        self._yaw[usable] = head_pose(faces.landmarks[usable]).yaw
        self._order = usable[np.argsort(np.abs(self._yaw[usable]), kind="stable")]

    def blend(
        self, first: int, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
        """Photos, their landmarks and the teacher's crops of blends ``first`` and on."""
        draw = np.random.default_rng((self._seed, first))
        place = draw.integers(0, len(self._order), count)
        step = draw.integers(1, _NEIGHBOURS + 1, count) * draw.choice([-1, 1], count)
        other = np.clip(place + step, 0, len(self._order) - 1)
        share = draw.uniform(0.35, 0.65, count)
        side = self._faces.photos.shape[1]
        total, points = np.zeros((count, side, side, 3)), np.zeros((count, 5, 2))
        for rows, weight in ((self._order[place], share), (self._order[other], 1 - share)):
            drawn, found = self._aligned(rows, side)
            total += weight[:, None, None, None] * drawn
            points += weight[:, None, None] * found
        photos = np.rint(total).clip(0, 255).astype(np.uint8)
        inner = torch.from_numpy(np.linalg.inv(widen_matrix(_MARGIN)).astype(np.float32))
        to_pixels = torch.diag(torch.tensor([side, side, 1.0])) @ inner
        crops = sample_images(
            torch.from_numpy(photos), to_pixels.repeat(count, 1, 1), _TEACHER_SIZE
        )
        teacher_crops = (255 * crops).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return photos, points.astype(np.float32), teacher_crops.contiguous().numpy()

    def _aligned(
        self, rows: NDArray[np.int64], side: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Faces about their canonical place, looking to the image's right, and landmarks."""
        landmarks = self._faces.landmarks[rows].astype(np.float64)
        around = similarity_to_canonical(landmarks) @ widen_matrix(_MARGIN)
        mirrored = self._yaw[rows] < 0
        mirror = mirror_matrices(torch.from_numpy(mirrored))
        matrices = compose(torch.from_numpy(around.astype(np.float32)), mirror)
        photos = torch.from_numpy(self._faces.photos[rows])
        drawn = sample_images(photos, matrices, side, padding="reflection")
        points = points_in_crop(matrices.double(), torch.from_numpy(landmarks)).numpy()
        points[mirrored] = points[mirrored][:, MIRRORED_LANDMARKS]
        levels: NDArray[np.float64] = 255 * drawn.permute(0, 2, 3, 1).double().numpy()
        return levels, side * points
