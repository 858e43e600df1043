"""Faces in the surroundings of others, for photos that end next to the face.

Tight photos leave much of an aligned crop empty, of FairFace's a quarter in the median, where those
of most apps fill it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sfpose.training.asking import PhotoCrops
from sfpose.training.augmentation import mirror_matrices
from sfpose.training.faces import TaughtFaces
from sfpose.training.mixing import (
    Blends,
    Pairs,
    ask_about,
    draw_neighbours,
    faces_to_blend,
    maps_of_seconds,
)
from sfpose.training.teachers import Teacher

__all__ = ["make_surrounded"]

_GRID = 16
_TRIED = 16
_WHOLE = 0.97


def make_surrounded(
    faces: TaughtFaces,
    teacher: Teacher,
    count: int,
    cache: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    part: int = 256,
) -> Blends:
    """Put ``count`` faces into surroundings of others that are turned alike, and ask the teacher.

    Of 16 others the one that fills most is taken.

    Parameters
    ----------
    faces, teacher, cache, seed, device, part
        As for ``make_blends``.
    count : int
        Faces whose photos fill their crop already are not among them; others come again once all
        have come.

    Returns
    -------
    Blends
        The first one of each is the face, the second gives its surroundings.

    Raises
    ------
    ValueError
        If there are fewer than two faces, or the photos of all fill their crop.
    """
    rows, yaw = faces_to_blend(faces)
    order = np.argsort(np.abs(yaw), kind="stable")
    rows, mirrored = rows[order], yaw[order] < 0
    crops, flags = PhotoCrops(faces, torch.device("cpu")), torch.from_numpy(mirrored)
    magnified = maps_of_seconds(flags, torch.full((len(rows),), np.inf))
    seen, around = (
        (crops.inside(torch.from_numpy(rows), maps, _GRID) > 0).flatten(1).numpy()
        for maps in (mirror_matrices(flags), magnified)
    )
    lacking = np.flatnonzero(seen.mean(1) < _WHOLE)
    if not len(lacking):
        raise ValueError("surroundings need faces whose photos do not fill their crop; got none")
    draw = np.random.default_rng(seed)
    passes = -(-count // len(lacking))
    places = np.concatenate([draw.permutation(lacking) for _ in range(passes)])[:count]
    others = np.stack([draw_neighbours(places, len(rows), draw) for _ in range(_TRIED)])
    filled = [np.mean(seen[places] | around[each], axis=1) for each in others]
    chosen = np.stack([places, others[np.argmax(filled, axis=0), np.arange(count)]], 1)
    ones = np.ones(count, np.float32)
    pairs = Pairs(rows[chosen], mirrored[chosen], ones, np.inf * ones)
    return ask_about(pairs, faces, teacher, cache, device=device, part=part)
