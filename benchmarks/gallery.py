"""Exact search beside scoring every template, on embedded faces or made-up ones.

    python benchmarks/gallery.py --images FOLDER_OR_ZIP [--rows 5000] [--probes 1000]
    python benchmarks/gallery.py --rows 100000

Without images, rows are clustered ReLU values that sum to 1; a probe is a noisy copy of
a row (someone enrolled) or a row of its own (a stranger).
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sfpose import FaceEmbedder, TemplateGallery
from sfpose._scoring import chi2_matrix
from sfpose.cli.evaluate import embed_with_progress
from sfpose.protocols import ImageFiles, LazyImages


def made_up(rows, probes):
    rng = np.random.default_rng(0)

    def draw(count):
        values = np.maximum(rng.normal(-0.8, 1.0, (count, 1000)), 0).astype(np.float32)
        return values / values.sum(1, keepdims=True)

    gallery = draw(rows)
    enrolled = gallery[: probes // 2] * rng.gamma(8, 1 / 8, (probes // 2, 1000)).astype(np.float32)
    enrolled /= enrolled.sum(1, keepdims=True)
    return gallery, enrolled, draw(probes - probes // 2)


def embedded(path, rows, probes):
    files = ImageFiles(path)
    names = files.images()[: rows + probes]
    images = LazyImages(files, names)
    descriptors = embed_with_progress(FaceEmbedder(n_jobs=2), images)
    mirrored = FaceEmbedder(n_jobs=2).transform(
        [np.ascontiguousarray(images[k][:, ::-1]) for k in range(probes // 2)]
    )
    return descriptors[:rows], mirrored, descriptors[rows : rows + probes - probes // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    if options.images:
        rows, enrolled, strangers = embedded(options.images, options.rows, options.probes)
    else:
        rows, enrolled, strangers = made_up(options.rows, options.probes)
    gallery = TemplateGallery(n_jobs=2)
    gallery.add(range(len(rows)), rows)
    gallery.search(enrolled[:2], k=1)
    for name, probes in [("enrolled", enrolled), ("strangers", strangers)]:
        start = time.perf_counter()
        matrix = chi2_matrix(probes, rows, n_jobs=2)
        order = np.argsort(matrix, axis=1, kind="stable")[:, : options.k]
        brute = time.perf_counter() - start
        start = time.perf_counter()
        found = gallery.search(probes, k=options.k)
        ours = time.perf_counter() - start
        same = bool((found.ids == order).all())
        print(
            f"{len(probes)} {name} in {len(rows)}, k = {options.k}: {ours:.3f} s, "
            f"{brute / ours:.2f} times as fast as scoring everything, identical: {same}"
        )


if __name__ == "__main__":
    main()
