"""How near a mapped network comes to its teacher, on photos like those it learned from and others.

    python benchmarks/teacher_agreement.py DATA --teacher sface.onnx [--weights default]

DATA is the folder of the training data (see docs/data.md), with cfp_dev.zip (people 001 to
100) and kdef_pose.zip. Each row is the mean cosine between what the network's map gives and the
teacher's embedding (mean of image and mirror image) of the same photo, aligned by the landmark
network, either less its mean over the photos of the row: what all of them share, such as the black
border of tight crops, is not agreement about who is who. Photos without a face are left out.
FairFace's rows by yaw tell, of heads turned alike, photos that networks learn from and photos held
out apart: a network that is far behind on the latter knows the former by heart. The last row is of
photos held out again, what they lack of the crop taken from others of them that are turned alike.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from sfpose.training.landmarks import find_own_landmarks
from sfpose.training.maps import is_mapped
from sfpose.training.surroundings import make_surrounded
from sfpose.training.teachers import OnnxTeacher, Teacher, both_looks, each_look

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


def agreement(descriptors: np.ndarray, looks: np.ndarray) -> float:
    """Mean cosine of a network's values to what the teacher says, either less its mean."""
    values = mapped_values(descriptors)
    return float(1 - paired_cosine_distances(values - values.mean(0), looks - looks.mean(0)).mean())


def surrounded_agreement(faces: TaughtFaces, teacher: Teacher, weights: str, count: int) -> float:
    """The agreement on held-out faces in the surroundings of others."""
    crops: list[torch.Tensor] = []

    def shown(look: torch.Tensor) -> torch.Tensor:
        crops.append(look)
        return teacher(look)

    held_out = replace(faces, held_out=~faces.held_out)
    with tempfile.TemporaryDirectory() as folder:
        surrounded = make_surrounded(held_out, shown, count, Path(folder))
    images = torch.cat(crops[::2]).permute(0, 2, 3, 1).numpy()  # Each is followed by its mirror.
    embedder = FaceEmbedder(weights=weights, align=False, n_jobs=2)
    descriptors = embedder.transform(np.uint8(np.round(255 * images)))
    return agreement(descriptors, surrounded.embeddings)


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
        print(
            f"{name:36s}  {found.sum():5d}  {agreement(descriptors[found], looks):.3f}", flush=True
        )
    landmarks = find_own_landmarks(faces, "landmarks", options.cache)
    own = replace(faces, landmarks=landmarks)
    found_there = surrounded_agreement(own, teacher, options.weights, options.count)
    name = "FairFace, held out, surrounded"
    print(f"{name:36s}  {options.count:5d}  {found_there:.3f}")


if __name__ == "__main__":
    main()
