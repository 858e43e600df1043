"""Search time and memory from 1,000 to 1,000,000 templates, kept on disk as a memory map.

    python benchmarks/growth.py [--largest 1000000] [--folder DIR] [--figure growth.png] [--json F]

Templates are made up: sparse values that sum to 1. Each size is measured in a process of its
own: loading without verification, one probe, and 256 probes at once, k = 10. Memory is what
the process allocates beside the map (RssAnon), which Linux tells.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sfpose import TemplateGallery


def made_up(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, 1000), np.float32)
    np.maximum(rows - np.float32(0.8), 0, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


def own_memory():
    """Megabytes that this process has allocated; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def measure(folder):
    probes = made_up(256, 10**6)
    small = TemplateGallery()
    small.add(range(300), made_up(300, 5))
    small.search(probes, k=10)  # compile
    before, start = own_memory(), time.perf_counter()
    gallery = TemplateGallery.load(folder, verify=False, n_jobs=-1)
    load = time.perf_counter() - start
    times = {}
    for name, part, repeats in [("one", probes[:1], 5), ("batch", probes, 3)]:
        gallery.search(part, k=10)
        rounds = []
        for _ in range(repeats):
            start = time.perf_counter()
            gallery.search(part, k=10)
            rounds.append(time.perf_counter() - start)
        times[name] = 1000 * statistics.median(rounds) / len(part)
    return {
        "rows": len(gallery),
        "load_s": load,
        "one_probe_ms": times["one"],
        "ms_a_probe_of_256": times["batch"],
        "own_memory_mb": own_memory() - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where galleries are written (default: a temporary one)")
    parser.add_argument("--figure")
    parser.add_argument("--json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        count = 1_000
        while count <= options.largest:
            gallery = TemplateGallery()
            for start in range(0, count, 100_000):
                part = made_up(min(100_000, count - start), start)
                gallery.add(range(start, start + len(part)), part)
            path = gallery.save(Path(folder) / "gallery", overwrite=True)
            del gallery
            done = subprocess.run(
                [sys.executable, __file__, "--measure", str(path)],
                check=True,
                capture_output=True,
                text=True,
            )
            results.append(json.loads(done.stdout))
            print(results[-1], flush=True)
            count *= 10
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    if options.figure:
        import matplotlib.pyplot as plt

        rows = [result["rows"] for result in results]
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
        left.loglog(rows, [r["one_probe_ms"] for r in results], "o-", label="one probe")
        left.loglog(rows, [r["ms_a_probe_of_256"] for r in results], "o-", label="each of 256")
        left.set(xlabel="Templates", ylabel="Milliseconds a probe")
        left.legend()
        right.loglog(rows, [0.004 * n for n in rows], "0.7", label="the templates themselves")
        right.loglog(rows, [max(r["own_memory_mb"], 1) for r in results], "o-", label="beside them")
        right.set(xlabel="Templates", ylabel="Megabytes")
        right.legend()
        figure.tight_layout()
        figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
