"""Distillation: a student that answers as a teacher's stored embeddings do."""

from __future__ import annotations

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
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    sample_images,
)
from sfpose.training.faces import TaughtFaces, pass_order
from sfpose.training.turning import FaceTurner

__all__ = ["TaughtFaceSource", "both_looks", "normalise_images", "teacher_targets"]


_JITTER = GeometryJitter(turn=6, shift=0.025, log_scale=0.06, log_stretch=0.04)


def normalise_images(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) with values 0 to 1, standardised as on ImageNet."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def teacher_targets(faces: TaughtFaces) -> NDArray[np.float32]:
    """What the student has to find: the teacher's mean of image and mirror.

    Returns
    -------
    float32 array of shape (n, d)
        Centred on the mean of all faces, rows of length 1.
    """
    both = both_looks(faces.embeddings, faces.mirror_embeddings)
    return _unit(both - both[faces.scores > 0].mean(0)).astype(np.float32)


def both_looks(
    embeddings: NDArray[np.float32], mirror_embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum of a teacher's embeddings (n, d) of images and of their mirrors, each of length 1."""
    return _unit(embeddings) + _unit(mirror_embeddings)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)


class TaughtFaceSource:
    """Augmented, aligned crops of photos and the rows of their teacher embeddings.

    Parameters
    ----------
    faces : TaughtFaces
    landmarks : array of shape (n, 5, 2), optional
        By which to align; those of ``faces`` if not given. Give the landmarks that
        the shipped landmark network finds, so that the student learns its errors.
    jitter : GeometryJitter
        Spread of the crop about its aligned place.
    light : float, default=1.0
        Strength of :func:`photometric_jitter`.
    smallest_score : float, default=0.5
        Photos whose detector score is lower are left out.
    turner : FaceTurner, optional
        Draws some faces turned to the side, under the embedding of the photo as it is,
        so that the student learns of profiles what the teacher does not know.
    turned_share : float, default=0.3
        Share of the faces within 30 degrees of frontal that are turned.

    Raises
    ------
    ValueError
        If ``light`` is below 0, or ``turned_share`` not between 0 and 1.
    """

    def __init__(
        self,
        faces: TaughtFaces,
        landmarks: NDArray[np.float32] | None = None,
        *,
        jitter: GeometryJitter = _JITTER,
        light: float = 1.0,
        smallest_score: float = 0.5,
        turner: FaceTurner | None = None,
        turned_share: float = 0.3,
    ) -> None:
        if not light >= 0:
            raise ValueError(f"light must be at least 0; got {light}")
        if not 0 <= turned_share <= 1:
            raise ValueError(f"turned_share must be between 0 and 1; got {turned_share}")
        usable = (faces.scores >= smallest_score) & ~faces.held_out
        self.rows = np.flatnonzero(usable)
        self.bank = torch.from_numpy(teacher_targets(faces)[self.rows])
        points = faces.landmarks if landmarks is None else landmarks
        self._photos = faces.photos
        self._to_photo = torch.from_numpy(
            similarity_to_canonical(points[self.rows]).astype(np.float32)
        )
        self._jitter = jitter
        self._light = light
        self._turner = turner
        self._turned_share = turned_share
        if turner is not None:
            known = faces.landmarks[self.rows]
            self._cameras = torch.from_numpy(head_cameras(known).astype(np.float32))
            self._frontal = torch.from_numpy(np.abs(head_pose(known).yaw) < 30)

    def __len__(self) -> int:
        """Number of photos in one pass."""
        return len(self.rows)

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Normalised crops (count, 3, size, size) and rows of ``bank`` (count,)."""
        chosen = pass_order(len(self), seed, first, count)
        photos = torch.from_numpy(self._photos[self.rows[chosen]])
        targets = torch.from_numpy(chosen)
        device = photos.device
        flags = torch.rand(count, device=device) < 0.5
        inner = compose(jitter_matrices(count, self._jitter, device=device), mirror_matrices(flags))
        matrices = compose(self._to_photo[targets], inner)
        padding = "zeros" if torch.rand(()) < 0.5 else "reflection"
        crops = sample_images(
            photos, matrices, size, padding=padding, oversample=2 if size < 80 else 1
        )
        if self._turner is not None:
            turned = self._frontal[targets] & (torch.rand(count) < self._turned_share)
            if turned.any():
                drawn = self._turner.turn(photos[turned], self._cameras[targets[turned]])
                crops[turned] = drawn.seen_through(inner[turned], size)
        return normalise_images(photometric_jitter(crops, strength=self._light)), targets
