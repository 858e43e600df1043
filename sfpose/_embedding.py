"""Images to landmarks, aligned crops and descriptors, without scikit-learn.

What ``FaceAligner``, ``FaceEmbedder`` and the command line share. Kept apart from the
estimators because importing scikit-learn takes longer than embedding two photos. May
import ``_landmarks``, ``_visibility``, ``preprocessing``, ``geometry`` and ``runtime``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfpose._batches import batched, loose_crops
from sfpose._checks import check_whole, is_number
from sfpose._landmarks import ArtifactNetwork, LandmarkFinder
from sfpose._visibility import are_blurred, are_cut_off, are_tiny
from sfpose.geometry import (
    BOX_SCALE,
    similarity_to_canonical,
    squares_around,
    widen_matrix,
)
from sfpose.preprocessing import (
    aligned_crop,
    count_images,
    iterate_images,
)
from sfpose.runtime.artifact import Artifact

if TYPE_CHECKING:
    from sfpose.preprocessing import Images

__all__ = [
    "Align",
    "Aligner",
    "Cropper",
    "Embedding",
    "MinFaceScore",
    "check_min_face_score",
    "crop_kind",
]

Align: TypeAlias = 'bool | Literal["auto", "done"]'
MinFaceScore: TypeAlias = 'float | Literal["auto"]'
CropKind: TypeAlias = Literal["landmarks", "loose", "done"]

_NORMALIZATIONS = ("none", "l1")


class Aligner:
    """Decodes images in batches, finds their landmarks and cuts the canonical crop.

    Parameters
    ----------
    weights : str or path
        Artifact of a landmark network.
    n_threads, batch_size : int
    min_face_score : float or "auto"
        Face score below which an image shows no face.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str],
        *,
        n_threads: int,
        batch_size: int,
        min_face_score: MinFaceScore = "auto",
    ) -> None:
        self._finder = LandmarkFinder(weights, n_threads)
        self._batch_size = check_whole(batch_size, "batch_size", 1)
        check_min_face_score(min_face_score)
        stated = self._finder.min_face_score
        self.min_face_score = stated if min_face_score == "auto" else min_face_score

    def landmarks(
        self, images: Images
    ) -> Iterator[tuple[list[NDArray[np.uint8]], NDArray[np.float64], NDArray[np.float64]]]:
        """Batches of decoded images with their landmarks and face scores.

        The score is 0 where a face is blurred or cut off: of many people these look alike.
        """
        for batch in batched(iterate_images(images), self._batch_size):
            points, scores = self._finder.find(batch)
            scores[are_blurred(batch, points) | self._cut_off_or_tiny(batch, points, scores)] = 0
            yield batch, points, scores
            del batch  # or it would be held while the next one is decoded

    def faces_in(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float64],
        landmarks: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Landmarks (n, 5, 2) of the faces of one image, scores (n,), which of them show enough.

        Landmarks of a detector are found anew where a face is not upright so, and have no score.
        Where the landmark network sees no face, which the detector does, its landmarks tell nothing
        of what is cut off.
        """
        if landmarks is None:
            points, scores = self._landmarks_in(image, boxes)
        else:
            points, scores = self._checked(image, landmarks), np.full(len(boxes), np.nan)
        images = [image] * len(boxes)
        lost = are_blurred(images, points) | self._cut_off_or_tiny(images, points, scores)
        return points, scores, ~lost

    def _cut_off_or_tiny(
        self,
        images: list[NDArray[np.uint8]],
        points: NDArray[np.float64],
        scores: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        lost = are_cut_off(images, points) | are_tiny(points)
        return lost & ~(scores < self._finder.min_face_score)

    def _landmarks_in(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        squares = squares_around(boxes, BOX_SCALE)
        parts = np.split(squares, range(self._batch_size, len(squares), self._batch_size))
        found = [self._finder.find([image] * len(part), part) for part in parts]
        landmarks, scores = zip(*found, strict=True)
        return np.concatenate(landmarks), np.concatenate(scores)

    def _checked(
        self, image: NDArray[np.uint8], landmarks: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        parts = np.split(landmarks, range(self._batch_size, len(landmarks), self._batch_size))
        return np.concatenate([self._finder.checked([image] * len(part), part) for part in parts])

    def crops(
        self, images: Images, size: int, margin: float = 1.0
    ) -> Iterator[tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]]:
        """Batches of aligned crops (size, size, 3), and which of them show a face."""
        widen = widen_matrix(margin)
        for batch, points, scores in self.landmarks(images):
            matrices = similarity_to_canonical(points) @ widen
            crops = [
                aligned_crop(image, matrix, size)
                for image, matrix in zip(batch, matrices, strict=True)
            ]
            del batch
            yield crops, scores >= self.min_face_score


def check_min_face_score(score: MinFaceScore) -> None:
    """Raise ValueError unless ``score`` is 0 to 1 or ``"auto"``."""
    automatic = isinstance(score, str) and score == "auto"
    if not automatic and not (is_number(score) and 0 <= score <= 1):
        raise ValueError(f"min_face_score must be 0 to 1 or 'auto'; got {score!r}")


def crop_kind(align: Align, artifact: Artifact | None) -> CropKind:
    """How images are cropped; ``"auto"`` does what the weights were trained with.

    Of the weights of a bundle, it does what the bundle's embedder did.
    """
    if align == "auto":
        align = bundled(artifact, "align")
    if align == "auto":
        align = artifact is None or artifact.manifest.get("alignment") == "five-landmarks"
    if isinstance(align, (bool, np.bool_)):
        return "landmarks" if align else "loose"
    if align != "done":
        raise ValueError(f"align must be True, False, 'auto' or 'done'; got {align!r}")
    return "done"


def bundled(artifact: Artifact | None, parameter: str) -> Any:
    """A parameter of the embedder of whose bundle the weights are, or were; else "auto"."""
    manifest = {} if artifact is None else artifact.manifest
    stated = manifest.get("bundle", manifest.get("crops"))
    return stated.get(parameter, "auto") if isinstance(stated, dict) else "auto"


class Cropper:
    """Cuts images as the network of an embedder sees them; parameters are those of ``Aligner``."""

    def __init__(
        self, kind: CropKind, n_threads: int, min_face_score: MinFaceScore, batch_size: int = 32
    ) -> None:
        check_min_face_score(min_face_score)
        self._kind, self._batch_size = kind, batch_size
        self._aligner: Aligner | None = None
        if kind == "landmarks":
            self._aligner = Aligner(
                "landmarks",
                n_threads=n_threads,
                batch_size=batch_size,
                min_face_score=min_face_score,
            )

    def __call__(
        self, images: Images, size: int, margin: float = 1.0
    ) -> Iterator[tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]]:
        """Batches of crops, and which of them show a face: all where none is looked for.

        A ``margin`` above 1 shows more than the network will see.
        """
        if self._aligner is not None:
            yield from self._aligner.crops(images, size, margin)
            return
        side = margin * (1.0 if self._kind == "done" else 224 / 256)
        crops = loose_crops(images, size, share=side, square=self._kind == "done")
        for batch in batched(crops, self._batch_size):
            yield batch, np.ones(len(batch), dtype=bool)


def _less_mean(artifact: Artifact) -> float:
    """Share of their mean that an artifact's values are lessened by, none below zero."""
    share = artifact.section("descriptor").get("less_mean", 0.0)
    if not is_number(share) or not 0 <= share < 1:
        raise ValueError(f"less_mean must be a number from 0 to below 1; got {share!r}")
    return float(share)


