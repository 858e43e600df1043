"""Images to landmarks, aligned crops and descriptors, without scikit-learn.

What ``FaceAligner``, ``FaceEmbedder`` and the command line share. Kept apart from the
estimators because importing scikit-learn takes longer than embedding two photos. May
import ``preprocessing``, ``geometry`` and ``runtime``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfpose._batches import batched, loose_crops
from sfpose._checks import check_whole, is_number
from sfpose.geometry import (
    BOX_SCALE,
    LANDMARK_CROP_SCALE,
    MIRROR,
    MIRRORED_LANDMARKS,
    similarity_to_canonical,
    squares_around,
    turn_matrix,
    widen_matrix,
)
from sfpose.preprocessing import (
    aligned_crop,
    as_network_input,
    count_images,
    iterate_images,
)
from sfpose.runtime.artifact import Artifact, read_artifact
from sfpose.runtime.session import OnnxModel

if TYPE_CHECKING:
    from sfpose.preprocessing import Images

__all__ = [
    "Align",
    "Aligner",
    "Cropper",
    "Embedding",
    "LandmarkFinder",
    "MinFaceScore",
    "check_min_face_score",
    "crop_kind",
]

Align: TypeAlias = 'bool | Literal["auto", "done"]'
MinFaceScore: TypeAlias = 'float | Literal["auto"]'
CropKind: TypeAlias = Literal["landmarks", "loose", "done"]

_NORMALIZATIONS = ("none", "l1")
_SURE = np.log(99)
"""Logit of 0.99: two looks that say more, of a face or of none, are left at that."""
_SIZES = (1.0, 0.8, 1.25)
"""Sides of the squares that are looked at again, over the first one's; more of them win little."""
_STEADY = 0.036
"""Of the canonical crop's side, a tenth of what lies between eyes and mouth: a second look that
moves landmarks farther tells that the first was lost, as on a head thrown back."""
_TURNS = (-30.0, 0.0, 30.0)
"""Degrees by which the squares are turned in which landmarks are looked for again."""


