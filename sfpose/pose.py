"""Head pose from five landmarks: yaw, pitch, roll and a label.

NumPy only. May import ``_checks``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, check_landmarks

__all__ = ["FACE_POINTS", "POSES", "HeadPose", "head_cameras", "head_pose", "pose_labels"]

FACE_POINTS = np.array(
    [
        [-3.151, -2.625, -3.466],
        [3.151, -2.625, -3.466],
        [0.000, 1.127, -7.476],
        [-2.456, 4.343, -4.284],
        [2.456, 4.343, -4.284],
    ]
)
"""The five landmarks on a generic face, in centimetres: x to the image's right, y down,
z away from the viewer.

Middle of each eye's corners (vertices 33 and 133, 263 and 362), nose tip (1) and mouth
corners (61, 291) of MediaPipe's canonical face model, Apache-2.0.
"""

POSES = ("frontal", "three_quarter", "profile")
"""Labels of ``pose_labels``, named as the pose protocols name them."""

_ROUNDS = 60


class HeadPose(NamedTuple):
    """How heads are turned, in degrees.

    Attributes
    ----------
    yaw : float64 array of shape (n,)
        Positive when the face looks towards the image's right.
    pitch : float64 array of shape (n,)
        Positive when it looks up.
    roll : float64 array of shape (n,)
        Positive when the head is turned clockwise in the image.

    Examples
    --------
    >>> from sfpose.pose import FACE_POINTS, head_pose
    >>> pose = head_pose(50 * FACE_POINTS[None, :, :2])  # the generic face from the front
    >>> bool(abs(pose.yaw[0]) < 0.01), bool(abs(pose.roll[0]) < 0.01)
    (True, True)
    """

    yaw: NDArray[np.float64]
    pitch: NDArray[np.float64]
    roll: NDArray[np.float64]


def head_pose(landmarks: ArrayLike) -> HeadPose:
    """Estimate how a head is turned from five landmarks.

    A generic face is turned, scaled and shifted so that its five points, seen from far
    away (weak perspective), come closest to the landmarks by least squares. Someone
    else's nose or a smile moves the answer by several degrees; yaw is the most reliable
    of the three.

    Parameters
    ----------
    landmarks : array of shape (n, 5, 2)
        Pixel coordinates: the eye on the image's left, the other eye, nose tip, the
        mouth corner on the image's left, the other one.

    Returns
    -------
    HeadPose
        The head is first turned by yaw about its own vertical axis, then by pitch,
        then by roll in the image, so turning the image changes roll alone.

    Raises
    ------
    ValueError
        If ``landmarks`` has another shape, is not finite, or all points of a face fall
        together.

    References
    ----------
    Weak perspective as in DeMenthon and Davis, "Model-based object pose in 25 lines of
    code" (1995); each round here is an orthogonal Procrustes problem, so the error
    never grows.

    Examples
    --------
    >>> from sfpose.pose import FACE_POINTS, head_pose
    >>> pose = head_pose(10 * FACE_POINTS[None, :, :2])
    >>> [abs(round(float(angle[0]), 3)) for angle in pose]
    [0.0, 0.0, 0.0]
    """
    rotations, _ = _fit(_centred(landmarks)[0])
    # The last row says where depth comes from: it holds pitch and yaw without roll.
    pitch = -np.arcsin(np.clip(rotations[:, 2, 1], -1, 1))
    yaw = np.arctan2(rotations[:, 2, 0], rotations[:, 2, 2])
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 1, 1])
    return HeadPose(np.degrees(yaw), np.degrees(pitch), np.degrees(roll))


def head_cameras(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Scaled orthographic cameras that put the generic face on five landmarks.

    Parameters
    ----------
    landmarks : array of shape (n, 5, 2)
        As for ``head_pose``, which says the errors too.

    Returns
    -------
    float64 array of shape (n, 2, 4)
        From (x, y, z, 1) in the frame of ``FACE_POINTS`` to pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.pose import FACE_POINTS, head_cameras
    >>> camera = head_cameras(10 * FACE_POINTS[None, :, :2] + 50)[0]
    >>> np.allclose(camera, [[10, 0, 0, 50], [0, 10, 0, 50]], atol=1e-3)
    True
    """
    image, middle = _centred(landmarks)
    rotations, scale = _fit(image)
    turned = scale[:, None, None] * rotations[:, :2]
    shift = middle - turned @ FACE_POINTS.mean(0)
    return np.concatenate([turned, shift[:, :, None]], axis=2)


