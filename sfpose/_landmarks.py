"""Where the five landmarks of a face lie in an image, and how surely there is one.

What looks, and how often it looks again. May import ``preprocessing``, ``geometry`` and
``runtime``.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from sfpose._batches import batched
from sfpose._checks import is_number
from sfpose.geometry import (
    LANDMARK_CROP_SCALE,
    MIRROR,
    MIRRORED_LANDMARKS,
    similarity_to_canonical,
    squares_around,
    turn_matrix,
    widen_matrix,
)
from sfpose.preprocessing import aligned_crop, as_network_input
from sfpose.runtime.artifact import Artifact, read_artifact
from sfpose.runtime.session import OnnxModel

__all__ = ["ArtifactNetwork", "LandmarkFinder"]

_SURE = np.log(99)
"""Logit of 0.99: two looks that say more, of a face or of none, are left at that."""
_SIZES = (1.0, 0.8, 1.25)
"""Sides of the squares that are looked at again, over the first one's; more of them win little."""
_STEADY = 0.036
"""Of the canonical crop's side, a tenth of what lies between eyes and mouth: a second look that
moves landmarks farther tells that the first was lost, as on a head thrown back."""
_TURNS = (-30.0, 0.0, 30.0)
"""Degrees by which the squares are turned in which landmarks are looked for again."""
_QUARTERS = (-90.0, 90.0, 180.0)
_EIGHTHS = (45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
"""Degrees by which a face may be turned, in a crop and by a detector's landmarks."""
_UPRIGHT = 8.0
"""Logit of two looks that see a face upright: those at 99 in 100 of LFW's photos and at 87 in 100
of CFP's profiles say more, and those at such photos lying on their side hardly ever do."""


class ArtifactNetwork:
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

    Where these are less sure than of most upright faces, and looks at the crop lying on one of its
    sides are surer, the face lies on its side, as where the orientation of a photo was lost: it is
    looked at so from then on.

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
        self._network = ArtifactNetwork(artifact, n_threads, width=11)
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
        logit = logits.mean(axis=0)
        if rows := np.flatnonzero((logit < _UPRIGHT) | (_moves(looks) > _STEADY)).tolist():
            squares = squares.copy()
            squares[rows], looks[:, rows], logit[rows] = self._set_upright(
                [images[row] for row in rows],
                squares[rows],
                looks[:, rows],
                logit[rows],
                _QUARTERS,
                stays=180.0,
            )
        landmarks, doubtful = looks[1], np.abs(logit) < _SURE
        if rows := np.flatnonzero(doubtful | (_moves(looks) > _STEADY)).tolist():
            landmarks[rows] = self._find_again([images[row] for row in rows], squares[rows])
        if rows := np.flatnonzero(doubtful).tolist():
            logit[rows] = self._ask_again([images[row] for row in rows], squares[rows])
        return landmarks, 1 / (1 + np.exp(-logit))

    def checked(
        self, images: list[NDArray[np.uint8]], landmarks: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Landmarks (n, 5, 2) that a detector gave, found anew where the face lies otherwise.

        Detectors may find a face that is turned and draw an upright one's landmarks into it, and
        all faces that are turned alike would be of one person.
        """
        squares = similarity_to_canonical(landmarks) @ widen_matrix(LANDMARK_CROP_SCALE)
        looks, logits = self._follow(images, squares, looks=2)
        logit, checked = logits.mean(axis=0), landmarks.copy()
        if rows := np.flatnonzero(logit < _UPRIGHT).tolist():
            some = [images[row] for row in rows]
            upright, found, _ = self._set_upright(
                some, squares[rows], looks[:, rows], logit[rows], _EIGHTHS
            )
            turned = (upright != squares[rows]).any(axis=(1, 2))
            checked[rows] = np.where(turned[:, None, None], found[1], landmarks[rows])
        return checked

    def _set_upright(
        self,
        images: list[NDArray[np.uint8]],
        squares: NDArray[np.float64],
        looks: NDArray[np.float64],
        logit: NDArray[np.float64],
        turns: tuple[float, ...],
        stays: float | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Squares, looks and logits, others where a face is turned by one of so many degrees.

        One that is turned by ``stays`` is left so: it would be surer by a turn beside it as well.
        """
        turned = np.stack([squares, *(squares @ turn_matrix(turn) for turn in turns)])
        found = [self._follow(images, each, looks=2) for each in turned[1:]]
        seen = np.stack([looks, *(others for others, _ in found)])
        logits = np.stack([logit, *(each.mean(axis=0) for _, each in found)])
        best = logits.argmax(axis=0)
        if stays is not None:
            best[best == 1 + turns.index(stays)] = 0
        best[logits.max(axis=0) < _UPRIGHT] = 0
        rows = np.arange(len(images))
        return turned[best, rows], seen[best, :, rows].swapaxes(0, 1), logits[best, rows]

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
