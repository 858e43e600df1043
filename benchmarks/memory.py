"""Resident memory of a process that embeds and compares, step by step.

python benchmarks/memory.py
"""

from __future__ import annotations

import resource

import numpy as np


def report(what: str) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:42} {used:6.0f} MiB at most")


def main() -> None:
    report("Python with NumPy")
    from sfpose import FaceEmbedder, TemplateVerifier

    report("estimators imported")
    photos = [np.full((160, 160, 3), 128, np.uint8)] * 32
    embedder = FaceEmbedder()
    rows = embedder.transform(photos[:1])
    report("one photo embedded")
    embedder.transform(photos)
    report("a batch of 32 embedded")
    rows = np.random.default_rng(0).random((512, 1000), dtype=np.float32)
    TemplateVerifier().score_matrix(rows, rows)
    report("numba compiled, 512 x 512 scored")


if __name__ == "__main__":
    main()
