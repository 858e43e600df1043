"""Let a vector database propose, and chi-square decide.

    pip install faiss-cpu
    python examples/faiss_candidates.py [--images FOLDER_OR_ZIP] [--rows 4000]

Square roots of descriptors under the Euclidean distance stand within a factor of two of
chi-square, so any index of vectors (FAISS here; pgvector or Qdrant alike) can propose
candidates that are then ranked exactly. Printed is how often the true nearest are among
them. Without images, the descriptors are made up.
"""

import argparse
import time

import faiss
import numpy as np

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.protocols import ImageFiles, LazyImages


def made_up_descriptors(count):
    """Clustered rows, sparse and with a sum of 1, as an embedder gives them."""
    rng = np.random.default_rng(0)
    centres = np.maximum(rng.normal(-0.8, 1.0, (count // 4, 1000)), 0)
    rows = centres[rng.integers(0, len(centres), count)] * rng.gamma(4, 1 / 4, (count, 1000))
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def embedded(path, count):
    """Descriptors of the first images of a folder or zip file."""
    files = ImageFiles(path)
    names = files.images()[:count]
    rows = FaceEmbedder(n_jobs=-1).transform(LazyImages(files, names))
    return rows[~np.isnan(rows).any(axis=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    rows = (
        embedded(options.images, options.rows)
        if options.images
        else made_up_descriptors(options.rows)
    )
    probes, templates = rows[: len(rows) // 10], rows[len(rows) // 10 :]

    gallery = TemplateGallery()
    gallery.add(range(len(templates)), templates)
    exact = gallery.search(probes, k=options.k)

    index = faiss.index_factory(templates.shape[1], "HNSW32")
    index.hnsw.efSearch = 200
    index.add(np.sqrt(templates))
    verifier = TemplateVerifier()
    for candidates in (options.k, 2 * options.k, 5 * options.k):
        start = time.perf_counter()
        _, proposed = index.search(np.sqrt(probes), candidates)
        hits = []
        for probe, names, truth in zip(probes, proposed, exact.ids, strict=True):
            names = names[names >= 0]
            distances = verifier.score_matrix(probe[None], templates[names])[0]
            ranked = names[np.argsort(distances, kind="stable")[: options.k]]
            hits.append(len(set(ranked) & set(truth)) / options.k)
        seconds = time.perf_counter() - start
        print(
            f"{candidates} candidates: recall at {options.k} {np.mean(hits):.4f}, "
            f"{1000 * seconds / len(probes):.2f} ms a probe"
        )


if __name__ == "__main__":
    main()
