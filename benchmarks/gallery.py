"""Exact search beside scoring every template, on embedded faces or made-up ones.

    python benchmarks/gallery.py --images FOLDER_OR_ZIP ... [--weights plain] [--rows 5000]
    python benchmarks/gallery.py --images FOLDER_OR_ZIP ... --mirrored --descriptors FILE.npz
    python benchmarks/gallery.py --rows 100000

Without images, rows are ReLU values that sum to 1. A probe is a noisy copy of a row or a
mirrored photo (someone enrolled), or a row of its own (a stranger): the first photos of the first
data set, whose people must appear once. ``--mirrored`` enrols mirrored photos too;
``--descriptors`` keeps what was embedded in a file, or reads it if it is there. Last comes the
unlucky case in which the bound says nothing: dense rows, all nearly equally far from each other.
With ``--threads 1`` processor time is measured, which other processes hardly change; else the
time that passes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import sfpose._kernels.chi2 as kernels
from sfpose import FaceEmbedder, TemplateGallery
from sfpose._scoring import chi2_matrix
from sfpose._search import BLOCK_ROWS
from sfpose.cli.evaluate import embed_with_progress
from sfpose.protocols import ImageFiles, LazyImages


class Mirrored(LazyImages):
    """Images with left and right exchanged."""

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Mirrored(self.files, self.names[index])
        return np.ascontiguousarray(super().__getitem__(index)[:, ::-1])


def made_up(rows, probes):
    rng = np.random.default_rng(0)

    def draw(count):
        values = np.maximum(rng.normal(-0.8, 1.0, (count, 1000)), 0).astype(np.float32)
        return values / values.sum(1, keepdims=True)

    gallery = draw(rows)
    enrolled = gallery[: probes // 2] * rng.gamma(8, 1 / 8, (probes // 2, 1000)).astype(np.float32)
    enrolled /= enrolled.sum(1, keepdims=True)
    return gallery, enrolled, draw(probes - probes // 2)


def embed_all(weights, paths, mirrored_count):
    """Descriptors of all photos, and of the first so many mirrored (all if None)."""
    embedder = FaceEmbedder(weights, n_jobs=2)
    sides = {"photos": [], "mirrored": []}
    for path in paths:
        files = ImageFiles(path)
        names = files.images()
        sides["photos"].append(embed_with_progress(embedder, LazyImages(files, names)))
        if mirrored_count is not None:
            names = names[: mirrored_count - sum(map(len, sides["mirrored"]))]
        if names:
            sides["mirrored"].append(embed_with_progress(embedder, Mirrored(files, names)))
    return {name: np.concatenate(parts) for name, parts in sides.items()}


def embedded(options):
    """Gallery, mirrored photos of people in it, and photos of people who are not."""
    half = options.probes // 2
    path = options.descriptors
    if path is not None and path.exists():
        with np.load(path) as stored:
            sides = {name: stored[name] for name in ("photos", "mirrored")}
    else:
        wanted = None if options.mirrored else 2 * half
        sides = embed_all(options.weights, options.images, wanted)
        if path is not None:
            np.savez(path, **sides)
    photos, mirrored = sides["photos"], sides["mirrored"]
    found = ~np.isnan(photos).any(axis=1)
    # Whose mirrored photo shows nobody is left out with both.
    found[: len(mirrored)] &= ~np.isnan(mirrored).any(axis=1)
    photos, mirrored = photos[found], mirrored[found[: len(mirrored)]]
    half = min(half, len(mirrored) // 2)
    known = photos[half:]
    if options.mirrored:
        known = np.concatenate([known, mirrored[2 * half :]])
    rows = known[: options.rows]
    copies = max(0, len(rows) - len(photos[half:]))
    print(f"{len(rows) - copies} photos and {copies} mirrored ones are enrolled", flush=True)
    return rows, mirrored[half : 2 * half], photos[:half]


def unlucky(rows, probes):
    dense = np.random.default_rng(0).random((rows + probes, 1000), np.float32) + np.float32(0.5)
    return dense[:rows], dense[rows:]


def share_scored(gallery, probes, k):
    """Share of all comparisons that a search scores by chi-square."""
    scored = []
    block, pairs = kernels.chi2_block, kernels.chi2_pairs

    def counted_block(first, second, lowest, out):
        scored.append(out.size)
        block(first, second, lowest, out)

    def counted_pairs(first, second, rows, columns, lowest, out):
        scored.append(len(rows))
        pairs(first, second, rows, columns, lowest, out)

    kernels.chi2_block, kernels.chi2_pairs = counted_block, counted_pairs
    try:
        gallery.search(probes, k=k)
    finally:
        kernels.chi2_block, kernels.chi2_pairs = block, pairs
    return sum(scored) / (len(gallery) * len(probes))


def bound_alone(rows, probes, clock):
    """Seconds for roots, sums and products, which no bound of this kind does without."""
    start = clock()
    roots = np.sqrt(probes)
    for first in range(0, len(rows), BLOCK_ROWS):
        part = rows[first : first + BLOCK_ROWS]
        part.sum(axis=1)
        roots @ np.sqrt(part).T
    return clock() - start


def compare(name, rows, probes, k, threads):
    clock = time.process_time if threads == 1 else time.perf_counter
    gallery = TemplateGallery(n_jobs=threads)
    gallery.add(range(len(rows)), rows)
    gallery.search(probes[:40], k=1)
    ours, brute, bound = [], [], []
    for _ in range(3):
        start = clock()
        matrix = chi2_matrix(probes, rows, n_jobs=threads)
        middle = clock()
        found = gallery.search(probes, k=k)
        end = clock()
        brute.append(middle - start)
        ours.append(end - middle)
        bound.append(bound_alone(rows, probes, clock))
    limits = np.partition(matrix, k - 1, axis=1)[:, k - 1]
    same = True
    for row, limit, ids, distances in zip(matrix, limits, found.ids, found.distances, strict=True):
        near = np.flatnonzero(row <= limit)
        order = near[np.argsort(row[near], kind="stable")][:k]
        same &= bool((ids == order).all() and (distances == row[order]).all())
    print(
        f"{name} ({len(probes)}) in {len(rows)}, k = {k}: {np.median(ours):.3f} s, "
        f"{np.median(brute) / np.median(ours):.2f} times as fast as scoring everything; "
        f"scored {100 * share_scored(gallery, probes, k):.2f} %, the bound alone takes "
        f"{100 * np.median(bound) / np.median(ours):.0f} % of the time; identical: {same}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--mirrored", action="store_true", help="enrol mirrored photos too")
    parser.add_argument("--descriptors", type=Path, metavar="FILE.npz")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    if options.images or options.descriptors:
        rows, enrolled, strangers = embedded(options)
    else:
        rows, enrolled, strangers = made_up(options.rows, options.probes)
    dense = unlucky(min(len(rows), 20_000), options.probes // 2)
    cases = {
        "enrolled": (rows, enrolled),
        "strangers": (rows, strangers),
        "unlucky": dense,
    }
    with threadpool_limits(options.threads):
        for name, (gallery, probes) in cases.items():
            compare(name, gallery, probes, options.k, options.threads)


if __name__ == "__main__":
    main()
