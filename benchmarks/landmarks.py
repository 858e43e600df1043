"""The landmark network beside YuNet: distance on held-out photos, time, worth for SFace.

    python benchmarks/landmarks.py DATA --cache DIR [--photos 1000]
    python benchmarks/landmarks.py DATA --cache DIR --sface S.onnx --yunet Y.onnx --people 1-50

DATA is the folder of the training data (see docs/data.md); with --yunet also distances by
pose on cfp_dev.zip and kdef_pose.zip, with --sface what both landmarks are worth to SFace.
YuNet's landmarks of profiles are no ground truth.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from peers import SFace, cosine_distance

from sfpose import FaceAligner
from sfpose.cli.evaluate import people_range
from sfpose.detectors import YuNet
from sfpose.evaluation import evaluate_cfp, format_table
from sfpose.protocols import CFP, PoseFolder
from sfpose.runtime.artifact import read_artifact
from sfpose.training.faces import load_taught_faces
from sfpose.training.landmarks import landmark_error


class SFaceByOurLandmarks(SFace):
    """SFace aligned by the landmark network that ships."""

    def __init__(self, sface: str, yunet: str) -> None:
        super().__init__(sface, yunet)
        self._aligner = FaceAligner(n_jobs=2)

    def _landmarks(self, image):
        return self._aligner.find_landmarks([image])[0][0]


def _tell(name: str, errors: np.ndarray, scores: np.ndarray) -> None:
    limit = read_artifact("landmarks").manifest["min_face_score"]
    print(
        f"{name}: {len(errors):,}, {errors.mean():.3f}, {np.median(errors):.3f}, "
        f"{100 * (scores < limit).mean():.2f} %"
    )


def _by_pose(name: str, folder: PoseFolder, yunet: str) -> None:
    """Photos in which YuNet finds no face are left out of the distances."""
    theirs = FaceAligner(YuNet(yunet), policy="largest").align(folder.images)
    ours, scores = FaceAligner(n_jobs=2).find_landmarks(folder.images)
    pairs = (torch.from_numpy(points) for points in (ours[theirs.index], theirs.landmarks))
    errors = landmark_error(*pairs).numpy()
    for pose in np.unique(folder.poses):
        rows = folder.poses[theirs.index] == pose
        _tell(f"{name}, {pose}", errors[rows], scores[folder.poses == pose])


def _time(photos: np.ndarray) -> None:
    aligner = FaceAligner(n_jobs=1)
    aligner.find_landmarks(photos[:1])
    times = []
    for photo in photos:
        start = time.perf_counter()
        aligner.find_landmarks([photo])
        times.append(time.perf_counter() - start)
    print(f"one photo of {photos.shape[1]} pixels, one thread: {1000 * np.median(times):.1f} ms")


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
    found, scores = FaceAligner(n_jobs=2).find_landmarks(faces.photos[rows])
    told = torch.from_numpy(faces.landmarks[rows].astype(np.float64))
    errors = landmark_error(torch.from_numpy(found), told).numpy()
    print("distance to YuNet's landmarks over the face size: photos, mean, median, refused")
    _tell("FairFace, held out", errors, scores)
    if options.yunet:
        for name in ("cfp_dev.zip", "kdef_pose.zip"):
            _by_pose(name, PoseFolder(options.data / name), options.yunet)
    _time(faces.photos[rows[:64]])
    if options.sface and options.yunet:
        cfp = CFP(options.data / "cfp_dev.zip", people=options.people)
        for name, kind in [("YuNet", SFace), ("ours", SFaceByOurLandmarks)]:
            table = evaluate_cfp(cfp, kind(options.sface, options.yunet), cosine_distance)
            print(f"\nSFace aligned by {name}\n{format_table(table)}")


if __name__ == "__main__":
    main()
