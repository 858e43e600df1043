"""Do thresholds hold for other people? By number of images and pose, on CFP.

    python benchmarks/conditions.py CFP [--target-fmr 0.001]

Calibrates on people 001 to 100 and measures on people 101 to 250: the false match and
non-match rate of each kind of comparison at its own threshold, and the false match rates that
the threshold of as many images in any pose, and that of single images, would have given.
Templates in any pose hold frontal and profile images in turn; those of several images that hold
frontal ones alone, since profiles are used up, are left out. Against single images they are also
compared by the pose of these, which no threshold asks for.
"""

from __future__ import annotations

import argparse

import numpy as np

from sfpose import FaceEmbedder, TemplateVerifier, build_templates
from sfpose.protocols import CFP

POSES = ("frontal", "profile")


def in_turn(subjects, poses):
    """Rows of each person, one pose after the other until one is used up."""
    place = {}
    numbered = []
    for row, key in enumerate(zip(subjects, poses, strict=True)):
        place[key] = place.get(key, -1) + 1
        numbered.append((key[0], place[key], key[1], row))
    return np.array([row for *_, row in sorted(numbered)])


def templates(rows, subjects, poses, images, several):
    """Means of consecutive images of a person, perhaps of several poses, and whose they are."""
    chosen, groups = [], []
    for person in np.unique(subjects):
        own = np.flatnonzero(subjects == person)
        for start in range(0, len(own) - images + 1, images):
            held = own[start : start + images]
            if several and len({*poses[held]}) == 1:
                continue
            groups += [len(groups) // images] * images
            chosen += held.tolist()
    built = build_templates(rows[chosen], groups)
    return built.templates, subjects[chosen[::images]]


def compared(calibrations):
    """Images and poses of both sides, and the calibration of each."""
    for (more, fewer, pair), calibration in calibrations.items():
        yield more, fewer, pair or ("any", "any"), calibration
        if pair is None and more > fewer == 1:
            for pose in POSES:
                yield more, fewer, ("any", pose), calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp")
    parser.add_argument("--target-fmr", type=float, default=1e-3)
    options = parser.parse_args()
    data = {}
    for name, people in [("known", range(1, 101)), ("others", range(101, 251))]:
        cfp = CFP(options.cfp, people=people)
        rows = FaceEmbedder(n_jobs=-1).transform(cfp.images)
        kept = ~np.isnan(rows).any(axis=1)
        data[name] = rows[kept], cfp.subjects[kept], cfp.poses[kept]
    rows, subjects, poses = data["known"]
    verifier = TemplateVerifier(options.target_fmr, groups=("size", "pose"), n_jobs=-1)
    verifier.fit(rows, subjects, poses=poses)
    rows, subjects, poses = data["others"]
    kinds = {pose: np.flatnonzero(poses == pose) for pose in POSES}
    kinds["any"] = in_turn(subjects, poses)
    print("                                                    FMR %, threshold of")
    print("images  poses             impostors   FMR %   FNMR %  any pose  one image")
    for more, fewer, pair, calibration in compared(verifier.calibrations_):
        sides = [
            templates(
                *(each[kinds[pose]] for each in (rows, subjects, poses)),
                images,
                several=pose == "any" and images > 1,
            )
            for pose, images in zip(pair, (more, fewer), strict=True)
        ]
        distances = verifier.score_matrix(sides[0][0], sides[1][0])
        genuine = sides[0][1][:, None] == sides[1][1][None]
        strangers = distances[~genuine]
        # Within a pose, a side may hold the other's images: genuine pairs only across poses.
        refused = (distances[genuine] > calibration.threshold).mean()
        fnmr = f"{100 * refused:.2f}" if sorted(pair) == list(POSES) else "-"
        print(
            f"{more:2d} - {fewer:2d}  {pair[0]:7} - {pair[1]:7} {strangers.size:9,} "
            f"{100 * (strangers <= calibration.threshold).mean():8.3f} {fnmr:>8} "
            f"{100 * (strangers <= verifier.decision_rule(more, fewer).threshold).mean():8.3f} "
            f"{100 * (strangers <= verifier.threshold_).mean():10.3f}"
        )


if __name__ == "__main__":
    main()
