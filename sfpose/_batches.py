"""Images one after the other, of which no more are held than are needed.

What a loop holds while the next image is decoded counts: of a camera's photo, 30 MB or more.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_whole
from sfpose.preprocessing import count_images, iterate_images, loose_crop

if TYPE_CHECKING:
    from sfpose.preprocessing import Images

__all__ = ["batched", "loose_crops", "name_image"]

_HELD_PIXELS = 8 * 10**6
"""A batch ends with the image that brings it to as many: a network gains little by large ones."""


def batched(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Lists of up to ``size`` images, in order; fewer where they are large, to spare memory.

    Raises
    ------
    ValueError
        If ``size`` is not a positive whole number.
    """
    count = check_whole(size, "batch_size", 1)
    batch: list[NDArray[np.uint8]] = []
    for image in images:
        batch.append(image)
        del image  # or it would be held while the next ones are decoded, as the batch would
        if len(batch) == count or sum(each.size for each in batch) >= 3 * _HELD_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def name_image(images: Images, number: int) -> str:
    """What to call an image in an error: its number, and its path if it came as one."""
    given = next(itertools.islice(images, number, None))
    path = f" ({os.fspath(given)!r})" if isinstance(given, (str, os.PathLike)) else ""
    return f"image {number}{path}"


def loose_crops(
    images: Images, size: int, *, share: float, square: bool
) -> Iterator[NDArray[np.uint8]]:
    """Centres of images, a ``share`` of their shorter side wide, scaled to ``size``.

    Raises
    ------
    ValueError
        If an image is not square where all have to be, which aligned crops are.
    """
    decoded = iterate_images(images)
    # Not enumerate, which holds an image while the next one is decoded.
    for number in range(count_images(images)):
        image = next(decoded)
        if square and image.shape[0] != image.shape[1]:
            raise ValueError(
                f"{name_image(images, number)}: align='done' takes aligned square crops, as "
                f"FaceAligner gives them; got shape {image.shape[:2]}"
            )
        crop = loose_crop(image, size, share=share)
        del image
        yield crop
