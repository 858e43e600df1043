"""The landmark network beside YuNet: distance on held-out photos, worth for SFace.

    python benchmarks/landmarks.py DATA --cache DIR [--photos 1000]
    python benchmarks/landmarks.py DATA --cache DIR --sface S.onnx --yunet Y.onnx --people 1-50

DATA is the folder of the training data (see docs/training.md), with cfp_dev.zip for SFace.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from peers import SFace, cosine_distance

from sfpose import FaceAligner
from sfpose.cli.evaluate import people_range
from sfpose.evaluation import evaluate_cfp, format_table
from sfpose.protocols import CFP
from sfpose.training.faces import load_taught_faces
from sfpose.training.landmarks import landmark_error


class SFaceByOurLandmarks(SFace):
    """SFace aligned by the landmark network that ships."""

    def __init__(self, sface: str, yunet: str) -> None:
        super().__init__(sface, yunet)
        self._aligner = FaceAligner(n_jobs=2)

    def _landmarks(self, image):
        return self._aligner.find_landmarks([image])[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".cache/sfpose"))
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--people", type=people_range, default=range(1, 51))
    parser.add_argument("--sface")
    parser.add_argument("--yunet")
    options = parser.parse_args()

    faces = load_taught_faces(options.data, options.cache)
    rows = np.flatnonzero(faces.held_out & (faces.scores > 0))[: options.photos]
    found, _ = FaceAligner(n_jobs=2).find_landmarks(faces.photos[rows])
    told = torch.from_numpy(faces.landmarks[rows].astype(np.float64))
    errors = landmark_error(torch.from_numpy(found), told).numpy()
    print(
        f"{len(rows)} held-out photos, distance to YuNet's landmarks over the face size: "
        f"mean {errors.mean():.3f}, median {np.median(errors):.3f}"
    )
    if options.sface and options.yunet:
        cfp = CFP(options.data / "cfp_dev.zip", people=options.people)
        for name, kind in [("YuNet", SFace), ("ours", SFaceByOurLandmarks)]:
            table = evaluate_cfp(cfp, kind(options.sface, options.yunet), cosine_distance)
            print(f"\nSFace aligned by {name}\n{format_table(table)}")


if __name__ == "__main__":
    main()
