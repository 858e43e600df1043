"""Keeping the nearest of many: an insertion sort of what is nearer than the worst kept."""

from __future__ import annotations

from numba import njit

__all__ = ["keep_nearest"]


@njit(nogil=True)
def keep_nearest(distances, start, best, index):  # type: ignore[no-untyped-def]
    """Insert distances (n, m) to rows from number ``start`` into the sorted ``best`` (n, k).

    Rows come in rising order: of equals the earlier one stays before.
    """
    last = best.shape[1] - 1
    for i in range(distances.shape[0]):
        for j in range(distances.shape[1]):
            distance = distances[i, j]
            if distance < best[i, last]:
                place = last
                while place > 0 and best[i, place - 1] > distance:
                    best[i, place] = best[i, place - 1]
                    index[i, place] = index[i, place - 1]
                    place -= 1
                best[i, place] = distance
                index[i, place] = start + j