class _Network:
    """An artifact's network of so many values an image, fed as its manifest says."""

    def __init__(self, artifact: Artifact, n_threads: int, width: int) -> None:
        settings = artifact.network_input
        self.size, self._mean, self._std = settings.size, settings.mean, settings.std
        self._model, self._width = OnnxModel(artifact.model, n_threads), width
        # An image a thread: what a layer gives the next stays in the caches. One alone where
        # scales are found while it runs, which would be those of all images of a call.
        self._step = 1 if b"DynamicQuantizeLinear" in artifact.model else n_threads

    def __call__(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.concatenate([self._run(part) for part in batched(crops, self._step)])

    def _run(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows = self._model.run(as_network_input(crops, self._mean, self._std))
        if rows.shape != (len(crops), self._width):
            raise ValueError(
                f"the network must give {self._width} values an image; "
                f"got shape {rows.shape} for {len(crops)} images"
            )
        return rows


class LandmarkFinder:
    """Finds landmarks in crops: one look at the whole, one at what the first found.

    Where the two are in doubt whether it is a face, it is asked again: in squares of three sizes,
    in each and in its mirror image by three looks. Where they are, or where the second moved the
    landmarks far, these are looked for again: in squares turned to either side, by three looks in
    each. A profile that is lost in one of them often is found in another.

    Parameters
    ----------
    weights : str or path
        Artifact of a landmark network.
    n_threads : int
    """

    def __init__(self, weights: str | os.PathLike[str], n_threads: int) -> None:
        artifact = read_artifact(weights)
        self._network = _Network(artifact, n_threads, width=11)
        self.min_face_score = _stated_face_score(artifact)

    def find(
        self, images: list[NDArray[np.uint8]], squares: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks (n, 5, 2) in pixels of each image and face scores (n,), 0 to 1.

        Looked for in squares (n, 3, 3) of the images, or in the whole of them. The score
        is what all upright looks say together: the mean of their logits.
        """
        if squares is None:
            whole = [(0, 0, image.shape[1], image.shape[0]) for image in images]
            squares = squares_around(whole)
        looks, logits = self._follow(images, squares, looks=2)
        landmarks, logit = looks[1], logits.mean(axis=0)
        doubtful = np.abs(logit) < _SURE
        if rows := np.flatnonzero(doubtful | (_moves(looks) > _STEADY)).tolist():
            landmarks[rows] = self._find_again([images[row] for row in rows], squares[rows])
        if rows := np.flatnonzero(doubtful).tolist():
            logit[rows] = self._ask_again([images[row] for row in rows], squares[rows])
        return landmarks, 1 / (1 + np.exp(-logit))

    def _find_again(
        self, images: list[NDArray[np.uint8]], squares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Landmarks (n, 5, 2): the mean of what is found in turned squares, by its likelihood."""
        found = [self._follow(images, squares @ turn_matrix(turn), looks=3) for turn in _TURNS]
        landmarks = np.stack([looks[-1] for looks, _ in found])
        logits = np.stack([each.mean(axis=0) for _, each in found])
        likelihood = np.exp(logits - logits.max(axis=0))
        shares = likelihood / likelihood.sum(axis=0)
        mean: NDArray[np.float64] = (shares[..., None, None] * landmarks).sum(axis=0)
        return mean

    def _ask_again(
        self, images: list[NDArray[np.uint8]], squares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Mean logits (n,) of looks in squares of several sizes and at their mirror images."""
        found = [
            self._follow(images, squares @ widen_matrix(size), looks=3, mirrored=mirrored)
            for size in _SIZES
            for mirrored in (False, True)
        ]
        mean: NDArray[np.float64] = np.concatenate([logits for _, logits in found]).mean(axis=0)
        return mean

    def _follow(
        self,
        images: list[NDArray[np.uint8]],
        squares: NDArray[np.float64],
        *,
        looks: int,
        mirrored: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks (looks, n, 5, 2) and logits (looks, n), each look at what the last found."""
        found = [self._look(images, squares, mirrored=mirrored)]
        for _ in range(looks - 1):
            around = similarity_to_canonical(found[-1][0]) @ widen_matrix(LANDMARK_CROP_SCALE)
            found.append(self._look(images, around, mirrored=mirrored))
        landmarks, logits = zip(*found, strict=True)
        return np.stack(landmarks), np.stack(logits)

    def _look(
        self,
        images: list[NDArray[np.uint8]],
        matrices: NDArray[np.float64],
        *,
        mirrored: bool,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if mirrored:
            matrices = matrices @ MIRROR
        crops = [
            aligned_crop(image, matrix, self._network.size)
            for image, matrix in zip(images, matrices, strict=True)
        ]
        output = self._network(crops).astype(np.float64)
        if not np.isfinite(output).all():
            raise ValueError("a landmark network must give finite values; it gives others")
        points = output[:, :10].reshape(-1, 5, 2)
        if mirrored:
            points = points[:, MIRRORED_LANDMARKS]
        landmarks = points @ matrices[:, :2, :2].transpose(0, 2, 1) + matrices[:, None, :2, 2]
        return landmarks, output[:, 10]


def _moves(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far two looks (2, n, 5, 2) lie apart, over the side of the canonical crop: (n,)."""
    sides = np.linalg.norm(similarity_to_canonical(looks[1])[:, :2, 0], axis=1)
    apart = np.linalg.norm(looks[1] - looks[0], axis=2).mean(axis=1)
    moves: NDArray[np.float64] = apart / sides
    return moves


def _stated_face_score(artifact: Artifact) -> float:
    """Face score below which an image shows no face, as a landmark artifact states it."""
    stated = artifact.manifest.get("min_face_score", 0.0)
    if not is_number(stated) or not 0 <= stated <= 1:
        raise ValueError(f"min_face_score in a manifest must be 0 to 1; got {stated!r}")
    return float(stated)


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
        """Batches of decoded images with their landmarks and face scores."""
        for batch in batched(iterate_images(images), self._batch_size):
            yield (batch, *self._finder.find(batch))
            del batch  # or it would be held while the next one is decoded

    def landmarks_in(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks (n, 5, 2) and scores (n,) of the faces in boxes (n, 4) of one image."""
        squares = squares_around(boxes, BOX_SCALE)
        parts = np.split(squares, range(self._batch_size, len(squares), self._batch_size))
        found = [self._finder.find([image] * len(part), part) for part in parts]
        landmarks, scores = zip(*found, strict=True)
        return np.concatenate(landmarks), np.concatenate(scores)

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
        self._network = _Network(artifact, n_threads, self._width)
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
