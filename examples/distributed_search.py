"""Search a gallery over several processes with Dask.

    python examples/distributed_search.py [--workers 2] [--scheduler tcp://host:8786]

Without ``--scheduler`` a cluster of local processes is started; with it, the same lines run
on the machines of a cluster that is there already.
"""

import argparse

import dask.array
import numpy as np
from distributed import Client, LocalCluster

from sfpose import TemplateGallery
from sfpose.distributed import search


def made_up_descriptors(count, seed):
    """Sparse, not negative, with a sum of 1: what an embedder gives, without photos."""
    rows = np.maximum(np.random.default_rng(seed).normal(-0.8, 1.0, (count, 1000)), 0)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scheduler")
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    templates, probes = made_up_descriptors(options.rows, 0), made_up_descriptors(100, 1)

    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None
    )
    with Client(cluster):
        blocks = dask.array.from_array(templates, chunks=(5_000, 1000))
        rows, distances = search(blocks, probes, k=5)

    gallery = TemplateGallery()
    gallery.add(range(len(templates)), templates)
    expected = gallery.search(probes, k=5)
    same = np.array_equal(rows, expected.ids) and np.array_equal(distances, expected.distances)
    print(f"{len(probes)} probes in {len(templates)} templates; as on one machine: {same}")


if __name__ == "__main__":
    main()
