"""FaceAligner: from loose face crops to the aligned crop that the weights expect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from sfpose._embedding import Aligner
from sfpose.preprocessing import count_images

if TYPE_CHECKING:
    from sfpose.preprocessing import Images

__all__ = ["FaceAligner"]


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
        found = [(points, scores) for _, points, scores in self._aligner().landmarks(X)]
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
        batches = self._aligner().crops(X, self.size, self.margin)
        return np.concatenate([np.stack(crops) for crops in batches])

    def _aligner(self) -> Aligner:
        key = (self.weights, self.batch_size, effective_n_jobs(self.n_jobs))
        cached: tuple[object, Aligner] | None = self.__dict__.get("_cached_aligner")
        if cached is None or cached[0] != key:
            weights, batch_size, threads = key
            aligner = Aligner(weights, n_threads=threads, batch_size=batch_size)
            cached = self._cached_aligner = (key, aligner)
        return cached[1]
