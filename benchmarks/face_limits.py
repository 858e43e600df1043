"""What each limit of the face score refuses and lets through.

    python benchmarks/face_limits.py DATA [--people 101-250] [--count 1000]

DATA is a folder with cfp_dev.zip and fairface_128_4.zip (its last photos are FairFace's validation
set). Each row is a `min_face_score`: how many faces it refuses, CFP's frontal photos and profiles,
the profiles changed as benchmarks/photo_quality.py changes them, and FairFace's validation photos;
and how many of the pictures of no face of benchmarks/non_faces.py it takes for a face.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from non_faces import MADE_UP, corners, made_up, objects, photos_of
from photo_quality import CHANGES, changed

from sfpose import FaceAligner
from sfpose.cli.evaluate import people_range
from sfpose.protocols import CFP

LIMITS = (0.05, 0.5, 0.7, 0.76, 0.8, 0.88, 0.95, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--people", type=people_range, default=range(101, 251))
    parser.add_argument("--count", type=int, default=1000, help="pictures of no face of each kind")
    options = parser.parse_args()
    cfp = CFP(options.data / "cfp_dev.zip", people=options.people)
    frontal, profile = (
        [cfp.images[int(row)] for row in np.flatnonzero(cfp.poses == pose)]
        for pose in ("frontal", "profile")
    )
    held_out = photos_of(options.data, "fairface_128_4.zip", "val/", 5000)
    if held_out is None:
        parser.error(f"{options.data} must hold fairface_128_4.zip")
    no_faces = corners(held_out, options.count) + objects(options.count)
    for kind in MADE_UP:
        no_faces += made_up(kind, options.count)
    faces = {
        "frontal": frontal,
        "profile": profile,
        "profile, changed": [
            photo for change in list(CHANGES.values())[1:] for photo in changed(profile, change)
        ],
        "FairFace": held_out,
    }
    aligner = FaceAligner(n_jobs=2)
    scores = {name: aligner.find_landmarks(images)[1] for name, images in faces.items()}
    others = aligner.find_landmarks(no_faces)[1]
    print("limit | " + " | ".join(f"{name}, of {len(found):,}" for name, found in scores.items()))
    print(f"and pictures of no face that pass, of {len(others):,}")
    for limit in LIMITS:
        counts = [(found < limit).sum() for found in scores.values()] + [(others >= limit).sum()]
        print(" | ".join([f"{limit:g}", *(f"{count:,}" for count in counts)]), flush=True)


if __name__ == "__main__":
    main()
