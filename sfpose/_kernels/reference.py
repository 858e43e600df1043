"""Chi-square in NumPy float64: what the kernels are tested against, and serves few pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["chi2_matrix", "chi2_pairs"]


def chi2_pairs(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distances (n,) of rows (n, d) with rows (n, d), or with one row (d,)."""
    first = first.astype(np.float64)
    second = second.astype(np.float64)
    sums = first + second
    differences = first - second
    # Dividing first keeps squares of very large or very small values in range.
    shares = np.divide(differences, sums, out=np.zeros_like(sums), where=sums > 0)
    return np.asarray((shares * differences).sum(axis=-1))


def chi2_matrix(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distances (n, m) of rows (n, d) with rows (m, d), one row of the result at a time."""
    return np.stack([chi2_pairs(second, row) for row in first])
