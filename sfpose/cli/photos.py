"""What the subcommands share: options of embedding, progress, photos by name in errors."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sfpose.cli.arguments import at_least_one
from sfpose.cli.output import note

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfpose.alignment import FaceAligner
    from sfpose.runtime.artifact import Artifact, Manifest

__all__ = [
    "Faces",
    "add_detector_options",
    "add_embedding_options",
    "add_photo_options",
    "add_progress_option",
    "check_crops",
    "check_one_face",
    "check_policy",
    "embed_photos",
    "in_steps",
    "naming",
    "readable",
]

_POLICIES = ("error", "skip", "largest", "centre", "all")
_Image = TypeVar("_Image")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Faces:
    """Descriptors (n, d), for each the row of the photo that it comes from, and what made them."""

    descriptors: NDArray[np.float32]
    index: NDArray[np.int64]
    artifact: Artifact

    def check_kept(self, manifest: Manifest, weights: str) -> None:
        """Refuse weights that were replaced between what was read of them and these.

        Raises
        ------
        ValueError
        """
        if self.artifact.manifest != manifest:
            raise ValueError(
                f"weights must stay as they are while they are used; {weights!r} was replaced"
            )


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how photos become descriptors."""
    add_embedding_options(parser)
    add_detector_options(parser)
    parser.add_argument(
        "--leave-out-unreadable",
        action="store_true",
        help="go on without photos that are cut off, cannot be decoded or are of another kind, "
        "and name them, which decodes each photo twice; damage inside a JPEG or WebP may go "
        "unnoticed (default: stop at the first)",
    )


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say with which weights, and how fast, images are embedded."""
    parser.add_argument("--weights", default="default", help="shipped name or path of an artifact")
    parser.add_argument("--batch-size", type=at_least_one, default=32, metavar="N")
    parser.add_argument(
        "--n-jobs", type=int, default=-1, metavar="N", help="threads (default: all)"
    )
    add_progress_option(parser)


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that hides the bar, which shows on a terminal only."""
    parser.add_argument(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="no progress bar, which shows on a terminal only",
    )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which faces of a photo are meant."""
    parser.add_argument(
        "--detector",
        default="crop",
        metavar="NAME",
        help='"crop": each photo is a loose crop of one face already (default); '
        '"libfacedetection": find faces in whole photos (needs pip install "sfpose[detector]"); '
        "or the path of a YuNet .onnx file (needs OpenCV)",
    )
    parser.add_argument(
        "--policy",
        choices=_POLICIES,
        help="which faces of a photo to take, with --detector; error refuses a photo that does "
        "not show exactly one, skip leaves it out (default: largest)",
    )


def check_policy(options: argparse.Namespace) -> None:
    """Refuse a choice among faces where each photo is taken for one.

    Raises
    ------
    ValueError
    """
    if options.detector == "crop" and options.policy is not None:
        raise ValueError(
            f"--policy needs a --detector that finds faces in photos; got {options.detector!r}"
        )


def in_steps(
    images: Sequence[_Image],
    names: Sequence[str | Path],
    step: int,
    work: Callable[[int, Sequence[_Image]], _Result],
    *,
    label: str = "embedding",
    progress: bool = True,
) -> list[_Result]:
    """Results of ``work(start, part)`` over parts, with a bar that shows on a terminal only.

    Raises
    ------
    ValueError, OSError
        As ``work`` raises them, with the image's name where they tell its number in the part.
    """
    from tqdm import tqdm

    done = []
    for start in tqdm(
        range(0, len(images), step), desc=label, unit="batch", disable=None if progress else True
    ):
        with naming(names[start:]):
            done.append(work(start, images[start : start + step]))
    return done


@contextlib.contextmanager
def naming(names: Sequence[str | Path]) -> Iterator[None]:
    """Call images by their names in errors that tell their numbers.

    Raises
    ------
    ValueError, OSError
        As they are raised in the block, with the image's name instead of its number.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        kind = ValueError if isinstance(error, ValueError) else type(error)
        raise kind(_named(str(error), names)) from error


