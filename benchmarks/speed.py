"""Time of scoring, embedding and starting, each beside a named peer in the same run.

    python benchmarks/speed.py [--sface SFACE.onnx] [--descriptors FILE.npz] [--json FILE]

Scoring is compared with scikit-learn's additive_chi2_kernel, on made-up values and on those that
benchmarks/gallery.py kept with --descriptors; embedding with SFace, if its file is given. Ratios
are what to quote: absolute times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from skimage import data
from sklearn.metrics.pairwise import additive_chi2_kernel

from sfpose import FaceAligner
from sfpose._scoring import chi2_matrix, chi2_pairs_at
from sfpose.preprocessing import as_network_input
from sfpose.runtime.artifact import SHIPPED, read_artifact
from sfpose.runtime.session import OnnxModel


def median_seconds(function, repeats=7):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def scoring(results, descriptors):
    rng = np.random.default_rng(0)
    kinds = {
        "made up": np.maximum(rng.normal(size=(2560, 1000)), 0).astype(np.float32),
        "made up and dense": rng.uniform(0.5, 1.5, (2560, 256)).astype(np.float32),
    }
    if descriptors:
        with np.load(descriptors) as stored:
            rows = stored["photos"]
            kinds["of photos"] = rows[~np.isnan(rows).any(axis=1)][:2560]
    for kind, rows in kinds.items():
        a, b = rows[:512], rows[512:]
        peer = median_seconds(lambda a=a, b=b: additive_chi2_kernel(a, b), 3)
        for threads in (1, 2):
            ours = median_seconds(lambda a=a, b=b, n=threads: chi2_matrix(a, b, n_jobs=n))
            results[f"score matrix 512 x 2048 x {a.shape[1]}, {kind}, {threads} threads"] = {
                "milliseconds": 1000 * ours,
                "times scikit-learn's speed": peer / ours,
            }


def limit(results):
    """Terms a second beside those of a loop that only divides, on rows in the first cache."""
    from numba import njit

    @njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
    def divide(x, y):
        total = x[0] - x[0]
        for k in range(x.shape[0]):
            total += x[k] / y[k]
        return total

    @njit(nogil=True)
    def repeat(x, y, times):
        total = np.float32(0)
        for _ in range(times):
            total += divide(x, y)
        return total

    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1000), np.float32) + np.float32(0.5)
    alone = 0.02 / median_seconds(lambda: repeat(x, y, 20_000))
    a, b = rng.random((32, 1000), np.float32), rng.random((625, 1000), np.float32)
    ours = 0.02 / median_seconds(lambda: chi2_matrix(a, b))
    results["arithmetic, 1 thread"] = {
        "thousand million terms a second": ours,
        "times the speed of a loop that only divides": ours / alone,
    }


def pairs(results):
    """A million pairs by index, beside gathering both sides and NumPy."""
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(5000, 1000)), 0).astype(np.float32)
    first, second = rng.integers(0, len(rows), (2, 1_000_000))

    def gathered(count):
        x, y = rows[first[:count]], rows[second[:count]]
        with np.errstate(invalid="ignore"):
            return np.nan_to_num((x - y) ** 2 / (x + y)).sum(axis=1)

    peer = median_seconds(lambda: gathered(20_000), 3) * 50
    for threads in (1, 2):
        ours = median_seconds(
            lambda threads=threads: chi2_pairs_at(rows, first, second, n_jobs=threads), 3
        )
        results[f"a million pairs by index, {threads} threads"] = {
            "milliseconds": 1000 * ours,
            "times NumPy's speed": peer / ours,
        }


def face(size):
    """A face as networks see it, uint8: they take other times for pictures of nothing."""
    portrait = data.astronaut()[45:205, 150:310]
    return FaceAligner(size=size).transform([portrait])[0]


def face_of_sface():
    """The same as SFace takes it: values 0 to 255, (1, 3, 112, 112)."""
    return face(112).transpose(2, 0, 1)[None].astype(np.float32)


def descriptor_networks():
    """What ships and gives descriptors, by name."""
    shipped = {name: read_artifact(name) for name in SHIPPED}
    return {
        name: artifact
        for name, artifact in shipped.items()
        if artifact.manifest["kind"] == "descriptor"
    }


def embedding(results, sface):
    if sface:
        with open(sface, "rb") as file:
            network = file.read()
        crop = face_of_sface()
    for name, artifact in descriptor_networks().items():
        asked = artifact.network_input
        image = as_network_input([face(asked.size)], asked.mean, asked.std)
        for threads in (1, 2):
            model = OnnxModel(artifact.model, threads)
            ours = median_seconds(lambda m=model, i=image: m.run(i), 15)
            row = {"milliseconds": 1000 * ours}
            if sface:
                other = OnnxModel(network, threads)
                peer = median_seconds(lambda m=other: m.run(crop), 15)
                row["share of SFace's time"] = ours / peer
            results[f"{name} network alone, one image, {threads} threads"] = row
            images = np.repeat(image, 32, axis=0)
            parts = np.split(images, range(threads, 32, threads))
            apart = median_seconds(lambda m=model, p=parts: [m.run(part) for part in p], 15)
            whole = median_seconds(lambda m=model, i=images: m.run(i), 15)
            results[f"{name} network alone, 32 images, {threads} threads"] = {
                "milliseconds an image, one a thread at a time": 1000 * apart / 32,
                "times as long in one call": whole / apart,
            }


def starting(results):
    def wall(code, **environment):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code], check=True, env={**os.environ, **environment}
            )
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    numpy_alone = wall("import numpy")
    results["import sfpose, beyond import numpy"] = {
        "milliseconds": 1000 * (wall("import numpy, sfpose") - numpy_alone)
    }
    first = (
        "import numpy as np; from sfpose import FaceEmbedder, TemplateVerifier;"
        "x = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), np.uint8);"
        "d = FaceEmbedder(min_face_score=0).transform(x);"
        "TemplateVerifier().verify(d[0], d[1])"
    )
    results["fresh process to first decision"] = {"milliseconds": 1000 * wall(first)}
    batch = (
        "import numpy as np; from sfpose._scoring import chi2_matrix;"
        "a = np.ones((100, 1000), np.float32); chi2_matrix(a, a)"
    )
    results["fresh process to first batch of scores, compiling"] = {
        "milliseconds": 1000 * wall(batch)
    }
    with tempfile.TemporaryDirectory() as folder:
        cached = "import sfpose; sfpose.cache_kernels();" + batch
        wall(cached, NUMBA_CACHE_DIR=folder)
        results["the same with kernels cached on disk"] = {
            "milliseconds": 1000 * wall(cached, NUMBA_CACHE_DIR=folder)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sface", metavar="FILE")
    parser.add_argument("--descriptors", metavar="FILE.npz")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    scoring(results, options.descriptors)
    limit(results)
    pairs(results)
    embedding(results, options.sface)
    starting(results)
    for name, row in results.items():
        print(name + ": " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
