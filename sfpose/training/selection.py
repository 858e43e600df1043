"""Who is trained on, and which of their images are set aside for validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sfpose.training.people import ImageTable

__all__ = ["Selection", "choose_people", "hold_out"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which images of a table are used, and how many were left out for what reason.

    Attributes
    ----------
    rows : int64 array of shape (n,)
        Rows of the table.
    labels : int64 array of shape (n,)
        Class numbers from 0 without gaps.
    people : list of str
        Who the classes are.
    left_out : mapping of str to int
        Counts by reason.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    people: list[str]
    left_out: Mapping[str, int] = field(default_factory=dict)


def choose_people(table: ImageTable, min_images: int = 1) -> Selection:
    """Take the people with at least so many images.

    Parameters
    ----------
    table : ImageTable
    min_images : int, default=1
        70 in the paper's first stage.

    Returns
    -------
    Selection
        ``left_out`` counts people without any image, people with too few, and the
        images of the latter; the counts are logged.

    Raises
    ------
    ValueError
        If fewer than two people are left, or ``min_images`` is below 1.
    """
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1; got {min_images}")
    counts = np.bincount(table.labels, minlength=len(table.people))
    kept = counts >= min_images
    few = ~kept & (counts > 0)
    left_out = {
        "people without images": int((counts == 0).sum()),
        f"people with fewer than {min_images} images": int(few.sum()),
        "images of these": int(counts[few].sum()),
    }
    if kept.sum() < 2:
        raise ValueError(
            f"at least two people must have {min_images} images or more; of {len(counts)} people "
            f"{int(kept.sum())} do, and the most images of one are {int(counts.max(initial=0))}"
        )
    for reason, count in left_out.items():
        if count:
            _LOG.warning("left out: %d %s", count, reason)
    classes = np.cumsum(kept) - 1
    rows = np.flatnonzero(kept[table.labels])
    people = [person for person, keep in zip(table.people, kept, strict=True) if keep]
    return Selection(rows, classes[table.labels[rows]], people, left_out)


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Mark some images of each person for validation.

    Parameters
    ----------
    labels : int64 array of shape (n,)
        Class numbers from 0.
    share : float
        Of each person's images, rounded; at least one where the person has two or
        more, and at least one is always left for training. 0.02 in the paper.
    seed : int
        Which ones are drawn.

    Returns
    -------
    bool array of shape (n,)

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or nobody has two images.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share for validation must lie between 0 and 1; got {share}")
    counts = np.bincount(labels)
    wanted = np.clip(np.round(counts * share).astype(np.int64), 1, np.maximum(counts - 1, 0))
    if not wanted.any():
        raise ValueError("validation needs a person with at least two images; nobody has two")
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = np.zeros(len(labels), dtype=np.bool_)
    held_out[order] = place < wanted[labels[order]]
    return held_out
