"""Exact search beside scoring every template, on embedded faces or made-up ones.

    python benchmarks/gallery.py --images FOLDER_OR_ZIP ... [--rows 5000] [--probes 1000]
    python benchmarks/gallery.py --rows 100000

Without images, rows are ReLU values that sum to 1. A probe is a noisy copy of a row or a
mirrored photo (someone enrolled), or a row of its own (a stranger). Last comes the unlucky case
in which the bound says nothing: dense rows, all nearly equally far from each other.
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


def embedded(paths, rows, probes):
    descriptors = []
    for path in paths:
        files = ImageFiles(path)
        images = LazyImages(files, files.images())
        descriptors.append(embed_with_progress(FaceEmbedder(n_jobs=2), images))
        if len(descriptors) == 1:
            mirrored = FaceEmbedder(n_jobs=2).transform(
                [np.ascontiguousarray(images[k][:, ::-1]) for k in range(probes // 2)]
            )
    known = np.concatenate(descriptors)
    known = known[~np.isnan(known).any(axis=1)]
    strangers = probes - probes // 2
    return known[:-strangers][:rows], mirrored, known[-strangers:]


def unlucky(rows, probes):
    dense = np.random.default_rng(0).random((rows + probes, 1000), np.float32) + np.float32(0.5)
    return dense[:rows], dense[rows:]


def compare(name, rows, probes, k):
    gallery = TemplateGallery(n_jobs=2)
    gallery.add(range(len(rows)), rows)
    gallery.search(probes[:40], k=1)
    ours, brute = [], []
    for _ in range(3):
        start = time.perf_counter()
        matrix = chi2_matrix(probes, rows, n_jobs=2)
        middle = time.perf_counter()
        found = gallery.search(probes, k=k)
        end = time.perf_counter()
        brute.append(middle - start)
        ours.append(end - middle)
    order = np.argsort(matrix, axis=1, kind="stable")[:, :k]
    same = bool((found.ids == order).all())
    print(
        f"{len(probes)} {name} in {len(rows)}, k = {k}: {np.median(ours):.3f} s, "
        f"{np.median(brute) / np.median(ours):.2f} times as fast as scoring everything, "
        f"identical: {same}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    if options.images:
        rows, enrolled, strangers = embedded(options.images, options.rows, options.probes)
    else:
        rows, enrolled, strangers = made_up(options.rows, options.probes)
    compare("enrolled", rows, enrolled, options.k)
    compare("strangers", rows, strangers, options.k)
    compare("one stranger", rows, strangers[:1], options.k)
    compare("unlucky", *unlucky(min(len(rows), 20_000), options.probes // 2), options.k)


if __name__ == "__main__":
    main()
