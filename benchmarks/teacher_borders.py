"""What a teacher says of faces whose surroundings are cut off, by what is drawn in their place.

    python benchmarks/teacher_borders.py DATA --teacher sface.onnx

DATA is the folder of the training data (see docs/data.md), with cfp_dev.zip (people 001 to
100). Aligned crops of FairFace's photos reach beyond where these end, and so do CFP's; the first
lines say of how much of a crop nothing is seen, in the median. Crops of CFP are cut off once more
where those of FairFace's faces turned alike would be, and what is missing is drawn in several ways.
Each row is the mean cosine between the teacher's answer (mean of image and mirror image) and its
answer to the crop before it was cut, either less its mean over the photos of the pose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics.pairwise import paired_cosine_distances
from torch import Tensor

from sfpose import FaceAligner
from sfpose.geometry import similarity_to_canonical
from sfpose.pose import head_pose
from sfpose.protocols import CFP
from sfpose.training.augmentation import sample_images
from sfpose.training.faces import TaughtFaces, load_taught_faces
from sfpose.training.teachers import TEACHER_SIZE, OnnxTeacher, both_looks, each_look

POSES = {"frontal": (0, 20), "profile": (35, 90)}
"""Absolute yaw in degrees, from and to, of FairFace's photos that go with CFP's."""


def cut_off(whole: Tensor, to_photo: Tensor, side: int) -> dict[str, Tensor]:
    """Crops (n, 3, h, h) as they would be of photos that end where others of FairFace's do.

    ``whole`` has shape (n, h, h, 3); ``to_photo`` (n, 3, 3) takes a crop's unit square to pixels
    of a photo with that ``side``.
    """
    to_crop = torch.linalg.inv(to_photo) * torch.tensor([TEACHER_SIZE, TEACHER_SIZE, 1.0])[:, None]
    photos = sample_images(whole, to_crop @ torch.diag(torch.tensor([side, side, 1.0])), side)
    photos = (255 * photos).permute(0, 2, 3, 1)
    inside = sample_images(torch.full_like(photos, 255.0), to_photo, TEACHER_SIZE)
    black, reflected, replicated = (
        sample_images(photos, to_photo, TEACHER_SIZE, padding=padding)
        for padding in ("zeros", "reflection", "border")
    )
    mean = black.sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True)
    return {
        "what was there": black + (1 - inside) * whole.permute(0, 3, 1, 2) / 255,
        "black": black,
        "grey": black + (1 - inside) / 2,
        "mean colour of the rest": black + (1 - inside) * mean,
        "outermost pixels": replicated,
        "reflection": reflected,
    }


def rows_of_pose(faces: TaughtFaces, pose: str, count: int) -> np.ndarray:
    """``count`` photos of FairFace, drawn at random, of people turned as in that pose."""
    known = np.flatnonzero((faces.scores > 0.5) & ~faces.held_out)
    low, high = POSES[pose]
    yaw = np.abs(head_pose(faces.landmarks[known]).yaw)
    return np.random.default_rng(0).choice(known[(yaw >= low) & (yaw < high)], count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, metavar="ONNX")
    parser.add_argument("--cache", type=Path, default=Path(".cache/sfpose"))
    parser.add_argument("--count", type=int, default=200, help="photos of each pose")
    options = parser.parse_args()
    faces = load_taught_faces(options.data, options.cache)
    folder = CFP(options.data / "cfp_dev.zip", people=range(1, 101))
    aligner = FaceAligner(size=TEACHER_SIZE, min_face_score=0, n_jobs=2)
    teacher = OnnxTeacher(options.teacher)

    def ask(crops: Tensor) -> np.ndarray:
        answers = both_looks(*each_look(teacher, crops))
        centred: np.ndarray = answers - answers.mean(0)
        return centred

    for pose in POSES:
        rng = np.random.default_rng(0)
        chosen = rng.permutation(np.flatnonzero(folder.poses == pose))[: options.count]
        whole = torch.from_numpy(aligner.transform([folder.images[row] for row in chosen]))
        rows = rows_of_pose(faces, pose, len(chosen))
        to_photo = similarity_to_canonical(faces.landmarks[rows]).astype(np.float32)
        drawn = cut_off(whole, torch.from_numpy(to_photo), faces.photos.shape[1])
        before = whole.permute(0, 3, 1, 2) / 255
        for name, crops in (("before", before), ("cut off", drawn["black"])):
            unseen = (crops.amax(1) == 0).float().mean((1, 2)).median()
            print(f"{pose:8s} nothing is seen of {unseen:.2f} {name}")
        expected = ask(before)
        for name, crops in drawn.items():
            far = paired_cosine_distances(ask(crops), expected)
            print(f"{pose:8s} {name:24s} {1 - far.mean():.3f}", flush=True)


if __name__ == "__main__":
    main()
