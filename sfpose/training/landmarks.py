"""Teach FaceLandmarkNet from stored landmarks: any crop of a face, and what is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.facelandmarknet import FaceLandmarkNet
from sfpose.geometry import LANDMARK_CROP_SCALE, similarity_to_canonical, widen_matrix
from sfpose.training.augmentation import (
    GeometryJitter,
    compose,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    sample_images,
)
from sfpose.training.faces import TaughtFaces
from sfpose.training.optimizers import build_optimizer

__all__ = ["LandmarkRecipe", "face_size", "landmark_error", "train_landmarks"]

_MIRRORED = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class LandmarkRecipe:
    """What a run of :func:`train_landmarks` does; the defaults gave the shipped file.

    ``non_faces`` is the share of each batch made into something that is no face.
    """

    minutes: float = 6.0
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    non_faces: float = 0.2
    smallest_score: float = 0.6
    seed: int = 0


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


def _refining_matrices(landmarks: np.ndarray) -> Tensor:
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


def train_landmarks(
    faces: TaughtFaces,
    recipe: LandmarkRecipe | None = None,
    *,
    start: dict[str, Tensor] | None = None,
    report: Callable[[str], None] = print,
) -> FaceLandmarkNet:
    """Train the landmark network for ``recipe.minutes`` on all cores torch may use.

    Parameters
    ----------
    faces : TaughtFaces
        Photos with landmarks; those held out only measure.
    recipe : LandmarkRecipe, optional
    start : dict of str to Tensor, optional
        State of the network to go on from.
    report : callable, default=print
        Called with a line of progress about every 20 seconds.

    Returns
    -------
    FaceLandmarkNet
        In evaluation mode.
    """
    recipe = recipe or LandmarkRecipe()
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    usable = faces.scores >= recipe.smallest_score
    rows = np.flatnonzero(usable & ~faces.held_out)
    network = FaceLandmarkNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        network.load_state_dict(start)
    optimizers = build_optimizer(
        "muon",
        network,
        nn.Identity(),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    side = faces.photos.shape[1]
    start = said = time.monotonic()
    step, recent = 0, []
    while (share := (time.monotonic() - start) / (60 * recipe.minutes)) < 1:
        factor = min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = recipe.learning_rate * factor
        batch = rng.choice(rows, recipe.batch_size, replace=False)
        photos = torch.from_numpy(faces.photos[batch])
        points = torch.from_numpy(faces.landmarks[batch])
        flags = torch.rand(len(batch)) < 0.5
        first_looks = recipe.batch_size * 2 // 3
        matrices = torch.cat(
            [
                _crop_matrices(first_looks, side),
                _refining_matrices(faces.landmarks[batch[first_looks:]]),
            ]
        )
        matrices = compose(matrices, mirror_matrices(flags))
        padding = ("zeros", "border", "reflection")[int(torch.randint(0, 3, ()))]
        crops = sample_images(photos, matrices, FaceLandmarkNet.input_size, padding=padding, oversample=2)
        target = _to_crop(matrices, points)
        target[flags] = target[flags][:, _MIRRORED]
        is_face = torch.ones(len(batch))
        others = int(recipe.non_faces * len(batch))
        crops[:others] = _turn_into_non_faces(crops[:others])
        is_face[:others] = 0
        crops = photometric_jitter(crops)
        output = network(((crops - 0.5) / 0.25).contiguous(memory_format=torch.channels_last))
        predicted = output[others:, :10].view(-1, 5, 2)
        error = (predicted - target[others:]).abs().mean((1, 2)) / face_size(target[others:])
        loss = error.mean() + 0.1 * F.binary_cross_entropy_with_logits(output[:, 10], is_face)
        network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        recent.append(float(error.detach().mean()))
        if time.monotonic() - said > 20:
            said = time.monotonic()
            report(f"{share:4.0%} step {step} L1 {np.mean(recent):.4f} of the face size")
            recent = []
    return network.eval()


def held_out_error(network: FaceLandmarkNet, faces: TaughtFaces, *, seed: int = 1) -> float:
    """Mean error over the face size on the held-out photos, randomly cropped."""
    torch.manual_seed(seed)
    rows = np.flatnonzero(faces.held_out & (faces.scores > 0))
    errors = []
    with torch.inference_mode():
        for batch in np.array_split(rows, max(1, len(rows) // 256)):
            matrices = _crop_matrices(len(batch), faces.photos.shape[1])
            photos = torch.from_numpy(faces.photos[batch])
            crops = sample_images(photos, matrices, FaceLandmarkNet.input_size, oversample=2)
            target = _to_crop(matrices, torch.from_numpy(faces.landmarks[batch]))
            output = network((crops - 0.5) / 0.25)[:, :10].view(-1, 5, 2)
            errors.append(landmark_error(output, target))
    return float(torch.cat(errors).mean())
