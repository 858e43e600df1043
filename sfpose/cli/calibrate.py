"""``sfpose calibrate PEOPLE --out ARTIFACT``: a threshold of your own people."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfpose.cli.arguments import check_new, rate, to_path
from sfpose.cli.finding import photos_by_person
from sfpose.cli.output import print_json, say_left_out
from sfpose.cli.photos import (
    add_photo_options,
    check_one_face,
    embed_photos,
    readable,
)

if TYPE_CHECKING:
    from argparse import _SubParsersAction


_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "calibrate",
        help="choose the threshold on photos of your own people",
        description="Compare the photos in a folder with one folder for each person, one "
        "against one and as templates of several as far as they go, find the thresholds for the "
        "false match rates that you ask for, and write the weights with them as an artifact. "
        "Give it to the other commands as --weights ARTIFACT. A rate for which fewer than 3 false "
        "matches are expected among the photos is left out, and nothing written if none is left.",
    )
    parser.add_argument("people", help="folder PERSON/photo of at least two people")
    parser.add_argument("--out", type=to_path, required=True, help="artifact folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the artifact")
    parser.add_argument(
        "--target-fmr",
        type=rate,
        nargs="+",
        action="extend",
        metavar="RATE",
        help="how often strangers may be taken for the same person (default: "
        "0.1 0.01 0.001 0.0001)",
    )
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the artifact and print what each threshold achieved."""
    import numpy as np

    from sfpose._calibrated import to_conditions
    from sfpose._calibration import TEMPLATE_SIZES, Calibrator
    from sfpose.decision import different_rates
    from sfpose.runtime.artifact import read_artifact, write_artifact

    check_new(options.out, options.overwrite, artifact=True)
    read_artifact(options.weights)  # which is refused before any photo is read
    photos, people, without = photos_by_person(options.people)
    kept, unreadable = readable(photos, options)
    photos, whose = [photos[row] for row in kept], [people[row] for row in kept]
    faces = embed_photos(photos, options)
    check_one_face(photos, faces)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    rows, names = faces.descriptors[usable], np.array(whose)[faces.index[usable]]
    calibrator = Calibrator(rows, names, n_jobs=options.n_jobs)
    targets = different_rates(options.target_fmr or _TARGETS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = calibrator.run(TEMPLATE_SIZES, targets, needed=0)
    notes = [str(warning.message) for warning in caught]
    data = f"{len(rows)} photos of {len(set(names.tolist()))} people in {Path(options.people).name}"
    conditions: Any = to_conditions(found)
    manifest: dict[str, Any] = {**faces.artifact.manifest}
    manifest["calibration"] = {"data": data, "conditions": conditions}
    write_artifact(options.out, faces.artifact.model, manifest, overwrite=options.overwrite)
    lost = sorted(set(people) - set(names.tolist()))
    if options.json:
        told = {"out": str(options.out), **manifest["calibration"], "warnings": notes}
        told |= {"people_without_image": without, "people_without_face": lost}
        print_json({**told, "unreadable": unreadable})
        return 0
    print(f"calibrated on {data}, wrote {options.out}")
    for condition, known in found.items():
        for entry in known.thresholds:
            print(
                f"  {condition}, target FMR {entry.target_fmr:g}: threshold {entry.threshold:.4f}, "
                f"FMR {entry.achieved_fmr:.2g}, FNMR {entry.fnmr:.3f}, "
                f"{entry.genuine_pairs} genuine and {entry.impostor_pairs} impostor pairs"
            )
    most = max(condition.template_images for condition in found)
    print(f"  decides about people who are enrolled of up to {most} photo{'s' * (most > 1)}")
    for note in notes:
        print(f"  note: {note}")
    say_left_out(without)
    say_left_out(lost, "a face that was found")
    return 0
