"""Exact nearest templates: a bound from one matrix product, chi-square where it matters.

With ``h = sum (sqrt x - sqrt y)^2``, ``h <= chi2 <= 2 h``. One product of square roots
gives every ``h`` of a block; only pairs whose ``h`` does not exceed the distance that has
to be beaten are scored. The answer is that of scoring everything. May import
``_scoring`` and ``_kernels``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sfpose._scoring import over_blocks, threads_of

__all__ = ["BLOCK_PROBES", "BLOCK_ROWS", "PRODUCT_PROBES", "nearest", "within"]

BLOCK_PROBES = 64
"""Probes that one thread scores at a time."""

PRODUCT_PROBES = 1024
"""Probes of one matrix product, at most: with the rows of a block, what memory holds."""

BLOCK_ROWS = 4096
"""Gallery rows that are compared at a time."""

_WORTH_A_PRODUCT = 24
"""Probes from which roots and product cost less than they save."""

_LOOSE = 0.35
"""Share of pairs left by the bound from which scoring whole blocks is faster."""

_RETRY = 16
"""Blocks after which a bound that was too loose is tried again."""

_MANY = 4096
"""Nearest rows above which blocks are sorted: to put each row in its place takes longer then."""

_FEW_ROWS = 512
"""Gallery rows that one thread scores at a time where probes are few."""

Rows = NDArray[np.float32]


class _Searcher:
    """One thread's probes: what is known of them, and whether the bound pays."""

    def __init__(self, probes: Rows, limit: Rows) -> None:
        self.probes = probes
        self.limit = limit
        self._sums = probes.sum(axis=1)
        self._wait = 0

    @property
    def wants_the_bound(self) -> bool:
        """Whether the next block is to be tried with the bound."""
        return self._wait <= 0

    def score(self, rows: Rows, sums: Rows | None, products: Rows | None, seeds: int) -> Rows:
        """Distances to some rows, infinite where they are known to exceed the limit.

        Parameters
        ----------
        rows : array of shape (n_rows, d)
        sums : array of shape (n_rows,), optional
            Of each row.
        products : array of shape (n_probes, n_rows), optional
            Products of square roots; changed.
        seeds : int
            How many of the nearest are wanted: where the limit is infinite still, so
            many by the bound give a first one.
        """
        from sfpose._kernels.chi2 import LOWEST, chi2_block, chi2_pairs

        lowest = LOWEST[rows.dtype]
        wants_the_bound = self.wants_the_bound
        self._wait -= 1
        if wants_the_bound and products is not None and sums is not None:
            lower = self._lower(products, sums, rows.shape[1])
            limit = self.limit
            if seeds and np.isinf(limit).any() and seeds < len(rows):
                first = np.argpartition(lower, seeds - 1, axis=1)[:, :seeds]
                scored = np.empty(first.size, np.float32)
                owner = np.repeat(np.arange(len(first)), seeds)
                chi2_pairs(self.probes, rows, owner, first.ravel(), lowest, scored)
                limit = np.minimum(limit, scored.reshape(first.shape).max(axis=1))
            probe, row = np.nonzero(lower <= limit[:, None])
            share = len(probe) / lower.size
            self._wait = _RETRY if share > _LOOSE else 0
            if share <= _LOOSE:
                distances = lower
                distances.fill(np.inf)
                scored = np.empty(len(probe), np.float32)
                chi2_pairs(self.probes, rows, probe, row, lowest, scored)
                distances[probe, row] = scored
                return distances
        distances = np.empty((len(self.probes), len(rows)), np.float32)
        chi2_block(self.probes, rows, lowest, distances)
        return distances

    def _lower(self, products: Rows, sums: Rows, width: int) -> Rows:
        # What rounding may have added to the product must not exclude anyone.
        keep = np.float32(1 - (width + 16) * np.finfo(np.float32).eps)
        products *= -2
        products += (self._sums * keep)[:, None]
        products += (sums * keep)[None]
        return products


