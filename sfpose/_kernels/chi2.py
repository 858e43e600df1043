"""Chi-square kernels: serial, without the interpreter lock, one pair after the other.

Each pair is one loop over its values, so its bits do not depend on what else a call
computes. The compiler may reorder the sum into vector lanes, the same way at every
call. Two terms share a division, which takes longer than all else. A sum of two values
counts as ``lowest`` at least, so that 0/0 is 0 without a branch and the product of two
sums is a normal number. Squares must not overflow: the dispatcher brings values into
range. Slices of rows, not two indices, let the loop vectorise.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["LOWEST", "chi2_block", "chi2_pairs"]

LOWEST = {
    np.dtype(np.float32): np.float32(2.0**-62),
    np.dtype(np.float64): np.float64(2.0**-510),
}
"""What sums of two values count as at least, by type: squares of it are normal numbers."""

_NEAR = 6144
"""Values that stay in the first cache, with a row beside them."""

# The order of a sum is free, that of the factors of a term is not: products of three values
# would leave the range. Division stays exact: an estimate with a Newton step is no faster.
_SUM = {"reassoc", "contract", "nsz"}
_TERM = {"contract"}


@njit(nogil=True, fastmath=_TERM, error_model="numpy")
def _term(x, y, lowest):  # type: ignore[no-untyped-def]
    difference, total = x - y, x + y
    total = total if total > lowest else lowest
    return difference * difference / total


@njit(nogil=True, fastmath=_TERM, error_model="numpy")
def _two_terms(x, y, u, v, lowest):  # type: ignore[no-untyped-def]
    first, second = x - y, u - v
    one, other = x + y, u + v
    one = one if one > lowest else lowest
    other = other if other > lowest else lowest
    inverse = (lowest / lowest) / (one * other)
    return first * first * (other * inverse) + second * second * (one * inverse)


# A call for each pair would cost as much as the pair, so this is put in its callers' place.
# The terms have one caller each: the compiler inlines those, whose factors keep their order.
@njit(inline="always")
def _distance(x, y, lowest):  # type: ignore[no-untyped-def]
    half = x.shape[0] // 2
    total = lowest - lowest
    for k in range(half):
        total += _two_terms(x[k], y[k], x[half + k], y[half + k], lowest)
    for k in range(2 * half, x.shape[0]):
        total += _term(x[k], y[k], lowest)
    return total


@njit(nogil=True, fastmath=_SUM, error_model="numpy")
def chi2_pairs(first, second, rows, columns, lowest, out):  # type: ignore[no-untyped-def]
    """Distance of ``first[rows[n]]`` and ``second[columns[n]]`` for each n, into ``out``."""
    for n in range(rows.shape[0]):
        out[n] = _distance(first[rows[n]], second[columns[n]], lowest)


@njit(nogil=True, fastmath=_SUM, error_model="numpy")
def chi2_block(first, second, lowest, out):  # type: ignore[no-untyped-def]
    """Distances of all rows of ``first`` with all rows of ``second``, into ``out``."""
    # Some rows of ``second`` at a time, which stay near for all of ``first``.
    tile = max(1, _NEAR // second.shape[1])
    for start in range(0, second.shape[0], tile):
        for i in range(first.shape[0]):
            for j in range(start, min(start + tile, second.shape[0])):
                out[i, j] = _distance(first[i], second[j], lowest)
