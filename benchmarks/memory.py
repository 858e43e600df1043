"""Resident memory of a process that embeds and compares, step by step.

python benchmarks/memory.py
python benchmarks/memory.py --pandas

Faces are those of the portrait that scikit-image carries. scikit-learn imports pandas where it is
installed, which sfpose does not ask for: it is hidden, unless --pandas leaves it to be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np


def report(what: str) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:46} {used:6.0f} MiB at most")


def portrait() -> Path:
    """Where scikit-image keeps its portrait; the package itself is not imported."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("the portrait comes with scikit-image, which must be installed")
    return Path(found.origin).parent / "data" / "astronaut.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pandas", action="store_true", help="leave pandas to be imported")
    if not parser.parse_args().pandas:
        sys.modules["pandas"] = None  # type: ignore[assignment]
    report("Python with NumPy")
    from sfpose import FaceEmbedder, TemplateVerifier

    report("estimators imported")
    from PIL import Image

    with Image.open(portrait()) as photo:
        face = photo.convert("RGB").crop((150, 45, 310, 205))
    embedder = FaceEmbedder()
    assert not np.isnan(embedder.transform([face])).any()
    report("one face embedded")
    embedder.transform([face] * 32)
    report("a batch of 32 embedded")
    rows = np.random.default_rng(0).random((512, 256), dtype=np.float32)
    TemplateVerifier().score_matrix(rows, rows)
    report("numba compiled, 512 x 512 scored")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        face.resize((3200, 3200)).save(path)
        embedder.transform([path])
        report("one file of 10 megapixels embedded")
        embedder.transform([path] * 64)
        report("64 files of 10 megapixels embedded")


if __name__ == "__main__":
    main()
