"""FaceAligner: from loose face crops to the aligned crop that the weights expect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from sfpose.geometry import LANDMARK_CROP_SCALE, similarity_to_canonical, widen_matrix
from sfpose.preprocessing import (
    aligned_crop,
    as_network_input,
    batched,
    count_images,
    iterate_images,
    letterbox_matrix,
)
from sfpose.runtime.artifact import read_artifact
from sfpose.runtime.session import OnnxModel

if TYPE_CHECKING:
    from sfpose.preprocessing import Images

__all__ = ["FaceAligner", "LandmarkFinder"]


class LandmarkFinder:
    """Runs a landmark network on crops: one look at the whole, one at what it found.

    Parameters
    ----------
    weights : str or path, default="landmarks"
        Artifact of the landmark network.
    n_threads : int, default=1
    """

    def __init__(self, weights: str | os.PathLike[str] = "landmarks", n_threads: int = 1) -> None:
        artifact = read_artifact(weights)
        settings = artifact.section("input")
        self._size = int(settings["size"])  # type: ignore[arg-type]
        self._mean: list[float] = settings["mean"]  # type: ignore[assignment]
        self._std: list[float] = settings["std"]  # type: ignore[assignment]
        self._model = OnnxModel(artifact.model, n_threads)

    def find(
        self, images: list[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks (n, 5, 2) in pixels of each image and face scores (n,), 0 to 1."""
        matrices = np.stack([letterbox_matrix(image.shape) for image in images])
        landmarks, scores = self._look(images, matrices)
        around = similarity_to_canonical(landmarks) @ widen_matrix(LANDMARK_CROP_SCALE)
        second, _ = self._look(images, around)
        return second, scores

    def _look(
        self, images: list[NDArray[np.uint8]], matrices: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        crops = [
            aligned_crop(image, matrix, self._size)
            for image, matrix in zip(images, matrices, strict=True)
        ]
        output = self._model.run(as_network_input(crops, self._mean, self._std)).astype(np.float64)
        points = output[:, :10].reshape(-1, 5, 2)
        landmarks = points @ matrices[:, :2, :2].transpose(0, 2, 1) + matrices[:, None, :2, 2]
        return landmarks, 1 / (1 + np.exp(-output[:, 10]))


class FaceAligner(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn, scale and crop faces by five landmarks.

    Each image is a loose crop of one face, as any face detector gives it. A small
    network that ships with the library finds five landmarks in it; the crop is
    turned and scaled so that they come to lie where the descriptor network expects
    them.

    Parameters
    ----------
    size : int, default=113
        Side of the crops in pixels.
    margin : float, default=1.0
        Side of what a crop shows, in sides of the canonical crop; larger values show
        more of what surrounds the face.
    weights : str or path, default="landmarks"
        Artifact of the landmark network.
    batch_size : int, default=32
        Images per call of the landmark network.
    n_jobs : int, default=None
        Threads inside the network. None means one unless in a
        ``joblib.parallel_config``, -1 means all processors.

    See Also
    --------
    FaceEmbedder : Aligns by itself unless told otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import FaceAligner
    >>> photos = [np.full((200, 160, 3), 128, np.uint8)]
    >>> FaceAligner().transform(photos).shape
    (1, 113, 113, 3)
    """

    def __init__(
        self,
        *,
        size: int = 113,
        margin: float = 1.0,
        weights: str | os.PathLike[str] = "landmarks",
        batch_size: int = 32,
        n_jobs: int | None = None,
    ) -> None:
        self.size = size
        self.margin = margin
        self.weights = weights
        self.batch_size = batch_size
        self.n_jobs = n_jobs

    def fit(self, X: Images, y: object = None) -> FaceAligner:
        """Do nothing but check ``X``; the aligner needs no fitting.

        Parameters
        ----------
        X : sequence of images
        y : ignored

        Returns
        -------
        FaceAligner
            Itself.
        """
        count_images(X)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def find_landmarks(self, X: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find five landmarks in each crop.

        Parameters
        ----------
        X : sequence of images
            uint8 RGB arrays of any size, one array of shape (n, H, W, 3), Pillow
            images, or paths.

        Returns
        -------
        landmarks : float64 array of shape (n, 5, 2)
            Pixel coordinates: the eye on the image's left, the other eye, nose tip,
            the mouth corner on the image's left, the other one.
        scores : float64 array of shape (n,)
            How surely the crop shows a face, 0 to 1.

        Raises
        ------
        ValueError, FileNotFoundError
            If ``X`` is empty or an image of it is refused.
        """
        found = [(points, scores) for _, points, scores in self._batches(X)]
        return np.concatenate([p for p, _ in found]), np.concatenate([s for _, s in found])

    def transform(self, X: Images) -> NDArray[np.uint8]:
        """Align each crop by its landmarks.

        Parameters
        ----------
        X : sequence of images
            As for :meth:`find_landmarks`.

        Returns
        -------
        uint8 array of shape (n, size, size, 3)

        Raises
        ------
        ValueError, FileNotFoundError
            If ``X`` is empty or an image of it is refused.
        """
        return np.concatenate([np.stack(crops) for crops in self.iterate(X)])

    def iterate(self, X: Images) -> Iterator[list[NDArray[np.uint8]]]:
        """Align as :meth:`transform` does, one batch at a time.

        Parameters
        ----------
        X : sequence of images
            As for :meth:`find_landmarks`.

        Yields
        ------
        list of uint8 arrays of shape (size, size, 3)
            Up to ``batch_size`` crops.
        """
        widen = widen_matrix(self.margin)
        for images, points, _ in self._batches(X):
            matrices = similarity_to_canonical(points) @ widen
            yield [
                aligned_crop(image, matrix, self.size)
                for image, matrix in zip(images, matrices, strict=True)
            ]

    def _batches(
        self, X: Images
    ) -> Iterator[tuple[list[NDArray[np.uint8]], NDArray[np.float64], NDArray[np.float64]]]:
        """Batches of decoded images with their landmarks and scores."""
        count_images(X)
        finder = self._finder()
        for images in batched(iterate_images(X), self.batch_size):
            yield (images, *finder.find(images))

    def _finder(self) -> LandmarkFinder:
        threads = effective_n_jobs(self.n_jobs)
        key = (self.weights, threads)
        cached: tuple[object, LandmarkFinder] | None = self.__dict__.get("_cached_finder")
        if cached is None or cached[0] != key:
            cached = self._cached_finder = (key, LandmarkFinder(self.weights, threads))
        return cached[1]
