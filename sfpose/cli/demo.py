"""``sfpose demo``: enrolment and verification on two public-domain portraits."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# Where the faces are, as a face detector would say it: left, top, right, bottom.
_HOPPER = (140, 90, 390, 345)
_COLLINS = (150, 45, 310, 205)


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demo",
        help="enrol and verify two people from pictures that come with packages",
        description="Enrol Grace Hopper (a portrait that matplotlib carries) from three crops, "
        "then compare with another crop of her and with Eileen Collins (a portrait that "
        "scikit-image carries). Both portraits are in the public domain. Needs "
        'pip install "sfpose[demo]".',
    )
    parser.set_defaults(run=run)


def _portraits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        import matplotlib
        import skimage
    except ImportError as error:
        raise ImportError(
            f"the demo needs the portraits of matplotlib and scikit-image, and {error.name!r} is "
            'missing: pip install "sfpose[demo]"'
        ) from error
    from sfpose.preprocessing import read_image

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    collins = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return read_image(hopper), read_image(collins)


def _crop(
    image: NDArray[np.uint8], box: tuple[int, int, int, int], grow: float = 0.0, shift: int = 0
) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    more = round(grow * (right - left))
    return image[
        max(0, top - more + shift) : bottom + more + shift,
        max(0, left - more + shift) : right + more + shift,
    ]


def run(options: argparse.Namespace) -> int:
    """Print what happens in plain words."""
    from sfpose import FaceEmbedder, TemplateVerifier

    hopper, collins = _portraits()
    print("Portraits: Grace Hopper (from matplotlib) and Eileen Collins (from scikit-image).")

    start = time.perf_counter()
    embedder, verifier = FaceEmbedder(), TemplateVerifier()
    enrolled = embedder.transform(
        [_crop(hopper, _HOPPER), _crop(hopper, _HOPPER, 0.15), _crop(hopper, _HOPPER, 0.05, 12)]
    )
    seconds = time.perf_counter() - start
    print(f"Enrolled Hopper from three crops of her portrait in {seconds:.2f} s, loading included.")

    mirrored = _crop(hopper, _HOPPER, 0.1, -10)[:, ::-1] // 2 + 20
    for what, photo in [
        ("the same portrait, mirrored, darker and cropped anew", mirrored),
        ("the portrait of Collins", _crop(collins, _COLLINS)),
    ]:
        start = time.perf_counter()
        probe = embedder.transform([photo.astype(np.uint8)])[0]
        result = verifier.verify(enrolled, probe)
        seconds = time.perf_counter() - start
        print(f"Compared with {what} in {1000 * seconds:.0f} ms: {result}.")
    print(
        "Both crops of Hopper come from one photograph: this shows how the calls work, "
        'not how well. "sfpose evaluate" measures that.'
    )
    return 0
