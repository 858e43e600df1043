"""Table 1 measured: what each network costs, beside the paper's column.

The weights are random, which the time does not depend on. Each network is exported to ONNX
and embeds one image at a time through onnxruntime, at one thread and at two. Rounds are
interleaved: each runs every network once, in another order, so that whatever else the
machine does meets all of them. A ratio is the median over rounds of a network's time over
the plain network's in the same round: that is what to quote. The size compressed by zlib,
in MiB, is what to set beside the paper's megabytes, which are below four bytes a parameter.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfpose.networks import NETWORKS, build_network, network_summary
from sfpose.runtime.session import OnnxModel
from sfpose.training.export import to_onnx

__all__ = ["TABLE_1", "measure_networks", "network_list", "network_table"]

PLAIN = "squeezefaceposenet"
THREADS = (1, 2)
TABLE_1 = [
    name
    for name, spec in NETWORKS.items()
    if spec.published_parameters is not None or spec.published_megabytes is not None
]
"""The networks of the paper's Table 1."""


def _export(name: str) -> bytes:
    torch.manual_seed(0)
    network = build_network(name)
    with torch.no_grad():
        for parameter in network.parameters():
            # Trained weights are never equal, as some are at the start: they compress less.
            parameter.add_(0.01 * torch.randn_like(parameter))
    return to_onnx(network, NETWORKS[name].input_size)


def _times(models: dict[str, bytes], threads: int, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of one image, for each network an array of shape (rounds,)."""
    rng = np.random.default_rng(0)
    sessions = {name: OnnxModel(model, threads) for name, model in models.items()}
    images = {
        name: rng.normal(size=(1, 3, size, size)).astype(np.float32)
        for name, size in ((name, NETWORKS[name].input_size) for name in models)
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(rounds + 2):
        for name in rng.permutation(list(models)):
            # The call before has filled the caches with another network.
            sessions[name].run(images[name])
            start = time.perf_counter()
            sessions[name].run(images[name])
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def measure_networks(*, rounds: int = 40) -> dict[str, dict[str, Any]]:
    """Cost of each network of ``TABLE_1``, the plain one among them.

    Parameters
    ----------
    rounds : int, default=40
        Images that each network embeds.

    Returns
    -------
    dict of str to dict
        ``parameters``, ``multiply_adds``, ``onnx_bytes``, ``compressed_bytes``, and for one and
        two threads the median ``milliseconds_N``, the ``ratio_N`` to the plain network and
        its ``ratio_quartiles_N``.

    Raises
    ------
    ValueError
        If ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")
    models = {name: _export(name) for name in TABLE_1}
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        summary = network_summary(name)
        rows[name] = {
            "parameters": summary.parameters,
            "multiply_adds": summary.multiply_adds,
            "onnx_bytes": len(model),
            "compressed_bytes": len(zlib.compress(model)),
        }
    for threads in THREADS:
        measured = _times(models, threads, rounds)
        for name, values in measured.items():
            rows[name][f"milliseconds_{threads}"] = 1000 * float(np.median(values))
            ratios = values / measured[PLAIN]
            rows[name][f"ratio_{threads}"] = float(np.median(ratios))
            rows[name][f"ratio_quartiles_{threads}"] = np.quantile(ratios, (0.25, 0.75)).tolist()
    return rows


def _optional(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}".rstrip("0").rstrip(".")


def network_table(rows: dict[str, dict[str, Any]]) -> str:
    """What ``measure_networks`` found, beside the paper, as a Markdown table."""
    head = ["network", "parameters", "multiply-adds, M", "ONNX, MB", "compressed, MiB"]
    for threads in THREADS:
        word = "thread" if threads == 1 else "threads"
        head += [f"{threads} {word}, ms", f"{threads} {word}, of plain"]
    head += ["paper: parameters, M", "paper: MB", "paper: ms", "paper: of plain"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        spec = NETWORKS[name]
        cells = [name, f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:,.0f}"]
        cells.append(f"{row['onnx_bytes'] / 1e6:.2f}")
        cells.append(f"{row['compressed_bytes'] / 2**20:.2f}")
        for threads in THREADS:
            cells.append(f"{row[f'milliseconds_{threads}']:.1f}")
            cells.append(f"{row[f'ratio_{threads}']:.2f}")
        cells += [_optional(spec.published_parameters), _optional(spec.published_megabytes)]
        published = spec.published_milliseconds
        cells.append(_optional(published, 1))
        plain = NETWORKS[PLAIN].published_milliseconds
        cells.append(f"{published / plain:.2f}" if published and plain else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def network_list() -> str:
    """Every network of the registry and its cost, as a Markdown table."""
    lines = [
        "| name | input | values | distance | parameters | multiply-adds, M | float32, MB |",
        "|---" * 7 + "|",
    ]
    for name, spec in NETWORKS.items():
        summary = network_summary(name)
        cells = [f"`{name}`", f"{summary.input_size}x{summary.input_size}"]
        cells += [str(summary.descriptor_size), spec.distance, f"{summary.parameters:,}"]
        cells += [f"{summary.multiply_adds / 1e6:,.0f}", f"{summary.bytes / 1e6:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
