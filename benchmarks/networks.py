"""Table 1 measured: what each network costs, beside the paper's column.

    python benchmarks/networks.py [--rounds 40] [--json FILE]
    python benchmarks/networks.py --list

The weights are random, which the time does not depend on. Each network is exported to ONNX
and embeds one image at a time through onnxruntime, at one thread and at two. Rounds are
interleaved: each runs every network once, in another order, so that whatever else the
machine does meets all of them. A ratio is the median over rounds of a network's time over
the plain network's in the same round: that is what to quote. The size compressed by zlib,
in MiB, is what to set beside the paper's megabytes, which are below four bytes a parameter.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib

import numpy as np
import torch

from sfpose.networks import NETWORKS, build_network, network_summary
from sfpose.runtime.session import OnnxModel
from sfpose.training.export import to_onnx

PLAIN = "squeezefaceposenet"
THREADS = (1, 2)
TABLE_1 = [
    name
    for name, spec in NETWORKS.items()
    if spec.published_parameters is not None or spec.published_megabytes is not None
]


def export(name):
    torch.manual_seed(0)
    network = build_network(name)
    with torch.no_grad():
        for parameter in network.parameters():
            # Trained weights are never equal, as some are at the start: they compress less.
            parameter.add_(0.01 * torch.randn_like(parameter))
    return to_onnx(network, NETWORKS[name].input_size)


def times(models, threads, rounds):
    """Seconds of one image, for each network an array of shape (rounds,)."""
    rng = np.random.default_rng(0)
    sessions = {name: OnnxModel(model, threads) for name, model in models.items()}
    images = {
        name: rng.normal(size=(1, 3, size, size)).astype(np.float32)
        for name, size in ((name, NETWORKS[name].input_size) for name in models)
    }
    seconds = {name: [] for name in models}
    for round_ in range(rounds + 2):
        for name in rng.permutation(list(models)):
            # The call before has filled the caches with another network.
            sessions[name].run(images[name])
            start = time.perf_counter()
            sessions[name].run(images[name])
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def measure(names, rounds):
    models = {name: export(name) for name in names}
    rows = {}
    for name, model in models.items():
        summary = network_summary(name)
        rows[name] = {
            "parameters": summary.parameters,
            "multiply_adds": summary.multiply_adds,
            "onnx_bytes": len(model),
            "compressed_bytes": len(zlib.compress(model)),
        }
    for threads in THREADS:
        seconds = times(models, threads, rounds)
        for name, values in seconds.items():
            rows[name][f"milliseconds_{threads}"] = 1000 * float(np.median(values))
            ratios = values / seconds[PLAIN]
            rows[name][f"ratio_{threads}"] = float(np.median(ratios))
            rows[name][f"ratio_quartiles_{threads}"] = np.quantile(ratios, (0.25, 0.75)).tolist()
    return rows


def optional(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}".rstrip("0").rstrip(".")


def print_table(rows):
    head = ["network", "parameters", "multiply-adds, M", "ONNX, MB", "compressed, MiB"]
    for threads in THREADS:
        word = "thread" if threads == 1 else "threads"
        head += [f"{threads} {word}, ms", f"{threads} {word}, of plain"]
    head += ["paper: parameters, M", "paper: MB", "paper: ms", "paper: of plain"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name, row in rows.items():
        spec = NETWORKS[name]
        cells = [name, f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:,.0f}"]
        cells.append(f"{row['onnx_bytes'] / 1e6:.2f}")
        cells.append(f"{row['compressed_bytes'] / 2**20:.2f}")
        for threads in THREADS:
            cells.append(f"{row[f'milliseconds_{threads}']:.1f}")
            cells.append(f"{row[f'ratio_{threads}']:.2f}")
        cells += [optional(spec.published_parameters), optional(spec.published_megabytes)]
        published = spec.published_milliseconds
        cells.append(optional(published, 1))
        plain = NETWORKS[PLAIN].published_milliseconds
        cells.append("" if published is None else f"{published / plain:.2f}")
        print("| " + " | ".join(cells) + " |")


def print_list():
    print("| name | input | values | distance | parameters | multiply-adds, M | float32, MB |")
    print("|---" * 7 + "|")
    for name, spec in NETWORKS.items():
        summary = network_summary(name)
        cells = [f"`{name}`", f"{summary.input_size}x{summary.input_size}"]
        cells += [str(summary.descriptor_size), spec.distance, f"{summary.parameters:,}"]
        cells += [f"{summary.multiply_adds / 1e6:,.0f}", f"{summary.bytes / 1e6:.2f}"]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="what every network is; no timing")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.list:
        print_list()
        return
    rows = measure(TABLE_1, options.rounds)
    print_table(rows)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
