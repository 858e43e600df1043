"""Pairs by number, and samples of them, where there are more than memory holds.

Imports NumPy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["row_and_column", "sample"]


def row_and_column(
    numbers: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where numbers lie that count through rows of these lengths."""
    ends = np.cumsum(lengths)
    row = np.searchsorted(ends, numbers, side="right")
    return row, numbers - (ends - lengths)[row]


def sample(rng: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    """All numbers below ``count``, or so many of them, each set as likely as any other."""
    # Generator.choice does the same, but may take twenty times the memory.
    if size >= count:
        return np.arange(count)
    if size > count // 2:
        kept = np.ones(count, np.bool_)
        kept[sample(rng, count, count - size)] = False
        return np.flatnonzero(kept)
    drawn = np.empty(0, np.int64)
    while len(drawn) < size:
        drawn = np.sort(np.concatenate([drawn, rng.integers(0, count, 2 * size)]))
        # As np.unique, which takes ten times as long where it hashes.
        drawn = drawn[np.diff(drawn, prepend=-1) > 0]
    return np.delete(drawn, rng.choice(len(drawn), len(drawn) - size, replace=False))
