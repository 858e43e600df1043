"""Faces in a video: tracks of people, and the best frames of each for a template.

May import ``alignment``, ``geometry``, ``pose`` and, inside functions, PyAV and scipy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_whole
from sfpose.geometry import similarity_to_canonical
from sfpose.pose import head_pose

if TYPE_CHECKING:
    from sfpose.alignment import FaceAligner

__all__ = ["Frame", "Track", "TrackedFace", "face_quality", "read_frames", "track_faces"]

_LEAST_TOWARDS = 0.1


class Frame(NamedTuple):
    """A picture of a video.

    Attributes
    ----------
    number : int
        From 0, counting frames that were left out too.
    seconds : float
        Time from the video's start.
    image : uint8 array of shape (H, W, 3), RGB

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.video import Frame
    >>> frame = Frame(3, 3 / 25, np.zeros((48, 64, 3), np.uint8))  # of a camera of your own
    >>> frame.seconds
    0.12
    """

    number: int
    seconds: float
    image: NDArray[np.uint8]


class TrackedFace(NamedTuple):
    """A face of a track that was kept.

    Attributes
    ----------
    number : int
        Of its frame.
    seconds : float
    image : uint8 array of shape (size, size, 3)
        Aligned crop, for ``FaceEmbedder(align="done")``.
    box : float64 array of shape (4,)
        Left, top, right, bottom in the frame.
    yaw : float
        Degrees, see ``sfpose.pose.head_pose``.
    quality : float
        0 to 1, see ``face_quality``.
    """

    number: int
    seconds: float
    image: NDArray[np.uint8]
    box: NDArray[np.float64]
    yaw: float
    quality: float


@dataclass
class Track:
    """One person's way through a video.

    Attributes
    ----------
    first, last : int
        Numbers of the first and last frame that show the face.
    seen : int
        Frames that show it.
    faces : list of TrackedFace
        Those that were kept, best first.
    """

    first: int
    last: int
    seen: int = 0
    faces: list[TrackedFace] = field(default_factory=list)
    _box: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4), repr=False)
    _given: int = field(default=0, repr=False)
    _stretches: dict[int, TrackedFace] = field(default_factory=dict, repr=False)

    @property
    def images(self) -> NDArray[np.uint8]:
        """Crops (n, size, size, 3) of the faces that were kept, best first."""
        return np.stack([face.image for face in self.faces])

    @property
    def quality(self) -> NDArray[np.float64]:
        """Qualities (n,), such as ``build_templates`` takes as weights."""
        return np.array([face.quality for face in self.faces])


def read_frames(path: str | os.PathLike[str], *, every: int = 1) -> Iterator[Frame]:
    """Decode a video one frame at a time, upright where the file says how it is turned.

    Parameters
    ----------
    path : path
    every : int, default=1
        Give each ``every``-th frame only.

    Yields
    ------
    Frame

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If PyAV is missing; says which extra to install.
    ValueError
        If ``every`` is below 1 or the file is no video.
    """
    check_whole(every, "every", 1)
    if not Path(path).is_file():
        raise FileNotFoundError(f"a video must be a file; there is none at {str(path)!r}")
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'reading a video needs PyAV, which is missing: pip install "sfpose[video]"'
        ) from error
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise ValueError(f"a video must hold pictures; {str(path)!r} holds none")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start = float((stream.start_time or 0) * (stream.time_base or 0))
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    seconds = float("nan") if frame.time is None else float(frame.time) - start
                    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                    yield Frame(number, seconds, _upright(image, frame))
    except av.FFmpegError as error:
        raise ValueError(f"{str(path)!r} must be a whole video; {error}") from error


def _upright(image: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """As it is to be shown: phones store a picture sideways, or mirrored, with a matrix."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no frame's data if there is some of a kind that it lacks
        return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
    if matrix is None:
        return image
    # Stored (x, y) are shown at (a x + c y, b x + d y).
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def face_quality(images: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much a template gains from a face: turned to the camera, sharp and large.

    The product of three shares: the cosine of the angle between the face and the
    camera, at least 0.1, the sharpness of the crop (variance of its Laplacian over that
    plus a tenth of the variance of its brightness), and its size (side of the canonical
    crop in pixels over 112, at most 1). The least cosine is that of 84 degrees: profiles
    are estimated on either side of 90, and are told apart by sharpness and size. It
    orders frames of one track; it is no measured error rate.

    Parameters
    ----------
    images : uint8 array of shape (n, size, size, 3)
        Aligned crops.
    landmarks : float64 array of shape (n, 5, 2)
        In pixels of the frame.

    Returns
    -------
    float64 array of shape (n,)
        0 to 1; 0 only for a crop without any edge.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.geometry import CANONICAL_LANDMARKS
    >>> from sfpose.video import face_quality
    >>> grey = np.full((1, 113, 113, 3), 128, np.uint8)
    >>> face_quality(grey, 200 * CANONICAL_LANDMARKS[None]).tolist()
    [0.0]
    """
    pose = head_pose(landmarks)
    towards = np.cos(np.radians(pose.yaw)) * np.cos(np.radians(pose.pitch))
    grey = np.asarray(images, dtype=np.float64).mean(axis=3)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    edges = (around - 4 * inner).var((1, 2))
    contrast = inner.var((1, 2))
    sharp = np.divide(edges, edges + 0.1 * contrast, out=np.zeros_like(edges), where=edges > 0)
    matrices = similarity_to_canonical(landmarks)
    size = np.minimum(1, np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) / 112)
    return np.asarray(np.maximum(_LEAST_TOWARDS, towards) * sharp * size)


def track_faces(
    frames: Iterable[Frame],
    aligner: FaceAligner,
    *,
    keep: int = 5,
    gap: int = 5,
    min_overlap: float = 0.3,
    patience: int = 10,
) -> list[Track]:
    """Follow faces through frames and keep the best of each.

    A face goes on with the track whose last box it overlaps most, those that overlap most of all
    first. Of each ``gap`` frames the best face is remembered, and of these the best ``3 * keep``,
    so that memory does not grow with the length of the video.

    Parameters
    ----------
    frames : iterable of Frame
        Such as ``read_frames`` gives.
    aligner : FaceAligner
        With a detector and ``policy="all"``.
    keep : int, default=5
        Faces to keep of each track.
    gap : int, default=5
        Kept faces lie at least so many frames apart, by their numbers: neighbours show
        the same.
    min_overlap : float, default=0.3
        Intersection over union of two boxes from which they belong to one track.
    patience : int, default=10
        Frames of ``frames`` that a face may be missing from before its track ends; those
        that ``read_frames(every=...)`` left out do not count.

    Returns
    -------
    list of Track
        In the order in which they began.

    Raises
    ------
    ValueError
        If ``aligner`` has no detector or would not take all faces, a number is out of range, or
        a frame is none or is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import FaceAligner
    >>> from sfpose.video import Frame, track_faces
    >>> rng = np.random.default_rng(0)
    >>> photo = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    >>> frames = [Frame(number, number / 25, photo) for number in range(12)]
    >>> aligner = FaceAligner(lambda photo: [(30, 20, 110, 100)], policy="all")
    >>> (track,) = track_faces(frames, aligner)
    >>> track.seen, len(track.faces)
    (12, 3)
    """
    if aligner.detector == "crop" or aligner.policy != "all":
        raise ValueError(
            'tracking needs FaceAligner(detector=..., policy="all"); '
            f"got detector {aligner.detector!r} and policy {aligner.policy!r}"
        )
    for name, value, least in (("keep", keep, 1), ("gap", gap, 1), ("patience", patience, 0)):
        check_whole(value, name, least)
    if not 0 < min_overlap <= 1:
        raise ValueError(f"min_overlap must be above 0 and at most 1; got {min_overlap}")
    tracks: list[Track] = []
    for given, frame in enumerate(frames):
        if not isinstance(frame, Frame):
            raise ValueError(
                "frames must be those of read_frames, or Frame(number, seconds, image); "
                f"got a {type(frame).__name__}"
            )
        try:
            found = aligner.align([frame.image])
        except ValueError as error:
            reason = str(error).removeprefix("image 0: ")
            raise ValueError(f"frame {frame.number}: {reason}") from error
        if not len(found.index):
            continue
        open_tracks = [track for track in tracks if given - track._given <= patience + 1]
        owners = _owners(found.boxes, open_tracks, min_overlap)
        quality = face_quality(found.images, found.landmarks)
        yaw = found.pose().yaw
        for row, owner in enumerate(owners):
            if owner is None:
                owner = Track(frame.number, frame.number)
                tracks.append(owner)
            owner.last = frame.number
            owner.seen += 1
            # A view would keep the crops of all faces of its frame in memory.
            image, box = found.images[row].copy(), found.boxes[row].copy()
            owner._box, owner._given = box, given
            face = TrackedFace(
                frame.number,
                frame.seconds,
                image,
                box,
                float(yaw[row]),
                float(quality[row]),
            )
            _remember(owner._stretches, face, keep, gap)
    for track in tracks:
        track.faces = _best(track._stretches.values(), keep, gap)
        track._stretches.clear()
    return tracks


def _remember(stretches: dict[int, TrackedFace], face: TrackedFace, keep: int, gap: int) -> None:
    """Keep a face if it is the best of its stretch of ``gap`` frames, and that among the best.

    One that is chosen in the end lies too near to those of two other stretches at most.
    """
    stretch = face.number // gap
    if stretch not in stretches or face.quality > stretches[stretch].quality:
        stretches[stretch] = face
    if len(stretches) > 3 * keep:
        # Of equally bad ones the later, as the earlier is chosen in the end.
        del stretches[min(stretches, key=lambda each: (stretches[each].quality, -each))]


def _owners(
    boxes: NDArray[np.float64], tracks: list[Track], min_overlap: float
) -> list[Track | None]:
    """The track that each box goes on with, none of them twice, the largest overlaps first."""
    owners: list[Track | None] = [None] * len(boxes)
    if tracks:
        overlaps = _overlaps(boxes, np.stack([track._box for track in tracks]))
        overlaps[overlaps < min_overlap] = 0
        while overlaps.any():
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            owners[row] = tracks[column]
            overlaps[row] = overlaps[:, column] = 0
    return owners


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each box of ``a`` with each of ``b``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.maximum(0, high - low).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return np.asarray(common / (areas[0][:, None] + areas[1][None] - common))


def _best(faces: Iterable[TrackedFace], keep: int, gap: int) -> list[TrackedFace]:
    """The best faces, best first, any two at least ``gap`` frames apart."""
    chosen: list[TrackedFace] = []
    for face in sorted(faces, key=lambda face: -face.quality):
        if all(abs(face.number - other.number) >= gap for other in chosen):
            chosen.append(face)
    return chosen[:keep]
