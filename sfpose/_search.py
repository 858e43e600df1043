"""Exact nearest templates: a bound from one matrix product, chi-square where it matters.

With ``h = sum (sqrt x - sqrt y)^2``, ``h <= chi2 <= 2 h``. One product of square roots
gives every ``h`` of a block; only pairs whose ``h`` does not exceed the distance that has
to be beaten are scored. The answer is that of scoring everything. May import
``_scoring`` and ``_kernels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sfpose._scoring import threads_of

__all__ = ["BLOCK_PROBES", "BLOCK_ROWS", "nearest", "within"]

BLOCK_PROBES = 128
"""Probes that are searched together, by one thread."""

BLOCK_ROWS = 4096
"""Gallery rows that are compared at a time: with the probes of a block, what memory holds."""

_LOOSE = 0.35
"""Share of pairs left by the bound from which scoring whole blocks is faster."""

_RETRY = 16
"""Blocks after which a bound that was too loose is tried again."""

Rows = NDArray[np.float32]
Result = TypeVar("Result")


class _Bound:
    """Lower bounds of the distances of some probes to blocks of the gallery."""

    def __init__(self, probes: Rows) -> None:
        self._roots = np.sqrt(probes)
        self._sums = probes.sum(axis=1)
        self._wait = 0

    def worth_trying(self) -> bool:
        self._wait -= 1
        return self._wait < 0

    def told(self, share: float) -> None:
        self._wait = _RETRY if share > _LOOSE else 0

    def __call__(self, rows: Rows) -> Rows:
        sums = self._sums[:, None] + rows.sum(axis=1)[None]
        # What rounding may have added to the product must not exclude anyone.
        slack = np.float32((rows.shape[1] + 16) * np.finfo(np.float32).eps)
        return np.asarray(sums * (1 - slack) - 2 * (self._roots @ np.sqrt(rows).T))


def _blocks(gallery: Rows) -> Iterator[tuple[int, Rows]]:
    for start in range(0, len(gallery), BLOCK_ROWS):
        yield start, np.ascontiguousarray(gallery[start : start + BLOCK_ROWS])


def _score_block(probes: Rows, rows: Rows, limit: NDArray[np.float32], bound: _Bound) -> Rows:
    """Distances of a block, infinite where they are known to exceed ``limit``."""
    from sfpose._kernels.chi2 import chi2_block, chi2_pairs

    tiny = np.finfo(np.float32).tiny
    if np.isfinite(limit).all() and bound.worth_trying():
        probe, row = np.nonzero(bound(rows) <= limit[:, None])
        share = len(probe) / (len(probes) * len(rows))
        bound.told(share)
        if share <= _LOOSE:
            distances = np.full((len(probes), len(rows)), np.inf, np.float32)
            scored = np.empty(len(probe), np.float32)
            chi2_pairs(probes, rows, probe, row, tiny, scored)
            distances[probe, row] = scored
            return distances
    distances = np.empty((len(probes), len(rows)), np.float32)
    chi2_block(probes, rows, tiny, distances)
    return distances


def _over_probes(
    probes: Rows, n_jobs: int | None, work: Callable[[Rows], Result]
) -> Iterator[Result]:
    parts = [probes[start : start + BLOCK_PROBES] for start in range(0, len(probes), BLOCK_PROBES)]
    with ThreadPoolExecutor(max(1, min(threads_of(n_jobs), len(parts)))) as pool:
        yield from pool.map(work, parts)


def nearest(
    gallery: Rows, probes: Rows, k: int, n_jobs: int | None
) -> tuple[NDArray[np.int64], Rows]:
    """The ``k`` nearest gallery rows of each probe, nearest first; equals by row."""

    def work(part: Rows) -> tuple[NDArray[np.int64], Rows]:
        bound = _Bound(part)
        best = np.full((len(part), k), np.inf, np.float32)
        index = np.full((len(part), k), len(gallery), np.int64)
        for start, rows in _blocks(gallery):
            distances = _score_block(part, rows, best[:, -1], bound)
            for probe, row in enumerate(distances):
                # Strictly nearer: of equals the earlier row stays.
                close = np.flatnonzero(row < best[probe, -1])
                if len(close):
                    together = np.concatenate([best[probe], row[close]])
                    where = np.concatenate([index[probe], start + close])
                    order = np.argsort(together, kind="stable")[:k]
                    best[probe], index[probe] = together[order], where[order]
        return index, best

    index, distances = zip(*_over_probes(probes, n_jobs, work), strict=True)
    return np.concatenate(index), np.concatenate(distances)


def within(
    gallery: Rows, probes: Rows, radius: float, n_jobs: int | None
) -> list[tuple[NDArray[np.int64], Rows]]:
    """For each probe, the gallery rows at most ``radius`` away, nearest first."""

    def work(part: Rows) -> list[tuple[NDArray[np.int64], Rows]]:
        bound = _Bound(part)
        limit = np.full(len(part), radius, np.float32)
        hits: list[list[tuple[NDArray[np.int64], Rows]]] = [[] for _ in part]
        for start, rows in _blocks(gallery):
            distances = _score_block(part, rows, limit, bound)
            for probe, row in enumerate(distances):
                close = np.flatnonzero(row <= radius)
                if len(close):
                    hits[probe].append((start + close, row[close]))
        return [_sorted(parts) for parts in hits]

    return [hit for part in _over_probes(probes, n_jobs, work) for hit in part]


def _sorted(parts: list[tuple[NDArray[np.int64], Rows]]) -> tuple[NDArray[np.int64], Rows]:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    index = np.concatenate([i for i, _ in parts])
    distances = np.concatenate([d for _, d in parts])
    order = np.argsort(distances, kind="stable")
    return index[order], distances[order]
