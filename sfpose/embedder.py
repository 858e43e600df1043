"""FaceEmbedder: from face images to descriptors, as a scikit-learn transformer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from sfpose._checks import check_jobs, check_labels
from sfpose._embedding import Align, Cropper, Embedding, MinFaceScore, crop_kind
from sfpose._estimators import KeepsWhatItMade
from sfpose.preprocessing import count_images
from sfpose.runtime.artifact import Artifact, read_artifact, write_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from sklearn.utils import Tags

    from sfpose.preprocessing import ImageLike, Images

__all__ = ["FaceEmbedder"]


class FaceEmbedder(KeepsWhatItMade, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embed face images as descriptors whose chi-square distance tells people apart.

    Without ``fit``, ``transform`` runs the weights that ship with the library, on
    the CPU and without any network access. ``fit`` trains the network to identify
    people, starting from ``weights``; afterwards ``transform`` runs what was
    trained. Training needs ``pip install "sfpose[train]"``.

    Parameters
    ----------
    weights : str, path or None, default="default"
        A shipped name, or the path of an artifact (folder or zip): ``"default"`` errs least,
        ``"small"`` takes a quarter of its time and a third of its size, ``"plain"`` is the
        network of the paper. None starts ``fit`` from random weights. Tell the verifier which
        ones, ``TemplateVerifier(weights="small")``: thresholds of others do not hold.
    network : str, default="squeezefaceposenet"
        Architecture that ``fit`` trains when ``weights`` is None; otherwise the
        artifact's own. One of those of ``sfpose.networks.NETWORKS`` whose values are
        >= 0, as the chi-square distance needs.
    align : bool, "auto" or "done", default="auto"
        If True, turn and scale each image by five landmarks, found by the landmark
        network that ships with the library. The images are then loose crops of one
        face, as any face detector gives them. If False, take the paper's crop:
        shorter side to 256, centre 224x224, scaled to the network's size. "auto"
        does what the weights were trained with; the shipped ones were aligned. "done"
        says that the images are aligned crops already, as ``FaceAligner`` gives
        them, to be scaled only. **No face is looked for then**: whole photos would all pass for
        one person, so what is not square is refused.
    min_face_score : float or "auto", default="auto"
        Where images are aligned, the face score of
        ``FaceAligner.find_landmarks``, 0 to 1, below which an image shows no face
        and gets a row of NaN. "auto" takes what the landmark network states of itself;
        0 embeds everything, pictures of no face too, which then pass for each other.
        ``fit`` learns from every image.
    batch_size : int, default=32
        Images a step in ``fit``. In ``transform``, images that are decoded and aligned together;
        fewer where photos are large, which are not held in memory together. The network then sees
        an image a thread at a time, which is faster than more.
    n_jobs : int, default=None
        Threads inside the network. None means one unless in a
        ``joblib.parallel_config``, -1 means all processors. ``fit`` crops by them, and trains by
        as many as torch is told (``torch.set_num_threads``).
    epochs : int, default=10
        Passes over the training images.
    learning_rate : float or "auto", default="auto"
        Of stochastic gradient descent with momentum, falling to zero along a straight line.
        "auto" is the paper's 0.01 for random weights and 1e-4 for ``weights``, which
        forget others by more where few people are learned (``benchmarks/learning_on.py``).
    train_size : int, default=None
        Side of the training images in pixels; smaller trains faster. For networks that end in a
        global average, as ``"plain"`` does; ``"default"`` and ``"small"`` have weights for
        places. The last fifth of the images is always seen at the size that the trained network
        will take: that of ``weights``, or the architecture's own. None trains at that size
        throughout.
    random_state : int, default=0
        Seeds weights, order and augmentation.
    device : str, default="auto"
        torch device of ``fit``; ``"auto"`` takes CUDA where there is one.
    verbose : bool, default=False
        Show a progress bar in ``fit`` and ``transform``, on a terminal only.

    Attributes
    ----------
    artifact_ : Artifact
        What ``fit`` trained; only after ``fit``.
    classes_ : array of shape (n_people,)
        The people that ``fit`` saw; only after ``fit``.
    history_ : list of dict
        Measurements after each pass; only after ``fit``.

    See Also
    --------
    FaceAligner : The alignment alone.
    TemplateVerifier : From descriptors to a decision.

    References
    ----------
    Alonso-Fernandez et al., "SqueezeFacePoseNet: Lightweight Face Verification
    Across Different Poses for Mobile Platforms".

    Examples
    --------
    >>> import numpy as np
    >>> from skimage import data
    >>> from sfpose import FaceEmbedder
    >>> face = data.astronaut()[45:205, 150:310]
    >>> descriptors = FaceEmbedder().transform([face, np.full((96, 96, 3), 30, np.uint8)])
    >>> descriptors.shape, descriptors.dtype
    ((2, 256), dtype('float32'))
    >>> np.isnan(descriptors).any(axis=1)  # the second shows nobody
    array([False,  True])
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = "default",
        *,
        network: str = "squeezefaceposenet",
        align: Align = "auto",
        min_face_score: MinFaceScore = "auto",
        batch_size: int = 32,
        n_jobs: int | None = None,
        epochs: int = 10,
        learning_rate: float | Literal["auto"] = "auto",
        train_size: int | None = None,
        random_state: int = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.weights = weights
        self.network = network
        self.align = align
        self.min_face_score = min_face_score
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.train_size = train_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Images, y: ArrayLike) -> FaceEmbedder:
        """Train the network to tell the people of ``y`` apart.

        Identification with softmax cross-entropy (section 4): batch normalisation,
        dropout and a fully connected layer on top of the descriptor, dropped after
        training.

        Parameters
        ----------
        X : sequence of images
            uint8 RGB arrays of any size, one array of shape (n, H, W, 3), Pillow
            images, or paths of JPEG, PNG and WebP files. Paths are decoded once;
            what stays in memory are the crops.
        y : array of shape (n,)
            Whose face each image shows.

        Returns
        -------
        FaceEmbedder
            Itself.

        Raises
        ------
        ImportError
            If torch or onnx is missing; says which extra to install.
        ValueError
            If an image is refused, lengths differ, a label is missing, there are fewer than
            two people, ``epochs``, ``batch_size``, ``train_size`` or ``random_state`` is no
            whole number or too small, ``learning_rate`` is neither "auto" nor a finite number
            above 0, or there is no such ``network`` or its descriptor has negative values.
        """
        try:
            import onnx  # noqa: F401
            import torch  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"FaceEmbedder.fit needs torch and onnx, and {error.name!r} is missing: "
                'pip install "sfpose[train]"'
            ) from error
        from sfpose.training.identification import (
            CANVAS_SCALE,
            IdentificationSettings,
            canvas_size,
            train_identification,
        )

        rule = "y must name one person for each image"
        classes, labels = check_labels(y, count_images(X), rule)
        if len(classes) < 2:
            raise ValueError(f"fit needs images of at least two people; got {len(classes)}")
        start = None if self.weights is None else read_artifact(self.weights)
        settings = IdentificationSettings(
            network=self.network,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            train_size=self.train_size,
            seed=self.random_state,
            device=self.device,
            progress=self.verbose,
        )
        kind = crop_kind(self.align, start)
        threads = effective_n_jobs(check_jobs(self.n_jobs))
        cropper = Cropper(kind, threads, min_face_score=0)
        parts = cropper(X, canvas_size(settings, start), CANVAS_SCALE)
        crops = _stacked((part for part, _ in parts), len(labels))
        artifact, history = train_identification(
            crops, labels, settings, start=start, aligned=kind != "loose"
        )
        if start is not None and kind == crop_kind("auto", start):
            # Or "auto" would not crop any more as these images were cropped.
            stated = start.manifest
            kept = {name: stated[name] for name in ("bundle", "crops") if name in stated}
            artifact = Artifact(artifact.model, {**artifact.manifest, **kept})
        self.artifact_ = artifact
        self.history_ = history
        self.classes_ = classes
        return self

    def transform(self, X: Images) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        X : sequence of images
            uint8 RGB arrays of any size, one array of shape (n, H, W, 3), Pillow
            images, or paths of JPEG, PNG and WebP files, mixed as they come.

        Returns
        -------
        float32 array of shape (n, d)
            Non-negative descriptors of ``n_features_out`` values: 256 with ``"default"`` and
            ``"small"``, 1000 with ``"plain"`` and ``"plain-int8"``; rows sum to 1 if the weights
            say so (the shipped ones do). The row of an image without a face (see
            ``min_face_score``), or in which the network finds nothing at all, is NaN: a failure
            to acquire, which scoring refuses.

        Raises
        ------
        ValueError, FileNotFoundError
            If ``X`` is empty or not ordered, an image of it is refused, with ``align="done"``
            one that is not square, or the weights are of another format.
        """
        if not self.verbose:
            return self._embedding()(X)
        from tqdm import tqdm

        with tqdm(total=count_images(X), desc="embedding", unit="image", disable=None) as bar:
            return self._embedding()(cast("Images", _Watched(X, bar.update)))

    def _embedding(self) -> Embedding:
        threads = effective_n_jobs(check_jobs(self.n_jobs))
        settings = (self.align, self.min_face_score, self.batch_size, threads)
        return self._made_for((self._source(), *settings), lambda: self._make(threads))[1]

    def _make(self, threads: int) -> tuple[Artifact, Embedding]:
        artifact = self.artifact
        embedding = Embedding(
            artifact,
            align=self.align,
            min_face_score=self.min_face_score,
            batch_size=self.batch_size,
            n_threads=threads,
        )
        return artifact, embedding

    def _source(self) -> tuple[str, object]:
        """Where the network comes from."""
        fitted = getattr(self, "artifact_", None)
        return ("weights", self.weights) if fitted is None else ("fit", fitted.digest)

    @property
    def artifact(self) -> Artifact:
        """The network that ``transform`` runs, with its manifest.

        Weights are read at the first call, so that a file that is replaced meanwhile counts for
        estimators made later.
        """
        if hasattr(self, "artifact_"):
            return self.artifact_
        if self.weights is None:
            raise NotFittedError(
                "weights=None starts from random weights: call fit before transform"
            )
        source = self._source()
        for key, made in list(self._kept().items()):
            if key[0] == source:
                running: Artifact = made[0]
                return running
        return read_artifact(self.weights)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the weights that ``transform`` runs as an artifact folder.

        Parameters
        ----------
        path : path
            The folder to make; give it to ``FaceEmbedder(weights=path)`` later.
        overwrite : bool, default=False

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If there is something at ``path`` already.
        """
        artifact = self.artifact
        return write_artifact(path, artifact.model, artifact.manifest, overwrite=overwrite)

    @property
    def n_features_out(self) -> int:
        """Width of the descriptor."""
        return self.artifact.descriptor_size

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the descriptor's values, for ``set_output``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        object array of shape (n_features_out,)
        """
        name = type(self).__name__.lower()
        return np.array([f"{name}{number}" for number in range(self.n_features_out)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "artifact_") or self.weights is not None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = self.weights is None
        tags.target_tags.required = True
        return tags


class _Watched:
    """Images that say when each of them is taken: all that embedding needs of a sequence."""

    def __init__(self, images: Images, taken: Callable[[], object]) -> None:
        self._images, self._taken = images, taken

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ImageLike]:
        for image in self._images:
            self._taken()
            yield image


def _stacked(parts: Iterable[Sequence[NDArray[np.uint8]]], count: int) -> NDArray[np.uint8]:
    """Crops (n, side, side, 3) of so many images, of which no more than a part is there twice."""
    crops = np.empty(0, np.uint8)
    end = 0
    for part in parts:
        if not end:
            crops = np.empty((count, *part[0].shape), np.uint8)
        crops[end : end + len(part)] = part
        end += len(part)
    return crops
