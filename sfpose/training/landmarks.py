"""Teach FaceLandmarkNet from stored landmarks: any crop of a face, and what is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sfpose.geometry import LANDMARK_CROP_SCALE, similarity_to_canonical, widen_matrix
from sfpose.networks.facelandmarknet import FaceLandmarkNet
from sfpose.runtime.artifact import Artifact
from sfpose.training.augmentation import (
    GeometryJitter,
    compose,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    sample_images,
)
from sfpose.training.export import to_manifest, to_onnx
from sfpose.training.faces import TaughtFaces, pass_order
from sfpose.training.loop import LoopSettings, Stage, train

__all__ = [
    "LANDMARK_LOOP",
    "LandmarkObjective",
    "LandmarkSource",
    "face_size",
    "landmark_error",
    "train_landmarks",
]

LANDMARK_LOOP = LoopSettings(
    stages=(Stage(FaceLandmarkNet.input_size, 520_000, 64),),
    optimizer="muon",
    learning_rate=4e-3,
    weight_decay=1e-4,
    average=0.8,
)
"""The run that :func:`train_landmarks` does unless told otherwise."""

_MIRRORED = [1, 0, 2, 4, 3]
_MEAN, _STD = 0.5, 0.25


def face_size(landmarks: Tensor) -> Tensor:
    """Length by which landmark errors are divided, (n,) of landmarks (n, 5, 2).

    The larger of the distance between the eyes and the distance from between the
    eyes to between the mouth corners: the second does not vanish in profile.
    """
    eyes, mouth = landmarks[:, :2], landmarks[:, 3:]
    between_eyes = (eyes[:, 0] - eyes[:, 1]).norm(dim=1)
    down = (eyes.mean(1) - mouth.mean(1)).norm(dim=1)
    return torch.maximum(between_eyes, down)


def _crop_matrices(count: int, side: int) -> Tensor:
    """Crops a detector might give: any roll, tight to loose, off centre."""
    angle = torch.randn(count) * math.radians(13)
    wide = torch.rand(count) < 0.15
    angle = torch.where(wide, (torch.rand(count) * 2 - 1) * math.radians(50), angle)
    scale = side * torch.exp(torch.rand(count) * (math.log(1.75) - math.log(0.6)) + math.log(0.6))
    centre = side * (0.5 + 0.09 * torch.randn(count, 2))
    matrices = torch.zeros(count, 3, 3)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrices[:, 0, 0], matrices[:, 0, 1] = cosine, -sine
    matrices[:, 1, 0], matrices[:, 1, 1] = sine, cosine
    matrices[:, 2, 2] = 1
    matrices[:, :2, 2] = centre - (matrices[:, :2, :2] @ torch.full((count, 2, 1), 0.5))[..., 0]
    return matrices


def _refining_matrices(landmarks: NDArray[np.float32]) -> Tensor:
    """Crops as the second look sees them: aligned by a first, imperfect finding."""
    around = similarity_to_canonical(landmarks) @ widen_matrix(LANDMARK_CROP_SCALE)
    aligned = torch.from_numpy(around.astype(np.float32))
    jitter = GeometryJitter(turn=6, shift=0.04, log_scale=0.1, log_stretch=0.02)
    return compose(aligned, jitter_matrices(len(landmarks), jitter, device=aligned.device))


def _turn_into_non_faces(crops: Tensor) -> Tensor:
    """Upside-down, shuffled, magnified and flat pictures made of face crops."""
    side = crops.shape[-1]
    kinds = torch.randint(0, 5, (len(crops),))
    result = crops.clone()
    for index, kind in enumerate(kinds.tolist()):
        crop = crops[index]
        if kind == 0:
            result[index] = crop.flip(1)
        elif kind == 1:
            tiles = int(torch.randint(3, 6, ()))
            step = side // tiles
            order = torch.randperm(tiles * tiles)
            for to, origin in enumerate(order.tolist()):
                a, b = to // tiles * step, to % tiles * step
                c, d = origin // tiles * step, origin % tiles * step
                result[index, :, a : a + step, b : b + step] = crop[:, c : c + step, d : d + step]
        elif kind == 2:
            part = side // int(torch.randint(4, 7, ()))
            a, b = (int(torch.randint(0, 2, ())) * (side - part) for _ in range(2))
            patch = crop[None, :, a : a + part, b : b + part]
            result[index] = F.interpolate(patch, size=side, mode="bilinear", align_corners=False)[0]
        elif kind == 3:
            cells = int(2 ** torch.randint(0, 6, ()))
            texture = torch.rand(1, 1 if torch.rand(()) < 0.5 else 3, cells, cells)
            texture = F.interpolate(texture, size=side, mode="bilinear", align_corners=False)
            result[index] = (texture[0] - 0.5) * torch.rand(()) + torch.rand(3, 1, 1)
        else:
            turned = torch.rot90(crop, 2 if torch.rand(()) < 0.5 else 1, (1, 2))
            a, b = (int(torch.randint(side // 3, 2 * side // 3, ())) for _ in range(2))
            result[index] = turned.roll((a, b), (1, 2))
    return result.clamp(0, 1)


def landmark_error(predicted: Tensor, landmarks: Tensor) -> Tensor:
    """Mean distance of the five points over the face size, (n,)."""
    return (predicted - landmarks).norm(dim=2).mean(1) / face_size(landmarks)


def _to_crop(matrices: Tensor, points: Tensor) -> Tensor:
    inverse = torch.linalg.inv(matrices)
    return points @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]


class LandmarkSource:
    """Random crops of photos, two looks' worth, with landmarks; some made no faces.

    Targets are (n, 11): x and y of the five landmarks in the crop, then 1 for a face;
    the landmarks of what is no face are NaN.

    Parameters
    ----------
    faces : TaughtFaces
        Photos with landmarks; those held out are left out.
    non_faces : float, default=0.2
        Share of each batch made into something that is no face.
    turned : float, default=0.4
        Share of each batch drawn from the tenth of the photos whose eyes lie closest
        together for the height of the face: the most turned heads, which are rare.
    smallest_score : float, default=0.6
        Photos whose detector score is lower are left out.
    """

    def __init__(
        self,
        faces: TaughtFaces,
        *,
        non_faces: float = 0.2,
        turned: float = 0.4,
        smallest_score: float = 0.6,
    ) -> None:
        self._faces = faces
        self._non_faces = non_faces
        self._turned_share = turned
        self._rows = np.flatnonzero((faces.scores >= smallest_score) & ~faces.held_out)
        landmarks = faces.landmarks[self._rows]
        width = np.linalg.norm(landmarks[:, 0] - landmarks[:, 1], axis=1)
        height = np.linalg.norm(landmarks[:, :2].mean(1) - landmarks[:, 3:].mean(1), axis=1)
        closest = np.argsort(width / height)[: -(-len(self._rows) // 10)]
        self._turned = self._rows[np.sort(closest)]

    def __len__(self) -> int:
        """Number of photos in one pass."""
        return len(self._rows)

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Normalised crops (count, 3, size, size) and targets (count, 11)."""
        rows = self._rows[pass_order(len(self), seed, first, count)]
        replaced = torch.rand(count).numpy() < self._turned_share
        rows[replaced] = self._turned[pass_order(len(self._turned), seed, first, count)][replaced]
        landmarks = self._faces.landmarks[rows]
        first_looks = count * 2 // 3
        matrices = torch.cat(
            [
                _crop_matrices(first_looks, self._faces.photos.shape[1]),
                _refining_matrices(landmarks[first_looks:]),
            ]
        )
        flags = torch.rand(count) < 0.5
        matrices = compose(matrices, mirror_matrices(flags))
        padding = ("zeros", "border", "reflection")[int(torch.randint(0, 3, ()))]
        photos = torch.from_numpy(self._faces.photos[rows])
        crops = sample_images(photos, matrices, size, padding=padding, oversample=2)
        points = _to_crop(matrices, torch.from_numpy(landmarks))
        points[flags] = points[flags][:, _MIRRORED]
        targets = torch.cat([points.flatten(1), torch.ones(count, 1)], 1)
        others = int(self._non_faces * count)
        crops[:others] = _turn_into_non_faces(crops[:others])
        targets[:others, :10] = math.nan
        targets[:others, 10] = 0
        return (photometric_jitter(crops) - _MEAN) / _STD, targets


