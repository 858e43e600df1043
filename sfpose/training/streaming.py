"""Batches of images that come from disk while the network learns from the last ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpose.preprocessing import loose_crop
from sfpose.training.distillation import normalise_images
from sfpose.training.faces import pass_order
from sfpose.training.people import ImageTable

__all__ = ["OnUnreadable", "StreamedImages", "workers_for"]

OnUnreadable: TypeAlias = Literal["error", "leave out"]

_LOG = logging.getLogger(__name__)
_Crop: TypeAlias = tuple[int, int, int, int]
"""Seed, number of the image in the run, size of the crop, row of the table."""


@contextmanager
def workers_for(count: int) -> Iterator[ThreadPoolExecutor | None]:
    """Threads that decode images; none for 0, and decoding then waits for its turn.

    Raises
    ------
    ValueError
        If ``count`` is below 0.
    """
    if count < 0:
        raise ValueError(f"workers must be 0 or more; got {count}")
    if count == 0:
        yield None
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class StreamedImages:
    """A source of batches for ``sfpose.training.loop.train`` that decodes as it goes.

    The image that comes as number ``k`` of a run, and where it is cropped, follow from
    the seed and ``k`` alone: batches are the same for any number of workers and
    whatever part of a batch is asked for. In memory are the next batch and names.

    Parameters
    ----------
    table : ImageTable
    rows : int array of shape (n,)
        Rows of the table to draw from.
    labels : int array of shape (n,)
        Class number of each.
    share : float, default=224 / 256
        Side of the square crop over the shorter side of the image (section 4).
    random : bool, default=True
        Draw the crop's place; False takes the centre, as in validation.
    workers : ThreadPoolExecutor, optional
        See ``workers_for``; decodes in the calling thread if not given.
    on_unreadable : {"error", "leave out"}
        What to do about an image that cannot be decoded. Batches get smaller by those
        left out; their names are logged and kept in ``unreadable``.

    Attributes
    ----------
    unreadable : set of str
        Names of the images left out so far.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        share: float = 224 / 256,
        random: bool = True,
        workers: ThreadPoolExecutor | None = None,
        on_unreadable: OnUnreadable = "error",
    ) -> None:
        if on_unreadable not in ("error", "leave out"):
            raise ValueError(f"on_unreadable must be 'error' or 'leave out'; got {on_unreadable!r}")
        self._table, self._rows, self._labels = table, rows, labels
        self._share, self._random = share, random
        self._workers, self._on_unreadable = workers, on_unreadable
        self._coming: dict[_Crop, Future[NDArray[np.uint8] | None]] = {}
        self._last_first: int | None = None
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        """Number of images in one pass."""
        return len(self._rows)

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Normalised crops (count, 3, size, size) and class numbers (count,).

        Raises
        ------
        ValueError
            With the name of an image that cannot be decoded, if that is an error.
        """
        order = pass_order(len(self), seed, first, count)
        now = self._crops(seed, first, size, order)
        if self._workers is None:
            crops = [self._crop(crop) for crop in now]
        else:
            step = count if self._last_first is None else first - self._last_first
            self._last_first = first
            following = pass_order(len(self), seed, first + step, count if step > 0 else 0)
            futures = self._submit(now, self._crops(seed, first + step, size, following))
            crops = [future.result() for future in futures]
        read = [crop for crop in crops if crop is not None]
        pixels = np.stack(read) if read else np.zeros((0, size, size, 3), np.uint8)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        chosen = order[[crop is not None for crop in crops]]
        return normalise_images(images), torch.from_numpy(self._labels[chosen])

    def _crops(self, seed: int, first: int, size: int, order: NDArray[np.int64]) -> list[_Crop]:
        rows = self._rows[order].tolist()
        return [(seed, first + place, size, row) for place, row in enumerate(rows)]

    def _submit(
        self, now: list[_Crop], following: list[_Crop]
    ) -> list[Future[NDArray[np.uint8] | None]]:
        """Futures of this batch; those of the next one are begun, all others dropped."""
        assert self._workers is not None
        wanted: dict[_Crop, Future[NDArray[np.uint8] | None]] = {}
        for crop in dict.fromkeys([*now, *following]):
            begun = self._coming.pop(crop, None)
            wanted[crop] = begun or self._workers.submit(self._crop, crop)
        for stale in self._coming.values():
            stale.cancel()
        self._coming = {crop: wanted[crop] for crop in following}
        return [wanted[crop] for crop in now]

    def _crop(self, crop: _Crop) -> NDArray[np.uint8] | None:
        seed, number, size, row = crop
        name = self._table.name(row)
        try:
            image = self._table.image(row)
        except (ValueError, OSError) as error:
            if self._on_unreadable == "error":
                raise ValueError(f"image {name!r} cannot be read: {error}") from error
            if name not in self.unreadable:
                self.unreadable.add(name)
                _LOG.warning("left out: image %r cannot be read: %s", name, error)
            return None
        place = (0.5, 0.5)
        if self._random:
            across, down = np.random.default_rng((seed, number, 1)).random(2)
            place = (float(across), float(down))
        return loose_crop(image, size, share=self._share, place=place)
