"""``sfpose verify a.jpg b.jpg``: two photos in, a decision and a distance out."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.arguments import rate
from sfpose.cli.output import print_json
from sfpose.cli.photos import (
    add_detector_options,
    check_crops,
    check_one_face,
    check_policy,
    embed_photos,
    naming,
)
from sfpose.cli.rates import chosen_rate

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import numpy as np
    from numpy.typing import NDArray


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "verify",
        help="decide whether two photos show the same person",
        description="Decide whether two photos show the same person. Each photo should be "
        "a loose crop of one face, or a detector be named that finds the face in it. Exits "
        "with 0 for the same person, 1 for different people.",
    )
    parser.add_argument("template", help="photo of the person you know (JPEG, PNG or WebP)")
    parser.add_argument("probe", help="photo to compare with it")
    parser.add_argument(
        "--target-fmr",
        type=rate,
        metavar="RATE",
        help="how often strangers may be taken for the same person (default: 0.001, or the next "
        "greater rate that the weights are calibrated for; that of a bundle's verifier)",
    )
    parser.add_argument("--weights", default="default", help="shipped name or path of an artifact")
    add_detector_options(parser)
    parser.set_defaults(batch_size=2, n_jobs=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, progress=False)


def _descriptors(options: argparse.Namespace) -> NDArray[np.float32]:
    """One descriptor of each of the two photos."""
    import numpy as np

    photos = (options.template, options.probe)
    if options.detector == "crop":
        # Without scikit-learn, whose import takes longer than embedding two photos.
        from sfpose._embedding import Embedding
        from sfpose.runtime.artifact import read_artifact

        artifact = read_artifact(options.weights)
        check_crops(artifact, options)
        embed = Embedding(artifact)
        with naming(photos):
            rows = embed(photos)
        index = np.arange(2)
    else:
        faces = embed_photos([Path(photo) for photo in photos], options)
        check_one_face(photos, faces)
        rows, index = faces.descriptors, faces.index
    for number, photo in enumerate(photos):
        found = rows[index == number]
        if not len(found) or not found[0, 0] >= 0:
            hint = "nothing was found"
            if options.policy == "skip":
                hint = "none was found, or several and skipped,"
            rest = ": give a loose crop of the face, or name a --detector"
            rest = rest if options.detector == "crop" else ""
            raise ValueError(f"a photo must show a face; {hint} in {photo!r}{rest}")
    return rows


def run(options: argparse.Namespace) -> int:
    """Print the decision; 0 for a match, 1 for none."""
    from sfpose._scoring import chi2_pairs
    from sfpose.decision import manifest_of, shipped_rule

    check_policy(options)
    start = time.perf_counter()
    manifest = manifest_of(options.weights)
    rule = shipped_rule(manifest, chosen_rate(options.target_fmr, manifest, 1e-3))
    rows = _descriptors(options)
    result = rule.decide(float(chi2_pairs(rows[:1], rows[1:])[0]))
    seconds = time.perf_counter() - start
    if options.json:
        print_json({**asdict(result), "seconds": round(seconds, 3)})
    else:
        print(result)
    return 0 if result.match else 1