class LandmarkObjective(nn.Module):
    """Distance of landmarks over the face size, plus cross-entropy of the face score."""

    def forward(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and measurements; ``outputs`` and ``targets`` are (n, 11)."""
        is_face = targets[:, 10]
        faces = is_face > 0
        points = targets[faces, :10].view(-1, 5, 2)
        error = (outputs[faces, :10].view(-1, 5, 2) - points).abs().mean((1, 2))
        error = (error / face_size(points)).mean()
        loss = error + 0.1 * F.binary_cross_entropy_with_logits(outputs[:, 10], is_face)
        right = ((outputs[:, 10] > 0) == faces).float().mean()
        measured = {"loss": float(loss.detach()), "error": float(error.detach())}
        return loss, {**measured, "face_accuracy": float(right)}


def train_landmarks(
    faces: TaughtFaces,
    checkpoint: Path,
    *,
    settings: LoopSettings = LANDMARK_LOOP,
    stop_after_minutes: float | None = None,
    progress: bool = True,
) -> Artifact:
    """Train the landmark network and export it.

    Parameters
    ----------
    faces : TaughtFaces
    checkpoint : Path
        Resumed from if it is there, written every few minutes.
    settings : LoopSettings
    stop_after_minutes, progress
        See :func:`sfpose.training.loop.train`.

    Returns
    -------
    Artifact
    """
    torch.manual_seed(settings.seed)
    network = train(
        FaceLandmarkNet(),
        LandmarkObjective(),
        LandmarkSource(faces),
        settings,
        checkpoint=checkpoint,
        stop_after_minutes=stop_after_minutes,
        progress=progress,
    )
    size = FaceLandmarkNet.input_size
    manifest = to_manifest(
        name="landmarks",
        kind="landmarks",
        network="facelandmarknet",
        size=size,
        mean=[_MEAN] * 3,
        std=[_STD] * 3,
    )
    return Artifact(to_onnx(network, size), manifest)
