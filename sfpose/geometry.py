"""Similarity alignment of a face by five landmarks: the one canonical crop.

NumPy only, so that training, inference and protocols share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_landmarks

__all__ = [
    "BOX_SCALE",
    "CANONICAL_LANDMARKS",
    "LANDMARK_CROP_SCALE",
    "MIRROR",
    "MIRRORED_LANDMARKS",
    "similarity_to_canonical",
    "squares_around",
    "turn_matrix",
    "widen_matrix",
]

CANONICAL_LANDMARKS = (
    np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ]
    )
    / 112
)
"""Where the five landmarks lie in the canonical crop, as shares of its side.

The template that ArcFace, SFace and most aligned face data sets use.
"""

LANDMARK_CROP_SCALE = 1.4
"""Side of the crop in which landmarks are looked for a second time, in canonical sides."""

BOX_SCALE = 1.4
"""Side of the square in which the landmarks of a detector's box are looked for, in boxes."""

MIRROR = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
"""Map from the unit square to itself, left and right exchanged."""

MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]
"""Order of the five landmarks of a mirrored face: eyes and mouth corners change sides."""


def similarity_to_canonical(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Similarity from the unit square of the canonical crop to photo coordinates.

    The inverse of the similarity that brings the five points closest to their places
    in the canonical crop, by least squares and without reflection (Umeyama, 1991), as
    ArcFace's and OpenCV's alignment do. Least squares in the photo instead would
    magnify profiles, whose landmarks lie close together.

    Parameters
    ----------
    landmarks : array of shape (n, 5, 2)
        Pixel coordinates: the eye on the image's left, the other eye, nose tip, the
        mouth corner on the image's left, the other one.

    Returns
    -------
    float64 array of shape (n, 3, 3)
        Maps (x, y, 1) of the crop's unit square to (x, y, 1) of the photo.

    Raises
    ------
    ValueError
        If ``landmarks`` is not finite, has another shape, or the five points of a
        face fall together so that they tell no size.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical
    >>> similarity_to_canonical(CANONICAL_LANDMARKS[None] * 100)[0].round(6) + 0.0
    array([[100.,   0.,   0.],
           [  0., 100.,   0.],
           [  0.,   0.,   1.]])
    """
    points = check_landmarks(landmarks)
    source_mean = CANONICAL_LANDMARKS.mean(0)
    source = CANONICAL_LANDMARKS - source_mean
    target_mean = points.mean(1)
    target = points - target_mean[:, None]
    # A similarity is (a, -b; b, a): two unknowns, solved in closed form; its inverse is
    # (a, b; -b, a) over a^2 + b^2.
    a = (target * source).sum((1, 2))
    b = (target[..., 1] * source[:, 0] - target[..., 0] * source[:, 1]).sum(1)
    size = a**2 + b**2
    if (size < 1e-12).any():
        raise ValueError("the landmarks of a face must tell its size; got points that do not")
    spread = (target**2).sum((1, 2))
    a, b = a * spread / size, b * spread / size
    matrices = np.zeros((len(points), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = a, -b
    matrices[:, 1, 0], matrices[:, 1, 1] = b, a
    matrices[:, 2, 2] = 1
    matrices[:, :2, 2] = target_mean - matrices[:, :2, :2] @ source_mean
    return matrices


def widen_matrix(scale: float) -> NDArray[np.float64]:
    """Map from the unit square to a square ``scale`` times as wide with the same centre.

    Parameters
    ----------
    scale : float
        Positive.

    Returns
    -------
    float64 array of shape (3, 3)

    Examples
    --------
    >>> from sfpose.geometry import widen_matrix
    >>> widen_matrix(1.5)
    array([[ 1.5 ,  0.  , -0.25],
           [ 0.  ,  1.5 , -0.25],
           [ 0.  ,  0.  ,  1.  ]])
    """
    if not scale > 0:
        raise ValueError(f"a crop must be wider than nothing: scale > 0; got {scale}")
    shift = 0.5 - scale / 2
    return np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]], dtype=np.float64)


def turn_matrix(degrees: float) -> NDArray[np.float64]:
    """Map from the unit square to the same, turned about its centre.

    Parameters
    ----------
    degrees : float
        From the first axis towards the second: clockwise in an image.

    Returns
    -------
    float64 array of shape (3, 3)

    Examples
    --------
    >>> from sfpose.geometry import turn_matrix
    >>> turn_matrix(90).round(6) + 0.0
    array([[ 0., -1.,  1.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    shift = (1 - cosine + sine) / 2, (1 - cosine - sine) / 2
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]], [0, 0, 1]])


def squares_around(boxes: ArrayLike, scale: float = 1.0) -> NDArray[np.float64]:
    """Map from the unit square to a square around each box, with the same centre.

    Parameters
    ----------
    boxes : array of shape (n, 4)
        Left, top, right, bottom.
    scale : float, default=1.0
        Side of the square over the box's longer side.

    Returns
    -------
    float64 array of shape (n, 3, 3)

    Examples
    --------
    >>> from sfpose.geometry import squares_around
    >>> squares_around([[10, 20, 30, 60]])[0]
    array([[40.,  0.,  0.],
           [ 0., 40., 20.],
           [ 0.,  0.,  1.]])
    """
    corners = np.asarray(boxes, dtype=np.float64)
    sides = scale * (corners[:, 2:] - corners[:, :2]).max(1)
    matrices = np.zeros((len(corners), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = sides
    matrices[:, :2, 2] = (corners[:, :2] + corners[:, 2:] - sides[:, None]) / 2
    matrices[:, 2, 2] = 1
    return matrices
