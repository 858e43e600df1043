"""Faces in a video: tracks of people, and the best frames of each for a template.

May import ``_frames``, ``alignment``, ``geometry`` and ``pose``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_whole
from sfpose._frames import Frame, read_frames
from sfpose.geometry import similarity_to_canonical
from sfpose.pose import head_pose

if TYPE_CHECKING:
    from sfpose.alignment import FaceAligner

__all__ = ["Frame", "Track", "TrackedFace", "face_quality", "read_frames", "track_faces"]

_LEAST_TOWARDS = 0.1


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


def face_quality(images: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much a template gains from a face: turned to the camera, sharp and large.

    The product of four shares: the cosine of the angle between the face and the
    camera, at least 0.1, the sharpness of the crop (variance of its Laplacian over that
    plus a tenth of the variance of its brightness), its size (side of the canonical
    crop in pixels over 112, at most 1) and what of it lies in the frame: pixels that are black
    in all channels do not, and the edge between these and others is no sharpness. The least
    cosine is that of 84 degrees: profiles are estimated on either side of 90, and are told apart
    by the other shares. It orders frames of one track; it is no measured error rate.

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
    seen = (np.asarray(images) != 0).any(axis=3)
    grey = np.asarray(images, dtype=np.float64).mean(axis=3)
    whole = seen[:, 1:-1, 1:-1] & np.logical_and.reduce(_neighbours(seen))
    inner = grey[:, 1:-1, 1:-1]
    edges = _variance(sum(_neighbours(grey)) - 4 * inner, whole)
    contrast = _variance(inner, whole)
    sharp = np.divide(edges, edges + 0.1 * contrast, out=np.zeros_like(edges), where=edges > 0)
    matrices = similarity_to_canonical(landmarks)
    size = np.minimum(1, np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) / 112)
    return np.asarray(np.maximum(_LEAST_TOWARDS, towards) * sharp * size * seen.mean((1, 2)))


def _neighbours(pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """Above, below, left and right of all but the outermost pixels of (n, h, w)."""
    return [
        pixels[:, :-2, 1:-1],
        pixels[:, 2:, 1:-1],
        pixels[:, 1:-1, :-2],
        pixels[:, 1:-1, 2:],
    ]


def _variance(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the pixels (n, h, w) that are counted: (n,); 0 where none is."""
    number = np.maximum(counted.sum((1, 2)), 1)
    mean = (values * counted).sum((1, 2)) / number
    apart = (values - mean[:, None, None]) ** 2
    return np.asarray((apart * counted).sum((1, 2)) / number)


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