class Embedding:
    """From images to the descriptors of one artifact.

    Parameters
    ----------
    artifact : Artifact
        Of a descriptor network.
    align : bool, "auto" or "done"
    min_face_score : float or "auto"
        Where images are aligned here, the face score below which one shows no face.
    batch_size, n_threads : int
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        align: Align = "auto",
        min_face_score: MinFaceScore = "auto",
        batch_size: int = 32,
        n_threads: int = 1,
    ) -> None:
        normalization = artifact.section("descriptor").get("normalization")
        if normalization not in _NORMALIZATIONS:
            raise ValueError(
                f"normalization must be one of {_NORMALIZATIONS}; got {normalization!r}"
            )
        self._normalization = normalization
        self._less_mean = _less_mean(artifact)
        self._width = artifact.descriptor_size
        self._network = ArtifactNetwork(artifact, n_threads, self._width)
        check_min_face_score(min_face_score)
        if min_face_score == "auto":
            min_face_score = bundled(artifact, "min_face_score")
        kind = crop_kind(align, artifact)
        self._crops = Cropper(kind, n_threads, min_face_score, batch_size)

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Descriptors (n, d), float32; NaN in the row of an image that shows no face."""
        count_images(images)
        batches = self._crops(images, self._network.size)
        found = [(self._describe(crops), faces) for crops, faces in batches]
        descriptors = np.concatenate([rows for rows, _ in found])
        sums = descriptors.sum(axis=1, keepdims=True)
        # Two pictures of nothing would be alike, two rows of zeros the best match of all.
        descriptors[~np.concatenate([faces for _, faces in found])] = np.nan
        descriptors[sums[:, 0] <= 0] = np.nan
        if self._less_mean:
            descriptors -= self._less_mean * (sums / self._width)
            np.maximum(descriptors, 0, out=descriptors)
            sums = descriptors.sum(axis=1, keepdims=True)
        if self._normalization == "l1":
            np.divide(descriptors, sums, out=descriptors, where=sums > 0)
        return descriptors

    def _describe(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows = self._network(crops)
        if not (rows.min() >= 0 and rows.max() < np.inf):
            raise ValueError("the network must give finite values >= 0; it gives others")
        return rows
