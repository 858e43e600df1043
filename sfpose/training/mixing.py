"""Faces that nobody has: blends of two photos, with what the teacher itself says of them.

A student that sees the same photos many times learns them by heart, those of heads turned to the
side first, as there are few of them. A blend of two aligned faces is a new face to student and
teacher alike, so with the teacher at hand there is no end to what can be shown (Beyer et al.,
"Knowledge distillation: a good teacher is patient and consistent", CVPR 2022, call this function
matching).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.pose import head_pose
from sfpose.training.asking import PhotoCrops, ask, digest
from sfpose.training.augmentation import mirror_matrices
from sfpose.training.faces import TaughtFaces
from sfpose.training.teachers import Teacher, both_looks

__all__ = ["Blends", "blended", "make_blends"]

_NEIGHBOURS = 150
_SEAM_WIDTH = 0.03


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
    seams : float32 array of shape (n,)
        Where, in heights of the crop below its upper end, the first one goes over into the second
        instead, at 0.4 to 0.65: eyes of the one, mouth of the other. NaN where both are seen
        everywhere.
    embeddings : float32 array of shape (n, d)
        Of the teacher, as :func:`~sfpose.training.teachers.both_looks` gives them.
    """

    rows: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    shares: NDArray[np.float32]
    seams: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def make_blends(
    faces: TaughtFaces,
    teacher: Teacher,
    count: int,
    cache: Path,
    *,
    least_yaw: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    part: int = 256,
) -> Blends:
    """Choose ``count`` blends of two faces that look the same way, and ask the teacher.

    Heads turned by any angle are as many, though photos have few that are turned far. Half of the
    blends show one face above a seam and the other one below it, half of them show both everywhere.
    What makes a blend is kept, not its pixels: those are drawn anew whenever it is shown.

    Parameters
    ----------
    faces : TaughtFaces
        Those held out, and those in which no face was found, are not blended. Aligned by their
        landmarks: give those that the student gets.
    teacher : Teacher
        The one that gave the stored embeddings; see
        :class:`~sfpose.training.teachers.OnnxTeacher`.
    count : int
    cache : Path
        Folder for what the teacher said. What an interrupted call has asked is kept.
    least_yaw : float, default=0.0
        Degrees to either side by which a head must be turned to be blended.
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
        If ``least_yaw`` is not between 0 and 90, or fewer than two faces can be blended.
    """
    if not 0 <= least_yaw < 90:
        raise ValueError(f"least_yaw must be from 0 to below 90 degrees; got {least_yaw}")
    usable = np.flatnonzero((faces.scores >= 0.6) & ~faces.held_out)
    yaw = head_pose(faces.landmarks[usable]).yaw
    enough = np.abs(yaw) >= least_yaw
    usable, yaw = usable[enough], yaw[enough]
    if len(usable) < 2:
        raise ValueError(f"blends need at least two faces to learn from; got {len(usable)}")
    # Neighbours in this order are turned alike, but for the side.
    order = np.argsort(np.abs(yaw), kind="stable")
    turned = np.abs(yaw)[order]
    draw = np.random.default_rng(seed)
    # The last few are far apart: drawn by degrees they would come again and again.
    most = np.quantile(turned, 0.99)
    place = np.searchsorted(turned, draw.uniform(turned[0], most, count))
    nearest = np.maximum(place - _NEIGHBOURS, 0)
    farthest = np.minimum(place + _NEIGHBOURS, len(order) - 1)
    other = draw.integers(nearest, farthest)
    other += other >= place  # anyone but itself
    chosen = order[np.stack([place, other], 1)]
    rows, mirrored = usable[chosen], yaw[chosen] < 0
    shares = draw.uniform(0.35, 0.65, count).astype(np.float32)
    seams = np.where(draw.random(count) < 0.5, draw.uniform(0.4, 0.65, count), np.nan)
    seams = seams.astype(np.float32)
    drawn = PhotoCrops(faces, torch.device(device))

    def crops(now: NDArray[np.int64]) -> Tensor:
        first, second = (
            drawn(rows[now, at], mirror_matrices(torch.from_numpy(mirrored[now, at])))
            for at in (0, 1)
        )
        how = (torch.from_numpy(each[now]).to(first.device) for each in (shares, seams))
        return blended(first, second, *how)

    shape = (count, 2, faces.embeddings.shape[1])
    # What is said of other blends, or of other landmarks, is another thing.
    by = digest(rows, mirrored, shares, seams, faces.landmarks)
    looks = ask(teacher, crops, cache / f"blends_{by}.npy", shape, part)
    return Blends(rows, mirrored, shares, seams, both_looks(looks[:, 0], looks[:, 1]))


def blended(first: Tensor, second: Tensor, shares: Tensor, seams: Tensor) -> Tensor:
    """Crops (n, 3, h, w) of two faces in one, by their ``shares`` and ``seams`` (n,)."""
    height = first.shape[2]
    below = (torch.arange(height, device=first.device) + 0.5) / height
    above_seam = torch.sigmoid((seams[:, None] - below) / _SEAM_WIDTH)
    given = torch.where(seams.isnan()[:, None], shares[:, None], above_seam)
    return torch.lerp(second, first, given[:, None, :, None])
