"""Distillation: a student that answers as a teacher's stored embeddings do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.geometry import similarity_to_canonical
from sfpose.networks.registry import IMAGENET_MEAN, IMAGENET_STD
from sfpose.pose import head_cameras, head_pose
from sfpose.training.augmentation import (
    GeometryJitter,
    compose,
    inside_photos,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    round_at_random,
    sample_images,
)
from sfpose.training.faces import PhotoStore, TaughtFaces, known_matrices, pass_order
from sfpose.training.mixing import Blends, blended, maps_of_seconds
from sfpose.training.teachers import both_looks, unit_rows
from sfpose.training.turning import FaceTurner

__all__ = ["TaughtFaceSource", "normalise_images", "teacher_targets"]


_JITTER = GeometryJitter(turn=6, shift=0.025, log_scale=0.06, log_stretch=0.04)


def normalise_images(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Images (n, 3, h, w) with values 0 to 1, less a mean and divided by a deviation a channel."""
    less, by = (torch.tensor(each, device=images.device).view(1, 3, 1, 1) for each in (mean, std))
    return (images - less) / by


def teacher_targets(faces: TaughtFaces, blends: Blends | None = None) -> NDArray[np.float32]:
    """What the student has to find: the teacher's mean of image and mirror.

    Centred on the mean of the photos in which a face was found: what all of them share, such as
    black where tight ones end, says nothing of a person, and would bring strangers on such photos
    nearer to each other. Faces in other surroundings share something else, so theirs are centred
    on that mean and how far, on average, the teacher's answer moved from that to their photos.

    Returns
    -------
    float32 array of shape (n, d)
        Rows of length 1: all faces, then all blends.
    """
    looks = both_looks(faces.embeddings, faces.mirror_embeddings)
    centre = looks[faces.scores > 0].mean(0)
    if blends is not None:
        filled = np.isinf(blends.pairs.seams)
        answers = blends.embeddings.copy()
        if filled.any():
            answers[filled] -= (answers - looks[blends.pairs.rows[:, 0]])[filled].mean(0)
        looks = np.concatenate([looks, answers])
    return unit_rows(looks - centre)


class TaughtFaceSource:
    """Augmented, aligned crops of photos and the rows of their teacher embeddings.

    Parameters
    ----------
    faces : TaughtFaces
    landmarks : array of shape (n, 5, 2), optional
        By which to align and to turn; those of ``faces`` if not given. Give the landmarks that
        the shipped landmark network finds, so that the student learns its errors.
    jitter : float, default=1.0
        How far crops move about their aligned place: 1 turns them by 6 degrees in standard
        deviation and shifts them by 2.5 % of their side.
    light : float, default=1.0
        Strength of ``photometric_jitter``.
    smallest_score : float, default=0.5
        Photos whose detector score is lower are left out.
    blends : Blends, optional
        Shown beside the photos, each time one drawn at random.
    blend_share : float, default=0.5
        Share of the images that are blends, if there are any.
    turner : FaceTurner, optional
        Draws some faces turned to the side, under the embedding of the photo as it is,
        so that the student learns of profiles what the teacher does not know.
    turned_share : float, default=0.3
        Share of the faces within 30 degrees of frontal that are turned. Blends are not.
    device : torch.device or str, default="cpu"
        Where images are drawn. A GPU keeps all photos in its memory.

    Raises
    ------
    ValueError
        If ``jitter`` or ``light`` is below 0, or a share not between 0 and 1.
    """

    def __init__(
        self,
        faces: TaughtFaces,
        landmarks: NDArray[np.float32] | None = None,
        *,
        jitter: float = 1.0,
        light: float = 1.0,
        smallest_score: float = 0.5,
        blends: Blends | None = None,
        blend_share: float = 0.5,
        turner: FaceTurner | None = None,
        turned_share: float = 0.3,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, strength in (("jitter", jitter), ("light", light)):
            if not strength >= 0:
                raise ValueError(f"{name} must be at least 0; got {strength}")
        for name, share in (("turned_share", turned_share), ("blend_share", blend_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1; got {share}")
        usable = (faces.scores >= smallest_score) & ~faces.held_out
        self.rows = np.flatnonzero(usable)
        targets = teacher_targets(faces, blends)
        self.bank = torch.from_numpy(np.concatenate([targets[self.rows], targets[len(usable) :]]))
        self._device = torch.device(device)
        self._photos = PhotoStore(faces.photos, self._device)
        points = faces.landmarks if landmarks is None else landmarks
        self._to_photo = known_matrices(
            similarity_to_canonical, points, faces.scores > 0, self._device
        )
        self._photo_rows = torch.from_numpy(self.rows).to(self._device)
        self._jitter = GeometryJitter(*(jitter * spread for spread in _JITTER))
        self._light = light
        self._blend_share = 0.0 if blends is None else blend_share
        if blends is not None:
            self._pairs, self._mirrored, self._shares, self._seams = (
                torch.from_numpy(each).to(self._device) for each in blends.pairs
            )
        self._turner = turner
        self._turned_share = turned_share
        if turner is not None:
            self._cameras = known_matrices(head_cameras, points, usable, self._device)
            frontal = np.zeros(len(usable), bool)
            frontal[self.rows] = np.abs(head_pose(points[self.rows]).yaw) < 30
            self._frontal = torch.from_numpy(frontal).to(self._device)

    def __len__(self) -> int:
        """Number of photos in one pass, which blends are not counted in."""
        return len(self.rows)

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Normalised crops (count, 3, size, size) and rows of ``bank`` (count,)."""
        device = self._device
        targets = torch.from_numpy(pass_order(len(self), seed, first, count)).to(device)
        # The first ones of a batch: its order says nothing.
        mixed = round_at_random(self._blend_share * count)
        rows = self._photo_rows[targets]
        mirrored = torch.zeros(count, dtype=torch.bool, device=device)
        if mixed:
            drawn = torch.randint(len(self._pairs), (mixed,), device=device)
            targets[:mixed] = len(self) + drawn
            rows[:mixed] = self._pairs[drawn, 0]
            mirrored[:mixed] = self._mirrored[drawn, 0]
        flags = torch.rand(count, device=device) < 0.5
        moved = compose(jitter_matrices(count, self._jitter, device=device), mirror_matrices(flags))
        padding = "zeros" if torch.rand(()) < 0.5 else "reflection"

        def look(rows: Tensor, matrices: Tensor) -> Tensor:
            photos = self._photos.take(rows)
            oversample = 2 if size < 80 else 1
            return sample_images(photos, matrices, size, padding=padding, oversample=oversample)

        matrices = compose(self._to_photo[rows], compose(mirror_matrices(mirrored), moved))
        crops = look(rows, matrices)
        if mixed:
            others, seams = self._pairs[drawn, 1], self._seams[drawn]
            maps = compose(maps_of_seconds(self._mirrored[drawn, 1], seams), moved[:mixed])
            second = look(others, compose(self._to_photo[others], maps))
            inside = inside_photos(matrices[:mixed], self._photos.shape, size)
            shares = self._shares[drawn]
            crops[:mixed] = blended(crops[:mixed], second, shares, seams, inside, moved[:mixed])
        if self._turner is not None:
            turned = self._frontal[rows] & (torch.rand(count, device=device) < self._turned_share)
            turned[:mixed] = False
            places = torch.nonzero(turned)[:, 0]
            if len(places):
                photos = self._photos.take(rows[places])
                faces = self._turner.turn(photos, self._cameras[rows[places]], padding=padding)
                crops[places] = faces.seen_through(moved[places], size)
        return normalise_images(photometric_jitter(crops, strength=self._light)), targets
