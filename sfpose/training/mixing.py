"""Faces that nobody has: blends of two photos, with what the teacher itself says of them.

A student that sees the same photos many times learns them by heart, those of heads turned to the
side first, as there are few of them. A blend of two aligned faces is a new face to student and
teacher alike, so with the teacher at hand there is no end to what can be shown (Beyer et al.,
"Knowledge distillation: a good teacher is patient and consistent", CVPR 2022, call this function
matching).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.geometry import widen_matrix
from sfpose.pose import head_pose
from sfpose.training.asking import PhotoCrops, ask, digest
from sfpose.training.augmentation import compose, mirror_matrices
from sfpose.training.faces import TaughtFaces
from sfpose.training.teachers import Teacher, both_looks

__all__ = [
    "Blends",
    "Pairs",
    "ask_about",
    "blended",
    "draw_neighbours",
    "faces_to_blend",
    "joined",
    "make_blends",
    "maps_of_seconds",
]

_NEIGHBOURS = 150
_SEAM_WIDTH = 0.03
_MAGNIFIED = 0.75


class Pairs(NamedTuple):
    """Which two photos make each of n blends, and how.

    Attributes
    ----------
    rows : int64 array of shape (n, 2)
        Photos of a ``TaughtFaces``.
    mirrored : bool array of shape (n, 2)
        Whether each one is mirrored, so that both look to the image's right.
    shares : float32 array of shape (n,)
        What the first one gives, 0.35 to 0.65; the second gives the rest.
    seams : float32 array of shape (n,)
        Where, in heights of the crop below its upper end, the first one goes over into the second
        instead, at 0.4 to 0.65: eyes of the one, mouth of the other. NaN where both are seen
        everywhere; infinite where the first one is seen alone as far as its photo reaches, and the
        second beyond (``sfpose.training.surroundings.make_surrounded``).
    """

    rows: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    shares: NDArray[np.float32]
    seams: NDArray[np.float32]


class Blends(NamedTuple):
    """Blends of two faces each, and what the teacher says of them.

    Attributes
    ----------
    pairs : Pairs
    embeddings : float32 array of shape (n, d)
        Of the teacher, as ``both_looks`` gives them.
    """

    pairs: Pairs
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
        ``OnnxTeacher``.
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
    usable, yaw = faces_to_blend(faces, least_yaw)
    # Neighbours in this order are turned alike, but for the side.
    order = np.argsort(np.abs(yaw), kind="stable")
    turned = np.abs(yaw)[order]
    draw = np.random.default_rng(seed)
    # The last few are far apart: drawn by degrees they would come again and again.
    most = np.quantile(turned, 0.99)
    place = np.searchsorted(turned, draw.uniform(turned[0], most, count))
    chosen = order[np.stack([place, draw_neighbours(place, len(order), draw)], 1)]
    shares = draw.uniform(0.35, 0.65, count).astype(np.float32)
    seams = np.where(draw.random(count) < 0.5, draw.uniform(0.4, 0.65, count), np.nan)
    pairs = Pairs(usable[chosen], yaw[chosen] < 0, shares, seams.astype(np.float32))
    return ask_about(pairs, faces, teacher, cache, device=device, part=part)


def faces_to_blend(
    faces: TaughtFaces, least_yaw: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the faces that are clearly seen and not held out, and their yaw in degrees.

    Raises
    ------
    ValueError
        If fewer than two are turned by ``least_yaw`` degrees or more.
    """
    rows = np.flatnonzero((faces.scores >= 0.6) & ~faces.held_out)
    yaw = head_pose(faces.landmarks[rows]).yaw
    enough = np.abs(yaw) >= least_yaw
    if enough.sum() < 2:
        raise ValueError(f"blends need at least two faces to learn from; got {enough.sum()}")
    return rows[enough], yaw[enough]


def draw_neighbours(
    places: NDArray[np.int64], length: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Another place in a row of this length for each one, at most 150 places away."""
    nearest = np.maximum(places - _NEIGHBOURS, 0)
    farthest = np.minimum(places + _NEIGHBOURS, length - 1)
    other = draw.integers(nearest, farthest)
    return other + (other >= places)


def ask_about(
    pairs: Pairs,
    faces: TaughtFaces,
    teacher: Teacher,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    part: int = 256,
) -> Blends:
    """Blends with what the teacher says of each; see ``make_blends``."""
    drawn = PhotoCrops(faces, torch.device(device))

    def crops(now: NDArray[np.int64]) -> Tensor:
        rows, mirrored, shares, seams = (torch.from_numpy(each[now]) for each in pairs)
        maps = mirror_matrices(mirrored[:, 0])
        first = drawn(rows[:, 0], maps)
        second = drawn(rows[:, 1], maps_of_seconds(mirrored[:, 1], seams))
        inside = drawn.inside(rows[:, 0], maps)
        return blended(first, second, shares.to(device), seams.to(device), inside)

    shape = (len(pairs.rows), 2, faces.embeddings.shape[1])
    # What is said of other blends, or of other landmarks, is another thing.
    by = digest(*pairs, faces.landmarks)
    looks = ask(teacher, crops, cache / f"blends_{by}.npy", shape, part)
    return Blends(pairs, both_looks(looks[:, 0], looks[:, 1]))


def maps_of_seconds(mirrored: Tensor, seams: Tensor) -> Tensor:
    """From the unit square of blends to what is seen of their second photos' crops, (n, 3, 3).

    Surroundings are magnified: in their own size they would end next to the face too.
    """
    magnified = torch.tensor(widen_matrix(_MAGNIFIED), dtype=torch.float32, device=seams.device)
    maps = mirror_matrices(mirrored)
    return torch.where(seams.isinf().view(-1, 1, 1), compose(maps, magnified), maps)


def blended(
    first: Tensor,
    second: Tensor,
    shares: Tensor,
    seams: Tensor,
    inside: Tensor,
    moved: Tensor | None = None,
) -> Tensor:
    """Crops (n, 3, h, w) of two faces in one, by their ``shares`` and ``seams`` (n,).

    ``inside`` (n, 1, h, w) says of the first ones how far inside of their photos they lie, as
    ``inside_photos`` does. ``moved`` (n, 3, 3) are the maps from these crops to those that the
    seams are of, so that a seam moves with the faces; none, if they are the same.
    """
    height, width = first.shape[2:]
    if moved is None:
        moved = torch.eye(3, device=first.device).expand(len(first), 3, 3)
    down, across = (
        (torch.arange(side, device=first.device) + 0.5) / side for side in (height, width)
    )
    slope, scale, shift = moved[:, 1, :, None, None].unbind(1)
    below = slope * across + scale * down[:, None] + shift
    above_seam = torch.sigmoid((seams[:, None, None] - below) / _SEAM_WIDTH)[:, None]
    given = torch.where(seams.isnan().view(-1, 1, 1, 1), shares.view(-1, 1, 1, 1), above_seam)
    given = torch.where(seams.isinf().view(-1, 1, 1, 1), inside, given)
    return torch.lerp(second, first, given)


def joined(parts: Sequence[Blends]) -> Blends:
    """All blends of several."""
    pairs = zip(*(part.pairs for part in parts), strict=True)
    return Blends(
        Pairs(*(np.concatenate(each) for each in pairs)),
        np.concatenate([part.embeddings for part in parts]),
    )
