"""FaceAligner: from photos to the aligned face crops that the weights expect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from sfpose._batches import name_image
from sfpose._checks import check_jobs, check_number, check_whole
from sfpose._embedding import Aligner, MinFaceScore
from sfpose._estimators import GivesImages, KeepsWhatItMade, NeedsNoFit
from sfpose.detectors import Detector, detect_faces
from sfpose.geometry import similarity_to_canonical, widen_matrix
from sfpose.pose import HeadPose, head_pose
from sfpose.preprocessing import aligned_crop, count_images, iterate_images

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from sfpose.preprocessing import Images

__all__ = ["AlignedFaces", "FaceAligner", "Policy"]

Policy: TypeAlias = Literal["error", "skip", "largest", "centre", "all"]

_POLICIES = ("error", "skip", "largest", "centre", "all")


class _Found(NamedTuple):
    """Faces of a group of photos: the photo that each is in and its number, and where in it."""

    photos: list[NDArray[np.uint8]]
    landmarks: NDArray[np.float64]
    boxes: NDArray[np.float64]
    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class AlignedFaces:
    """Aligned crops, and where in the photos they come from.

    Attributes
    ----------
    images : uint8 array of shape (n, size, size, 3)
        The crops, for ``FaceEmbedder(align="done")`` where ``margin`` is 1.
    landmarks : float64 array of shape (n, 5, 2)
        Pixel coordinates in the photo: the eye on the image's left, the other eye, nose
        tip, the mouth corner on the image's left, the other one.
    boxes : float64 array of shape (n, 4)
        Left, top, right, bottom in the photo, as the detector gave them.
    index : int64 array of shape (n,)
        Number of the photo that each face was found in.
    scores : float64 array of shape (n,)
        Face score by the landmark network, 0 to 1, as ``FaceAligner.find_landmarks``
        gives it; NaN where a detector gave the landmarks.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import FaceAligner
    >>> aligner = FaceAligner(min_face_score=0)
    >>> faces = aligner.align([np.full((200, 160, 3), 128, np.uint8)])
    >>> faces.images.shape, faces.landmarks.shape, faces.pose().yaw.shape
    ((1, 113, 113, 3), (1, 5, 2), (1,))
    >>> faces.scores < 0.5
    array([ True])
    """

    images: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    boxes: NDArray[np.float64]
    index: NDArray[np.int64]
    scores: NDArray[np.float64]

    def pose(self) -> HeadPose:
        """Yaw, pitch and roll of each head, by ``sfpose.pose.head_pose``."""
        return head_pose(self.landmarks)


class FaceAligner(GivesImages, KeepsWhatItMade, NeedsNoFit, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Find faces in photos; turn, scale and crop them by five landmarks.

    The crop is turned and scaled so that the landmarks come to lie where the
    descriptor network expects them. Landmarks come from the detector or, where it gives boxes
    alone or an upright face's landmarks of one that lies on its side or upside down, from a small
    network that ships with the library.

    Parameters
    ----------
    detector : "crop" or callable, default="crop"
        "crop" says that each image is a loose crop of one face, as any face detector
        gives it. Else a detector from ``sfpose.detectors``, or any callable that
        takes a photo, uint8 RGB of shape (H, W, 3), and returns boxes, shape (n, 4),
        left, top, right, bottom in pixels, or a pair of boxes and landmarks, shape (n, 5, 2),
        in the order of ``AlignedFaces.landmarks``.
    policy : str, default="error"
        Which faces of a photo are taken. "error": a photo must show exactly one face,
        or ValueError is raised. "skip": a photo that does not show exactly one face is
        left out. "largest", "centre": the largest face, or the one nearest to the
        photo's centre; "all": all of them; for these three, a photo without a face is
        left out. ``align`` says which photo each crop comes from. A crop shows one
        face or none.
    min_face : float, default=20
        Faces whose box has a shorter side below this many pixels count as not there;
        not for crops.
    min_face_score : float or "auto", default="auto"
        For crops: the face score of ``find_landmarks``, 0 to 1, below which a crop
        shows no face. "auto" takes what the landmark network states of itself; 0 takes
        every crop. A detector answers for its own faces, of which those that are blurred or
        cut off above the eyes or below the mouth count as not there.
    size : int, default=113
        Side of the crops in pixels.
    margin : float, default=1.0
        Side of what a crop shows, in sides of the canonical crop; larger values show
        more of what surrounds the face, for people to look at: ``FaceEmbedder(align="done")``
        takes crops of 1 alone, and by others accepts strangers.
    weights : str or path, default="landmarks"
        Artifact of the landmark network.
    batch_size : int, default=32
        Images that are decoded together; fewer where they are large.
    n_jobs : int, default=None
        Threads inside the network. None means one unless in a
        ``joblib.parallel_config``, -1 means all processors.

    See Also
    --------
    FaceEmbedder : Aligns loose crops by itself unless told otherwise.

    Examples
    --------
    >>> from skimage import data
    >>> from sfpose import FaceAligner
    >>> photo = data.astronaut()
    >>> FaceAligner().transform([photo[45:205, 150:310]]).shape
    (1, 113, 113, 3)

    A detector of your own, here one that always says the same:

    >>> aligner = FaceAligner(detector=lambda photo: [(170, 60, 270, 180)])
    >>> faces = aligner.align([photo])
    >>> faces.images.shape, faces.boxes.tolist(), faces.index.tolist()
    ((1, 113, 113, 3), [[170.0, 60.0, 270.0, 180.0]], [0])
    """

    def __init__(
        self,
        detector: Literal["crop"] | Detector = "crop",
        *,
        policy: Policy = "error",
        min_face: float = 20,
        min_face_score: MinFaceScore = "auto",
        size: int = 113,
        margin: float = 1.0,
        weights: str | os.PathLike[str] = "landmarks",
        batch_size: int = 32,
        n_jobs: int | None = None,
    ) -> None:
        self.detector = detector
        self.policy = policy
        self.min_face = min_face
        self.min_face_score = min_face_score
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

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def find_landmarks(self, X: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find five landmarks in loose crops, by the landmark network.

        Parameters
        ----------
        X : sequence of images
            Each a loose crop of one face, whatever ``detector`` is: uint8 RGB arrays of
            any size, one array of shape (n, H, W, 3), Pillow images, or paths.

        Returns
        -------
        landmarks : float64 array of shape (n, 5, 2)
            Pixel coordinates: the eye on the image's left, the other eye, nose tip,
            the mouth corner on the image's left, the other one. Those of the second look, unless
            it moved them by more than 0.036 of the canonical crop's side or the score is in doubt:
            then the mean, by its likelihood, of what is found in the crop turned by 30 degrees to
            either side and not turned. All of this is of the crop turned by a quarter where looks
            are surer of a face so, as of one that lies on its side; one upside down is refused.
        scores : float64 array of shape (n,)
            How surely the crop shows a face, 0 to 1: the answer of two looks, at the whole
            crop and at the face that the first look found, by the mean of their logits. Where it
            would be between 0.01 and 0.99, that of 18 looks: at the crop, at less and at more than
            it, and at their mirror images, each followed by two at what it found. 0 where the
            face is blurred, or cut off above the eyes or below the mouth.

        Raises
        ------
        ValueError, FileNotFoundError
            If ``X`` is empty or an image of it is refused.
        """
        landmarks, scores = [], []
        for batch, *found in self._aligner().landmarks(X):
            del batch  # or it would be held while the next one is decoded
            landmarks.append(found[0])
            scores.append(found[1])
        return np.concatenate(landmarks), np.concatenate(scores)

    def align(self, X: Images) -> AlignedFaces:
        """Find, choose and align the faces of photos.

        Parameters
        ----------
        X : sequence of images
            uint8 RGB arrays of any size, one array of shape (n, H, W, 3), Pillow
            images, or paths.

        Returns
        -------
        AlignedFaces
            Crops with landmarks, boxes and the number of the photo of each; in the order
            of the photos and, within one, of the detector.

        Raises
        ------
        ValueError, FileNotFoundError
            If ``X`` is empty or an image of it is refused, a parameter is none of its
            values, the detector gives something else than boxes, or, with
            ``policy="error"``, a photo does not show exactly one face or a crop none.
        """
        size = check_whole(self.size, "size", 1)
        widen = widen_matrix(check_number(self.margin, "margin", above=0))
        check_number(self.min_face, "min_face")
        crops = [np.zeros((0, size, size, 3), np.uint8)]
        none = np.zeros(0)
        groups = [_Found([], none.reshape(0, 5, 2), none.reshape(0, 4), none.astype(int), none)]
        for found in self._faces(X):
            matrices = similarity_to_canonical(found.landmarks) @ widen
            crops += [
                aligned_crop(photo, matrix, size)[None]
                for photo, matrix in zip(found.photos, matrices, strict=True)
            ]
            # Not the photos: they may be many, and large while the next ones are decoded.
            groups.append(found._replace(photos=[]))
            del found
        _, landmarks, boxes, numbers, scores = zip(*groups, strict=True)
        return AlignedFaces(
            np.concatenate(crops),
            np.concatenate(landmarks),
            np.concatenate(boxes),
            np.concatenate(numbers).astype(np.int64),
            np.concatenate(scores),
        )

    def transform(self, X: Images) -> NDArray[np.uint8]:
        """Align the faces of photos: the crops of ``align`` alone.

        Parameters
        ----------
        X : sequence of images
            As for ``align``.

        Returns
        -------
        uint8 array of shape (n, size, size, 3)
            One a photo with ``policy="error"``; with the others there may be fewer, or
            with "all" more.

        Raises
        ------
        ValueError, FileNotFoundError
            As for ``align``; and where a table is asked for, as ``set_output`` says.
        """
        self._check_rows(X)
        faces = self.align(X)
        self._check_all_kept(faces.index, count_images(X))
        return faces.images

    def _faces(self, X: Images) -> Iterator[_Found]:
        """Faces in groups."""
        if self.policy not in _POLICIES:
            raise ValueError(f"policy must be one of {_POLICIES}; got {self.policy!r}")
        count_images(X)
        if isinstance(self.detector, type):
            raise ValueError(
                f"detector must be 'crop' or a callable that takes a photo; got the class "
                f"{self.detector.__name__}: make an instance of it"
            )
        if callable(self.detector):
            return self._detected(self.detector, X)
        if not isinstance(self.detector, str) or self.detector != "crop":
            raise ValueError(f"detector must be 'crop' or a callable; got {self.detector!r}")
        return self._cropped(X)

    def _cropped(self, X: Images) -> Iterator[_Found]:
        first = 0
        aligner = self._aligner()
        for batch, points, scores in aligner.landmarks(X):
            rows = np.flatnonzero(scores >= aligner.min_face_score)
            if self.policy == "error" and len(rows) < len(batch):
                number = int(np.argmax(scores < aligner.min_face_score))
                raise ValueError(
                    f"{name_image(X, first + number)}: a crop must show a face, with a score of at "
                    f"least {aligner.min_face_score:g}; got {scores[number]:.2g}: leave it out by "
                    "policy='skip', or choose another; 0 is said of what is blurred or cut off"
                )
            shown = [batch[row] for row in rows]
            boxes = np.array([[0, 0, image.shape[1], image.shape[0]] for image in shown], float)
            first, numbers = first + len(batch), first + rows
            del batch
            yield _Found(shown, points[rows], boxes.reshape(-1, 4), numbers, scores[rows])
            del shown

    def _detected(self, detector: Detector, X: Images) -> Iterator[_Found]:
        photos = iterate_images(X)
        # Not enumerate, which holds a photo while the next one is decoded.
        for number in range(count_images(X)):
            photo = next(photos)
            try:
                boxes, landmarks = detect_faces(detector, photo)
                rows = self._chosen(boxes, photo.shape)
            except ValueError as error:
                raise ValueError(f"{name_image(X, number)}: {error}") from error
            if not len(rows):
                continue
            given = None if landmarks is None else landmarks[rows]
            points, scores, kept = self._aligner().faces_in(photo, boxes[rows], given)
            if self.policy == "error" and not kept.all():
                raise ValueError(
                    f"{name_image(X, number)}: a face must be sharp, and in the photo from above "
                    "its eyes to below its mouth; got a blurred one, or one that is cut off"
                )
            rows, points, scores = rows[kept], points[kept], scores[kept]
            held, numbers = [photo] * len(rows), np.full(len(rows), number)
            del photo
            yield _Found(held, points, boxes[rows], numbers, scores)
            del held

    def _chosen(self, boxes: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Rows of the faces that the policy takes."""
        sides = boxes[:, 2:] - boxes[:, :2]
        rows = np.flatnonzero(sides.min(1, initial=np.inf) >= self.min_face)
        if self.policy == "all" or not (len(rows) or self.policy == "error"):
            return rows
        if self.policy == "largest":
            return rows[[sides[rows].prod(1).argmax()]]
        if self.policy == "centre":
            middle = np.array([shape[1], shape[0]]) / 2
            away = np.linalg.norm((boxes[rows, :2] + boxes[rows, 2:]) / 2 - middle, axis=1)
            return rows[[away.argmin()]]
        if len(rows) == 1:
            return rows
        if self.policy == "skip":
            return rows[:0]
        small = len(boxes) - len(rows)
        raise ValueError(
            f"a photo must show exactly one face of at least {self.min_face:g} pixels; "
            f"got {len(rows)}"
            + (f" and {small} smaller" if small else "")
            + f": choose another policy than 'error', of {_POLICIES[1:]}, or another photo"
        )

    def _aligner(self) -> Aligner:
        threads = effective_n_jobs(check_jobs(self.n_jobs))
        key = (self.weights, self.batch_size, threads, self.min_face_score)
        return self._made_for(
            key,
            lambda: Aligner(
                self.weights,
                n_threads=threads,
                batch_size=self.batch_size,
                min_face_score=self.min_face_score,
            ),
        )
