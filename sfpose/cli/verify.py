"""``sfpose verify a.jpg b.jpg``: two photos in, a decision and a distance out."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "verify",
        help="decide whether two photos show the same person",
        description="Decide whether two photos show the same person. Each photo should be "
        "a loose crop of one face. Exits with 0 for the same person, 1 for different people.",
    )
    parser.add_argument("template", help="photo of the person you know (JPEG, PNG or WebP)")
    parser.add_argument("probe", help="photo to compare with it")
    parser.add_argument(
        "--target-fmr",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="how often strangers may be taken for the same person (default: 0.001)",
    )
    parser.add_argument("--weights", default="default", help="shipped name or path of an artifact")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the decision; 0 for a match, 1 for none."""
    from sfpose._embedding import Embedding
    from sfpose._scoring import chi2_pairs
    from sfpose.decision import shipped_rule
    from sfpose.runtime.artifact import read_artifact

    start = time.perf_counter()
    rule = shipped_rule(options.weights, options.target_fmr)
    rows = Embedding(read_artifact(options.weights))([options.template, options.probe])
    for row, path in zip(rows, (options.template, options.probe), strict=True):
        if not row[0] >= 0:
            raise ValueError(f"a photo must show a face; nothing was found in {path!r}")
    result = rule.decide(float(chi2_pairs(rows[:1], rows[1:])[0]))
    seconds = time.perf_counter() - start
    if options.json:
        print(json.dumps({**asdict(result), "seconds": round(seconds, 3)}))
    else:
        print(result)
    return 0 if result.match else 1
