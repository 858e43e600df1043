"""Faces that nobody has: blends of two photos, with what the teacher itself says of them.

A student that sees the same photos many times learns them by heart. A blend of two
aligned faces is a new face to student and teacher alike, so with the teacher at hand
there is no end to what can be shown (Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent", CVPR 2022, call this function matching).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.pose import head_pose
from sfpose.training.asking import PhotoCrops, ask
from sfpose.training.augmentation import mirror_matrices
from sfpose.training.faces import TaughtFaces
from sfpose.training.teachers import Teacher, both_looks

__all__ = ["Blends", "blended", "make_blends"]

_NEIGHBOURS = 200


@dataclass(frozen=True)
class Blends:
    """Which two photos make each of n blends, and what the teacher says of it.

    Attributes
    ----------
    rows : int64 array of shape (n, 2)
        Photos of a :class:`~sfpose.training.faces.TaughtFaces`.
    mirrored : bool array of shape (n, 2)
        Whether each one is mirrored, so that both look to the image's right.
    shares : float32 array of shape (n,)
        What the first one gives, 0.35 to 0.65; the second gives the rest.
    embeddings : float32 array of shape (n, d)
        Of the teacher, as :func:`~sfpose.training.teachers.both_looks` gives them.
    """

    rows: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    shares: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def make_blends(
    faces: TaughtFaces,
    teacher: Teacher,
    count: int,
    cache: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    part: int = 256,
) -> Blends:
    """Choose ``count`` blends of two faces that look the same way, and ask the teacher.

    What makes a blend is kept, not its pixels: those are drawn anew whenever it is shown.

    Parameters
    ----------
    faces : TaughtFaces
        Those held out, and those in which no face was found, are not blended.
    teacher : Teacher
        The one that gave the stored embeddings; see
        :class:`~sfpose.training.teachers.OnnxTeacher`.
    count : int
    cache : Path
        Folder for what the teacher said. What an interrupted call has asked is kept.
    seed : int, default=0
    device : torch.device or str, default="cpu"
        Where blends are drawn for the teacher.
    part : int, default=256
        How many at a time.

    Returns
    -------
    Blends

    Raises
    ------
    ValueError
        If fewer than two faces can be blended.
    """
    usable = np.flatnonzero((faces.scores >= 0.6) & ~faces.held_out)
    if len(usable) < 2:
        raise ValueError(f"blends need at least two faces to learn from; got {len(usable)}")
    yaw = head_pose(faces.landmarks[usable]).yaw
    # Neighbours in this order are turned alike, but for the side.
    order = np.argsort(np.abs(yaw), kind="stable")
    draw = np.random.default_rng(seed)
    place = draw.integers(0, len(order), count)
    step = draw.integers(1, _NEIGHBOURS + 1, count) * draw.choice([-1, 1], count)
    other = np.clip(place + step, 0, len(order) - 1)
    chosen = order[np.stack([place, other], 1)]
    rows, mirrored = usable[chosen], yaw[chosen] < 0
    shares = draw.uniform(0.35, 0.65, count).astype(np.float32)
    drawn = PhotoCrops(faces, torch.device(device))

    def crops(now: NDArray[np.int64]) -> Tensor:
        first, second = (
            drawn(rows[now, at], mirror_matrices(torch.from_numpy(mirrored[now, at])))
            for at in (0, 1)
        )
        return blended(first, second, torch.from_numpy(shares[now]).to(first.device))

    shape = (count, 2, faces.embeddings.shape[1])
    # Named after their borders: earlier versions asked about others.
    looks = ask(teacher, crops, cache / f"blends_black_{seed}.npy", shape, part)
    return Blends(rows, mirrored, shares, both_looks(looks[:, 0], looks[:, 1]))


def blended(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """Crops (n, 3, h, w) to which the first ones give their ``shares`` (n,)."""
    return torch.lerp(second, first, shares.view(-1, 1, 1, 1))
