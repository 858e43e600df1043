"""What the subcommands of ``sfpose train`` have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfpose.cli.arguments import above_zero, check_new, check_writable, to_path

RESUME = "A run that was stopped goes on from its checkpoint when it is called again."


def add_run(parser: argparse.ArgumentParser) -> None:
    """Where a run is kept, what it writes, and how long it may take."""
    parser.add_argument("--out", type=to_path, required=True, help="artifact folder to write")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the artifact, with its thresholds: as what a run that was stopped wrote",
    )
    parser.add_argument(
        "--checkpoint",
        type=to_path,
        metavar="FILE",
        help="where the run is kept; that of another run is refused (default: runs/NAME.pt, after "
        "the folder of --out); stages of the paper are kept in NAME.stage1.pt and so on",
    )
    parser.add_argument("--minutes", type=above_zero, help="stop after this time, finished or not")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")


def add_start(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """What a run starts from, and of which architecture it is."""
    looks = "; several fill the looks of a network of several looks, one after the other"
    parser.add_argument(
        "--start",
        nargs="+" if several else None,
        help="what to start from: a shipped name, an artifact, a SqueezeNet v1.1 state "
        "(.safetensors or .pth), or another run's checkpoint (.pt); random weights if not given"
        + (looks if several else ""),
    )
    parser.add_argument(
        "--network",
        help="architecture, such as squeezefaceposenet+dwc (default: that of --start, or "
        "squeezefaceposenet); from weights of another one it takes the layers that fit",
    )


def checkpoint_of(options: argparse.Namespace) -> Path:
    """Where to keep the run, once it is known that it can run here and write its result.

    Sets the number of threads on the way into torch.
    """
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1; got {options.threads}")
    check_new(options.out, options.overwrite, artifact=True)
    import torch

    from sfpose.training.settings import find_device

    find_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint: Path = options.checkpoint or Path("runs") / f"{options.out.absolute().name}.pt"
    if options.out.absolute() in checkpoint.absolute().parents:
        raise ValueError(
            f"--checkpoint must lie outside of --out, which is written at the end; got {checkpoint}"
        )
    check_writable(checkpoint, "--checkpoint")
    return checkpoint
