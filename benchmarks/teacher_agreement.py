"""How near a mapped network comes to its teacher, on photos like those it learned from and others.

    python benchmarks/teacher_agreement.py DATA --teacher sface.onnx [--weights default]

DATA is the folder of the training data (see docs/training.md), with cfp_dev.zip (people 001 to
100) and kdef_pose.zip. Each row is the mean cosine between what the network's map gives and the
teacher's embedding (mean of image and mirror image) of the same photo, aligned by the landmark
network, either less its mean over the photos of the row: what all of them share, such as the black
border of tight crops, is not agreement about who is who. Photos without a face are left out.
FairFace's rows by yaw tell, of heads turned alike, photos that networks learn from and photos held
out apart: a network that is far behind on the latter knows the former by heart.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics.pairwise import paired_cosine_distances

from sfpose import FaceAligner, FaceEmbedder
from sfpose.pose import head_pose
from sfpose.protocols import CFP, PoseFolder
from sfpose.runtime.artifact import read_artifact
from sfpose.training.faces import TaughtFaces, load_taught_faces
from sfpose.training.maps import is_mapped
from sfpose.training.teachers import OnnxTeacher, both_looks, each_look

YAWS = (0, 15, 30, 45, 60, 75, 91)
"""Degrees of yaw, to either side, between which FairFace's photos are taken together."""


def mapped_values(descriptors: np.ndarray) -> np.ndarray:
    """The signed values (n, 128), but for a factor, whose two halves descriptors (n, 256) hold.

    Exact but for values that one half cannot show and for the mean of an image and its mirror.
    """
    half = descriptors.shape[1] // 2
    return descriptors[:, :half] - descriptors[:, half:]


def photos_by_kind(
    data: Path, faces: TaughtFaces, count: int
) -> Iterator[tuple[str, Sequence[np.ndarray], np.ndarray]]:
    """Name, photos and up to ``count`` rows of them, drawn at random, of each kind."""
    rng = np.random.default_rng(0)

    def some(chosen: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(np.flatnonzero(chosen))[:count])

    with open(data / "fairface_label_val.csv", newline="") as file:
        races = {row["file"]: row["race"] for row in csv.DictReader(file)}
    with np.load(data / "fairface_teacher.npz") as stored:
        names = stored["files"][faces.held_out]
    race = np.full(len(faces.held_out), "", dtype=object)
    race[faces.held_out] = [races[str(name)] for name in names]
    yield "FairFace, held out", faces.photos, some(faces.held_out)
    seen = faces.scores > 0
    yaw = np.full(len(seen), np.nan)
    yaw[seen] = np.abs(head_pose(faces.landmarks[seen]).yaw)
    for least, most in pairwise(YAWS):
        alike = (yaw >= least) & (yaw < most)
        for kind, group in (("learned from", ~faces.held_out), ("held out", faces.held_out)):
            name = f"FairFace, {kind}, yaw {least:2d} to {most}"
            yield name, faces.photos, some(alike & group)
    for name in np.unique(race[faces.held_out]):
        yield f"FairFace, held out, {name}", faces.photos, some(faces.held_out & (race == name))
    folders = {
        "CFP 001-100": CFP(data / "cfp_dev.zip", people=range(1, 101)),
        "KDEF": PoseFolder(data / "kdef_pose.zip"),
    }
    for name, folder in folders.items():
        for pose in np.unique(folder.poses):
            yield f"{name}, {pose}", folder.images, some(folder.poses == pose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, metavar="ONNX")
    parser.add_argument("--weights", default="default", help="of a network +map")
    parser.add_argument("--cache", type=Path, default=Path(".cache/sfpose"))
    parser.add_argument("--count", type=int, default=400, help="photos of each kind")
    options = parser.parse_args()
    network = str(read_artifact(options.weights).manifest["network"])
    if not is_mapped(network):
        parser.error(f"--weights must be of a network +map; got {network!r}")
    embedder = FaceEmbedder(weights=options.weights, n_jobs=2)
    aligner = FaceAligner(size=112, min_face_score=0, n_jobs=2)
    teacher = OnnxTeacher(options.teacher)
    faces = load_taught_faces(options.data, options.cache)
    print("photos                                faces  cosine")
    for name, photos, rows in photos_by_kind(options.data, faces, options.count):
        images = [photos[row] for row in rows]
        descriptors = embedder.transform(images)
        found = np.isfinite(descriptors).all(1)
        crops = aligner.transform([images[place] for place in np.flatnonzero(found)])
        planes = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
        looks = both_looks(*each_look(teacher, planes))
        values = mapped_values(descriptors[found])
        far = paired_cosine_distances(values - values.mean(0), looks - looks.mean(0))
        print(f"{name:36s}  {found.sum():5d}  {1 - far.mean():.3f}", flush=True)


if __name__ == "__main__":
    main()
