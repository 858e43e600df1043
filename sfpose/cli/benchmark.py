"""``sfpose benchmark``: how fast this machine embeds and compares."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sfpose.cli.arguments import at_least_one
from sfpose.cli.output import print_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "benchmark",
        help="measure speed on this machine",
        description="Measure on made-up pictures how fast this machine aligns, embeds and "
        "compares. Medians; nothing is written or sent anywhere.",
    )
    parser.add_argument("--weights", default="default", help="shipped name or path of an artifact")
    parser.add_argument("--n-jobs", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument("--repeats", type=at_least_one, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print milliseconds and rates."""
    import numpy as np

    from sfpose._scoring import chi2_matrix
    from sfpose.alignment import FaceAligner
    from sfpose.embedder import FaceEmbedder

    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (32, 160, 160, 3), dtype=np.uint8)
    embedder = FaceEmbedder(options.weights, align="done", n_jobs=options.n_jobs)
    rows = rng.random((256, embedder.n_features_out), dtype=np.float32)
    aligner = FaceAligner(min_face_score=0, n_jobs=options.n_jobs)

    def seconds(work: Callable[[], object]) -> float:
        work()
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    one = seconds(lambda: embedder.transform(photos[:1]))
    batch = seconds(lambda: embedder.transform(photos)) / len(photos)
    align = seconds(lambda: aligner.transform(photos)) / len(photos)
    pairs = len(rows) ** 2 / seconds(lambda: chi2_matrix(rows, rows, n_jobs=options.n_jobs))
    told = {
        "weights": str(options.weights),
        "n_jobs": options.n_jobs,
        "processors": os.cpu_count(),
        "align_ms": round(1e3 * align, 3),
        "embed_one_ms": round(1e3 * one, 3),
        "embed_batch_ms": round(1e3 * batch, 3),
        "pairs_per_second": round(pairs),
    }
    if options.json:
        print_json(told)
    else:
        print(f"{options.n_jobs} thread(s) of {told['processors']} processors")
        print(f"find landmarks and align a crop of 160x160: {told['align_ms']:.1f} ms")
        print(f"embed an aligned face: {told['embed_one_ms']:.1f} ms alone, ", end="")
        print(f"{told['embed_batch_ms']:.1f} ms in a batch of {len(photos)}")
        print(f"compare descriptors: {pairs:,.0f} pairs a second")
    return 0
