"""Whether an image shows enough of a face to tell people apart: sharply, and not cut off.

Of strangers whose faces are blurred alike, or lack the same part, descriptors are alike. May
import ``geometry`` and ``preprocessing``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfpose.geometry import similarity_to_canonical
from sfpose.preprocessing import aligned_crop

__all__ = ["are_blurred", "are_cut_off", "are_tiny", "detail"]

_LEAST_DETAIL = 0.035
"""No photo of CFP or KDEF has less, and one of LFW, which is blurred; most faces do that a blur of
4 % of the crop's side was put on (benchmarks/poor_photos.py)."""
_LEAST_SEEN = 0.08
"""Of the canonical crop's side, above eyes and below mouth: none of theirs but one shows less."""
_LEAST_SIDE = 18
"""Pixels of the canonical crop's side; 38 in the smallest photo of theirs."""
_SIZE = 48
_EDGE = _SIZE // 8
_LEAST_PIXELS = 20


def are_cut_off(
    images: Sequence[NDArray[np.uint8]], landmarks: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which faces (n,) leave their image above the eyes, below the mouth or beside either.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (H, W, 3)
    landmarks : float64 array of shape (n, 5, 2)
        In pixels of each image.
    """
    corners = np.array([[image.shape[1], image.shape[0]] for image in images], np.float64)
    ends = landmarks[:, [0, 1, 3, 4]]
    up = -_LEAST_SEEN * similarity_to_canonical(landmarks)[:, None, :2, 1]
    points = np.concatenate([ends, ends[:, :2] + up, ends[:, 2:] - up], axis=1)
    inside = (points >= 0) & (points <= corners.reshape(-1, 1, 2))
    return np.asarray(~np.all(inside, axis=(1, 2)))


def are_blurred(
    images: Sequence[NDArray[np.uint8]], landmarks: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which faces (n,) show too little detail; parameters as above."""
    crops = (
        aligned_crop(image, matrix, _SIZE)
        for image, matrix in zip(images, similarity_to_canonical(landmarks), strict=True)
    )
    return np.array([detail(crop) < _LEAST_DETAIL for crop in crops], dtype=bool)


def are_tiny(landmarks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which faces (n,) are of too few pixels."""
    matrices = similarity_to_canonical(landmarks)
    return np.asarray(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) < _LEAST_SIDE)


def detail(crop: NDArray[np.uint8]) -> float:
    """Variance of a crop's Laplacian over that of its brightness.

    Without its margin, and without what lies beyond the image, which is black. Infinite where
    nothing is seen, or all of it is of one brightness: that is no face, but no blur either.
    """
    inner = crop[_EDGE:-_EDGE, _EDGE:-_EDGE]
    seen = (inner != 0).any(axis=2)
    grey = inner.mean(axis=2, dtype=np.float64)
    around = [np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]]
    middle = np.s_[1:-1, 1:-1]
    counted = np.logical_and.reduce([seen[place] for place in [*around, middle]])
    if counted.sum() < _LEAST_PIXELS:
        return np.inf
    edges = sum(grey[place] for place in around) - 4 * grey[middle]
    contrast = grey[middle][counted].var()
    return float(edges[counted].var() / contrast) if contrast > 0 else np.inf