def _centred(landmarks: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Checked landmarks (n, 5, 2) about their mean, and the means (n, 2)."""
    points = check_landmarks(landmarks)
    # Not of the distances to the mean, which rounding may leave above 0.
    if (np.ptp(points, axis=1) == 0).all(axis=1).any():
        raise ValueError("the landmarks of a face must tell its size; got points that do not")
    middle = points.mean(1)
    return points - middle[:, None], middle


def _fit(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and scales (n,) of the generic face that best explain landmarks."""
    model = FACE_POINTS - FACE_POINTS.mean(0)
    # Where the depth of the points would be known, scale and rotation would follow in
    # closed form; so guess a frontal face's depth, solve, and guess again.
    affine = np.linalg.pinv(model) @ image
    scale = np.linalg.norm(affine, axis=(1, 2)) / np.sqrt(2)
    depth = scale[:, None] * model[:, 2]
    for _ in range(_ROUNDS):
        target = np.concatenate([image, depth[:, :, None]], axis=2)
        rotations = _procrustes(target, model)
        turned = model @ rotations.transpose(0, 2, 1)
        scale = (image * turned[:, :, :2]).sum((1, 2)) / (turned[:, :, :2] ** 2).sum((1, 2))
        depth = scale[:, None] * turned[:, :, 2]
    return rotations, scale


def _procrustes(target: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations that bring the model's points closest to those of each target."""
    left, _, right = np.linalg.svd(target.transpose(0, 2, 1) @ model)
    signs = np.ones((len(target), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))
    return np.asarray((left * signs[:, None]) @ right)


def pose_labels(
    yaw: ArrayLike, *, three_quarter_from: float = 15.0, profile_from: float = 45.0
) -> NDArray[np.str_]:
    """Name the pose that a yaw angle stands for.

    The limits lie between the poses as estimated, not as turned: landmarks of turned
    heads are found too close to the frontal ones. With the landmark network that ships,
    KDEF's heads at 45 and 90 degrees come out at 35 and 68 (medians;
    ``python benchmarks/head_pose.py KDEF``). The limits were chosen on CFP people 001 to 100.

    Parameters
    ----------
    yaw : array of shape (n,)
        Degrees, as ``head_pose`` gives them.
    three_quarter_from, profile_from : float
        Smallest absolute yaw of the two labels.

    Returns
    -------
    str array of shape (n,)
        Of ``POSES``.

    Raises
    ------
    ValueError
        If ``yaw`` is not finite, one is masked, or the limits do not rise.

    Examples
    --------
    >>> from sfpose.pose import pose_labels
    >>> pose_labels([3.0, -40.0, 85.0]).tolist()
    ['frontal', 'three_quarter', 'profile']
    """
    angles: NDArray[np.float64] = np.abs(
        as_array(yaw, "yaw must be numbers of shape (n,)", np.float64)
    )
    if not np.isfinite(angles).all():
        raise ValueError("yaw must be finite; got NaN or infinity")
    if not 0 < three_quarter_from < profile_from:
        raise ValueError(
            "limits must rise: 0 < three_quarter_from < profile_from; "
            f"got {three_quarter_from} and {profile_from}"
        )
    return np.array(POSES)[np.searchsorted([three_quarter_from, profile_from], angles, "right")]