def _scan(
    gallery: Rows,
    searchers: list[_Searcher],
    n_jobs: int | None,
    seeds: int,
    take: Callable[[int, int, Rows], None],
) -> None:
    """Score every block for every searcher; ``take`` gets searcher, first row, distances."""
    sizes = [len(searcher.probes) for searcher in searchers]
    if sum(sizes) < _WORTH_A_PRODUCT:
        _scan_few(gallery, searchers, n_jobs, take)
        return
    together = max(1, PRODUCT_PROBES // BLOCK_PROBES)
    groups = [
        range(first, min(first + together, len(searchers)))
        for first in range(0, len(searchers), together)
    ]
    roots = [
        np.sqrt(np.concatenate([searchers[number].probes for number in group])) for group in groups
    ]
    with ThreadPoolExecutor(max(1, min(threads_of(n_jobs), len(searchers)))) as pool:
        for start in range(0, len(gallery), BLOCK_ROWS):
            rows = np.ascontiguousarray(gallery[start : start + BLOCK_ROWS])
            wanted = any(searcher.wants_the_bound for searcher in searchers)
            root = np.sqrt(rows) if wanted else rows
            sums = rows.sum(axis=1) if wanted else None
            for group, probe_roots in zip(groups, roots, strict=True):
                parts: list[Rows | None] = [None] * len(group)
                if wanted:
                    # One product for all threads: the matrix library has its own.
                    ends = np.cumsum([sizes[number] for number in group])[:-1]
                    parts = list(np.split(probe_roots @ root.T, ends))

                def work(number: int, products: Rows | None) -> None:
                    distances = searchers[number].score(rows, sums, products, seeds)  # noqa: B023
                    take(number, start, distances)  # noqa: B023

                for _ in pool.map(work, group, parts):
                    pass


def _scan_few(
    gallery: Rows,
    searchers: list[_Searcher],
    n_jobs: int | None,
    take: Callable[[int, int, Rows], None],
) -> None:
    """The same without the bound, for which there are too few probes: threads over rows."""
    for start in range(0, len(gallery), BLOCK_ROWS):
        rows = np.ascontiguousarray(gallery[start : start + BLOCK_ROWS])
        for number, searcher in enumerate(searchers):
            out = np.empty((len(rows), len(searcher.probes)), np.float32)
            work = partial(_block_of_rows, rows, searcher.probes, out)
            over_blocks(work, len(rows), _FEW_ROWS, n_jobs)
            take(number, start, np.ascontiguousarray(out.T))


def _block_of_rows(rows: Rows, probes: Rows, out: Rows, part: slice) -> None:
    from sfpose._kernels.chi2 import LOWEST, chi2_block

    chi2_block(rows[part], probes, LOWEST[rows.dtype], out[part])


def _searchers(probes: Rows, limit: float) -> list[_Searcher]:
    parts = [probes[start : start + BLOCK_PROBES] for start in range(0, len(probes), BLOCK_PROBES)]
    above = np.float32(np.inf)
    if limit < 1e38:
        # One step up, so that rounding the limit to float32 excludes nobody.
        above = np.nextafter(np.float32(limit), above)
    return [_Searcher(part, np.full(len(part), above, np.float32)) for part in parts]


def nearest(
    gallery: Rows, probes: Rows, k: int, n_jobs: int | None
) -> tuple[NDArray[np.int64], Rows]:
    """The ``k`` nearest gallery rows of each probe, nearest first; equals by row."""
    searchers = _searchers(probes, np.inf)
    best = [np.full((len(searcher.probes), k), np.inf, np.float32) for searcher in searchers]
    index = [np.full(part.shape, len(gallery), np.int64) for part in best]

    def take(number: int, start: int, distances: Rows) -> None:
        from sfpose._kernels.topk import keep_nearest

        if k <= _MANY:
            keep_nearest(distances, start, best[number], index[number])
        else:
            _sort_in(distances, start, best[number], index[number])
        searchers[number].limit = best[number][:, -1]

    _scan(gallery, searchers, n_jobs, k, take)
    return np.concatenate(index), np.concatenate(best)


def _sort_in(distances: Rows, start: int, best: Rows, index: NDArray[np.int64]) -> None:
    """What ``keep_nearest`` does, by sorting: a place among many takes it too long."""
    if not (distances < best[:, -1:]).any():
        return
    rows = np.broadcast_to(start + np.arange(distances.shape[1]), distances.shape)
    every, numbers = np.hstack([best, distances]), np.hstack([index, rows])
    order = np.argsort(every, axis=1, kind="stable")[:, : best.shape[1]]
    best[:] = np.take_along_axis(every, order, axis=1)
    index[:] = np.take_along_axis(numbers, order, axis=1)


def within(
    gallery: Rows, probes: Rows, radius: float, n_jobs: int | None
) -> list[tuple[NDArray[np.int64], Rows]]:
    """For each probe, the gallery rows at most ``radius`` away, nearest first."""
    searchers = _searchers(probes, radius)
    hits: list[list[tuple[NDArray[np.int64], NDArray[np.int64], Rows]]] = [[] for _ in searchers]

    def take(number: int, start: int, distances: Rows) -> None:
        probe, row = np.nonzero(distances <= np.float64(radius))
        hits[number].append((probe, start + row, distances[probe, row]))

    _scan(gallery, searchers, n_jobs, 0, take)
    found = []
    for searcher, parts in zip(searchers, hits, strict=True):
        probe, row, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        for number in range(len(searcher.probes)):
            own = np.flatnonzero(probe == number)
            order = own[np.argsort(distance[own], kind="stable")]
            found.append((row[order], distance[order]))
    return found
