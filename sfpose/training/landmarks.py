"""Teach FaceLandmarkNet from stored landmarks: any crop of a face, and what is none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sfpose.alignment import FaceAligner
from sfpose.geometry import (
    LANDMARK_CROP_SCALE,
    MIRRORED_LANDMARKS,
    similarity_to_canonical,
    widen_matrix,
)
from sfpose.networks.facelandmarknet import FaceLandmarkNet
from sfpose.pose import head_cameras, head_pose
from sfpose.runtime.artifact import Artifact, read_artifact
from sfpose.runtime.files import whole_file
from sfpose.training.asking import digest
from sfpose.training.augmentation import (
    GeometryJitter,
    compose,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    points_in_crop,
    sample_images,
)
from sfpose.training.checkpoints import taught_facts
from sfpose.training.export import (
    stored_parameters,
    take_common_layers,
    to_manifest,
    to_onnx,
)
from sfpose.training.faces import TaughtFaces, pass_order
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.non_faces import turn_into_non_faces
from sfpose.training.turning import FaceTurner

__all__ = [
    "LANDMARK_LOOP",
    "MIN_FACE_SCORE",
    "LandmarkObjective",
    "LandmarkSource",
    "face_size",
    "find_own_landmarks",
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
"""The run that ``train_landmarks`` does unless told otherwise."""

MIN_FACE_SCORE = 0.76
"""Score below which the shipped network calls a crop no face: as many changed profiles lie below
it as pictures of no face above, seven in a thousand of either (docs/training-log.md, run 29)."""

_FINDING = 2
"""To be raised when ``LandmarkFinder`` finds other landmarks with the same
network, so that what was found before is not taken for what would be found now."""

_MEAN, _STD = 0.5, 0.25
_SECOND_LOOK = GeometryJitter(turn=6, shift=0.04, log_scale=0.1, log_stretch=0.02)


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
    return compose(aligned, jitter_matrices(len(landmarks), _SECOND_LOOK, device=aligned.device))


def landmark_error(predicted: Tensor, landmarks: Tensor) -> Tensor:
    """Mean distance of the five points over the face size, (n,)."""
    return (predicted - landmarks).norm(dim=2).mean(1) / face_size(landmarks)


class LandmarkSource:
    """Random crops of photos, two looks' worth, with landmarks; some made no faces.

    Targets are (n, 11): x and y of the five landmarks in the crop, then 1 for a face;
    the landmarks of what is no face are NaN.

    Parameters
    ----------
    faces : TaughtFaces
        Photos with landmarks; those held out are left out.
    non_faces : float, default=0.3
        Share of each batch made into something that is no face.
    turned : float, default=0.4
        Share of each batch drawn from the tenth of the photos whose eyes lie closest
        together for the height of the face: the most turned heads, which are rare.
    smallest_score : float, default=0.6
        Photos whose detector score is lower are left out.
    turner : FaceTurner, optional
        Draws half of the second looks at faces within 30 degrees of frontal turned to
        the side, where the landmarks are known and not a detector's guess. Its margin
        must be ``LANDMARK_CROP_SCALE``.
    """

    def __init__(
        self,
        faces: TaughtFaces,
        *,
        non_faces: float = 0.3,
        turned: float = 0.4,
        smallest_score: float = 0.6,
        turner: FaceTurner | None = None,
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
        self._turner = turner
        if turner is not None:
            self._frontal = np.zeros(len(faces.scores), bool)
            self._frontal[self._rows] = np.abs(head_pose(landmarks).yaw) < 30

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
        points = points_in_crop(matrices, torch.from_numpy(landmarks))
        if self._turner is not None:
            frontal = torch.from_numpy(self._frontal[rows]) & (torch.arange(count) >= first_looks)
            drawn = torch.nonzero(frontal & (torch.rand(count) < 0.5))[:, 0]
            if len(drawn):
                known = landmarks[drawn.numpy()]
                crops[drawn], points[drawn] = self._turned_faces(
                    self._turner, photos[drawn], known, flags[drawn], size
                )
        points[flags] = points[flags][:, MIRRORED_LANDMARKS]
        targets = torch.cat([points.flatten(1), torch.ones(count, 1)], 1)
        others = int(self._non_faces * count)
        # Of first and second looks alike: what is drawn, not where, makes it no face.
        chosen = torch.randperm(count)[:others]
        crops[chosen] = turn_into_non_faces(crops[chosen])
        targets[chosen, :10] = math.nan
        targets[chosen, 10] = 0
        return (photometric_jitter(crops) - _MEAN) / _STD, targets

    @staticmethod
    def _turned_faces(
        turner: FaceTurner,
        photos: Tensor,
        landmarks: NDArray[np.float32],
        mirrored: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Second looks at faces turned to the side: crops, and landmarks before mirroring."""
        cameras = torch.from_numpy(head_cameras(landmarks).astype(np.float32))
        turned = turner.turn(photos, cameras)
        jitter = jitter_matrices(len(photos), _SECOND_LOOK, device=photos.device)
        inner = compose(jitter, mirror_matrices(mirrored))
        return turned.seen_through(inner, size), points_in_crop(inner, turned.landmarks)


