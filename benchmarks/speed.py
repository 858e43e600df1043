"""Time of scoring, embedding and starting, each beside a named peer in the same run.

    python benchmarks/speed.py [--sface SFACE.onnx] [--json FILE]

Scoring is compared with scikit-learn's additive_chi2_kernel; embedding with SFace, if
its file is given. Ratios are what to quote: absolute times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from sklearn.metrics.pairwise import additive_chi2_kernel

from sfpose._scoring import chi2_matrix
from sfpose.runtime.artifact import read_artifact
from sfpose.runtime.session import OnnxModel


def median_seconds(function, repeats=7):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def scoring(results):
    rng = np.random.default_rng(0)
    a, b = (np.maximum(rng.normal(size=(n, 1000)), 0).astype(np.float32) for n in (512, 2048))
    peer = median_seconds(lambda: additive_chi2_kernel(a, b), 3)
    for threads in (1, 2):
        ours = median_seconds(lambda threads=threads: chi2_matrix(a, b, n_jobs=threads))
        results[f"score matrix 512 x 2048 x 1000, {threads} threads"] = {
            "milliseconds": 1000 * ours,
            "times scikit-learn's speed": peer / ours,
        }


def embedding(results, sface):
    peer = None
    if sface:
        with open(sface, "rb") as file:
            network = file.read()
    artifact = read_artifact("default")
    size = artifact.manifest["input"]["size"]
    for threads in (1, 2):
        for batch in (1, 32):
            model = OnnxModel(artifact.model, threads)
            images = np.zeros((batch, 3, size, size), np.float32)
            ours = median_seconds(lambda m=model, i=images: m.run(i)) / batch
            row = {"milliseconds an image": 1000 * ours}
            if sface and batch == 1:
                other = OnnxModel(network, threads)
                crops = np.zeros((1, 3, 112, 112), np.float32)
                peer = median_seconds(lambda m=other, c=crops: m.run(c))
                row["share of SFace's time"] = ours / peer
            results[f"network alone, batch {batch}, {threads} threads"] = row


def starting(results):
    def wall(code):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    numpy_alone = wall("import numpy")
    results["import sfpose, beyond import numpy"] = {
        "milliseconds": 1000 * (wall("import numpy, sfpose") - numpy_alone)
    }
    first = (
        "import numpy as np; from sfpose import FaceEmbedder, TemplateVerifier;"
        "d = FaceEmbedder().transform(np.zeros((2, 150, 150, 3), np.uint8));"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sface", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    scoring(results)
    embedding(results, options.sface)
    starting(results)
    for name, row in results.items():
        print(name + ": " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
