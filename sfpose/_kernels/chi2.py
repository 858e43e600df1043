"""Chi-square kernels: serial, without the interpreter lock, one pair after the other.

Each pair is one loop over its values, so its bits do not depend on what else a call
computes. The compiler may reorder the sum into vector lanes, the same way at every
call. Where both values are zero, the smallest normal number that is added to the
divisor makes the term 0 without a branch. Squares must not overflow: the dispatcher
brings values into range. Slices of rows, not two indices, let the loop vectorise.
"""

from __future__ import annotations

from numba import njit

__all__ = ["chi2_block", "chi2_pairs"]

# For sums only. Division stays exact: a reciprocal estimate with a Newton step ("arcp" and
# "ninf") takes three quarters of the time on one processor and is no faster on others.
_FAST = {"reassoc", "contract", "nsz"}


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def chi2_pairs(first, second, rows, columns, tiny, out):  # type: ignore[no-untyped-def]
    """Distance of ``first[rows[n]]`` and ``second[columns[n]]`` for each n, into ``out``."""
    for n in range(rows.shape[0]):
        x = first[rows[n]]
        y = second[columns[n]]
        total = tiny - tiny
        for k in range(x.shape[0]):
            difference = x[k] - y[k]
            total += difference * difference / (x[k] + y[k] + tiny)
        out[n] = total


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def chi2_block(first, second, tiny, out):  # type: ignore[no-untyped-def]
    """Distances of all rows of ``first`` with all rows of ``second``, into ``out``."""
    for i in range(first.shape[0]):
        x = first[i]
        for j in range(second.shape[0]):
            y = second[j]
            total = tiny - tiny
            for k in range(x.shape[0]):
                difference = x[k] - y[k]
                total += difference * difference / (x[k] + y[k] + tiny)
            out[i, j] = total