class LandmarkObjective(nn.Module):
    """Distance of landmarks over the face size, plus cross-entropy of the face score."""

    def forward(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and measurements; ``outputs`` and ``targets`` are (n, 11)."""
        is_face = targets[:, 10]
        faces = is_face > 0
        points = targets[faces, :10].view(-1, 5, 2)
        error = (outputs[faces, :10].view(-1, 5, 2) - points).abs().mean((1, 2))
        error = (error / face_size(points)).mean()
        loss = error + 0.2 * F.binary_cross_entropy_with_logits(outputs[:, 10], is_face)
        right = ((outputs[:, 10] > 0) == faces).float().mean()
        measured = {"loss": float(loss.detach()), "error": float(error.detach())}
        return loss, {**measured, "face_accuracy": float(right)}


def _start_network(start: str | Path | None) -> FaceLandmarkNet:
    """A network at random, or with the layers of an artifact that have its shapes."""
    if start is None:
        return FaceLandmarkNet()
    # Without batch normalisation, which was folded away.
    network = FaceLandmarkNet(batch_norm=False)
    left = take_common_layers(network, stored_parameters(read_artifact(start)))
    if len(left) == len(list(network.parameters())):
        raise ValueError(f"start must be a landmark network; no layer of {str(start)!r} fits")
    return network


def train_landmarks(
    faces: TaughtFaces,
    checkpoint: Path,
    *,
    start: str | Path | None = None,
    face_surface: str | Path | None = None,
    only_score: bool = False,
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
    start : str, Path or None
        A shipped name or artifact whose layers are gone on from, where they fit.
    face_surface : path, optional
        Surface for a ``FaceTurner``; no face is turned
        if not given.
    only_score : bool, default=False
        Teach nothing but the face score, half of each batch being no faces: the
        landmarks stay those of ``start``, so what was trained on them stays right.
    settings : LoopSettings
    stop_after_minutes, progress
        See ``sfpose.training.loop.train``.

    Returns
    -------
    Artifact
    """
    torch.manual_seed(settings.seed)
    turner = None
    if face_surface is not None:
        turner = FaceTurner(face_surface, size=96, margin=LANDMARK_CROP_SCALE)
    network = _start_network(start)
    if only_score:
        network.requires_grad_(False)
        network.score.requires_grad_(True)
    facts = {**settings.facts, **taught_facts(faces, start, face_surface)}
    trained = train(
        network,
        LandmarkObjective(),
        LandmarkSource(faces, turner=turner, non_faces=0.5 if only_score else 0.3),
        replace(settings, facts=facts),
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
        min_face_score=MIN_FACE_SCORE,
    )
    return Artifact(to_onnx(trained, size), manifest)


def find_own_landmarks(faces: TaughtFaces, weights: str, cache: Path) -> NDArray[np.float32]:
    """Landmarks (n, 5, 2) of every photo as a landmark network finds them.

    The student is trained on these, so that it knows the errors it will meet.

    Parameters
    ----------
    faces : TaughtFaces
    weights : str
        Artifact of the landmark network.
    cache : Path
        Folder for the result. The file's name tells the network, the photos and the way of
        finding, so that another of these has another file.
    """
    # Of photos that nobody named, those in memory, all are read.
    photos = faces.photos_key or digest(faces.photos)
    file = cache / f"landmarks_{read_artifact(weights).digest[:16]}_{photos}_{_FINDING}.npy"
    if not file.exists():
        aligner = FaceAligner(weights=weights)
        landmarks, _ = aligner.find_landmarks(faces.photos)
        with whole_file(file) as part:
            np.save(part, landmarks.astype(np.float32))
    found: NDArray[np.float32] = np.load(file)
    return found