def _aligner(options: argparse.Namespace) -> FaceAligner | None:
    check_policy(options)
    if options.detector == "crop":
        return None
    from sfpose.alignment import FaceAligner
    from sfpose.detectors import Detector, LibFaceDetection, YuNet

    detector: Detector
    if options.detector == "libfacedetection":
        detector = LibFaceDetection()
    elif options.detector.endswith(".onnx"):
        detector = YuNet(options.detector)
    else:
        raise ValueError(
            'detector must be "crop", "libfacedetection" or the path of a YuNet .onnx file; '
            f"got {options.detector!r}"
        )
    return FaceAligner(detector, policy=options.policy or "largest", n_jobs=options.n_jobs)


def check_crops(artifact: Artifact, options: argparse.Namespace) -> None:
    """Refuse to give weights faces that are aligned where they take others, or the reverse.

    Raises
    ------
    ValueError
    """
    from sfpose._embedding import crop_kind

    kind = crop_kind("auto", artifact)
    if options.detector == "crop" and kind == "done":
        raise ValueError(
            f"the weights of {str(options.weights)!r} take faces that are aligned already, which "
            "photos are not: name a --detector"
        )
    if options.detector != "crop" and kind == "loose":
        raise ValueError(
            "a detector's faces are aligned, and the weights must take them so; those of "
            f"{str(options.weights)!r} take loose crops: leave out --detector"
        )


def embed_photos(photos: Sequence[Path], options: argparse.Namespace) -> Faces:
    """Descriptors of photos by the options of ``add_photo_options``.

    Without a detector there is one row a photo, NaN where nothing was found.

    Raises
    ------
    ValueError, FileNotFoundError
        If a photo is refused; the message names it.
    """
    import numpy as np

    from sfpose.embedder import FaceEmbedder

    aligner = _aligner(options)
    embedder = FaceEmbedder(
        options.weights,
        align="auto" if aligner is None else "done",
        batch_size=options.batch_size,
        n_jobs=options.n_jobs,
    )

    check_crops(embedder.artifact, options)

    def embed(start: int, part: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if aligner is None:
            return embedder.transform(part), start + np.arange(len(part))
        faces = aligner.align(part)
        if not len(faces.index):
            return np.zeros((0, embedder.n_features_out), np.float32), faces.index
        return embedder.transform(faces.images), start + faces.index

    done = in_steps(photos, photos, 4 * options.batch_size, embed, progress=options.progress)
    rows, index = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return Faces(rows, index, embedder.artifact)


def readable(photos: Sequence[Path], options: argparse.Namespace) -> tuple[list[int], list[str]]:
    """Rows of the photos to go on with, and the names of those that are left out if so asked.

    Raises
    ------
    ValueError
        If none is left.
    """
    if not options.leave_out_unreadable:
        return list(range(len(photos))), []
    from sfpose.preprocessing import read_image

    def refusal(_start: int, photo: Sequence[Path]) -> str | None:
        try:
            read_image(photo[0])
        except ValueError as error:
            return str(error)
        return None

    told = in_steps(photos, photos, 1, refusal, label="reading", progress=options.progress)
    for reason in told:
        if reason is not None:
            note(f"left out: {reason}")
    rows = [row for row, reason in enumerate(told) if reason is None]
    if not rows:
        raise ValueError("there must be a photo that can be read; there is none")
    return rows, [str(photos[row]) for row, reason in enumerate(told) if reason is not None]


def check_one_face(photos: Sequence[str | Path], faces: Faces) -> None:
    """Refuse photos of which several faces were taken, where they are to show one person.

    Raises
    ------
    ValueError
    """
    import numpy as np

    for number in np.flatnonzero(np.bincount(faces.index, minlength=1) > 1)[:1]:
        raise ValueError(
            f"one face of a photo must be meant; {(faces.index == number).sum()} were taken in "
            f"{str(photos[number])!r}"
        )


def _named(message: str, names: Sequence[str | Path]) -> str:
    """The message about ``image N``, or ``image N ('path')``, with the image's name instead."""
    told = re.match(r"image (\d+)(?: \(.*?\))?: (.*)", message, re.DOTALL)
    return message if told is None else f"{names[int(told[1])]}: {told[2]}"
