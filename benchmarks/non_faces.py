"""How often pictures of no face are embedded and accepted, and faces refused.

    python benchmarks/non_faces.py DATA [--count 600] [--weights default] [--json FILE]
    python benchmarks/non_faces.py DATA --min-face-score 0   # what the rule prevents

DATA is a folder with fairface_128_4.zip (its last photos are FairFace's validation set),
cfp_dev.zip, kdef_pose.zip and lfw_pairs.zip; those that are missing are left out. Pairs are
all pairs within a kind, all pairs of all kinds of non-faces, and non-faces with faces, at
the thresholds that ship. A picture that is not acquired (a row of NaN) is accepted with
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder
from sfpose._scoring import chi2_matrix
from sfpose.decision import shipped_rule
from sfpose.protocols import ImageFiles, LazyImages

TARGETS = (0.1, 0.01, 0.001, 0.0001)
QUANTILES = (0.001, 0.5, 0.999)
FACES = {
    "FairFace val": ("fairface_128_4.zip", "val/"),
    "CFP": ("cfp_dev.zip", ""),
    "KDEF": ("kdef_pose.zip", ""),
    "LFW": ("lfw_pairs.zip", ""),
}


def _smooth(values, side):
    """A small array of numbers 0 to 255, drawn large and smooth."""
    picture = Image.fromarray(values.astype(np.uint8))
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def noise(rng, side):
    if rng.random() < 0.5:
        return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    values = rng.normal(rng.integers(60, 200), rng.integers(5, 60), (side, side, 1))
    return np.clip(values, 0, 255).astype(np.uint8).repeat(3, 2)


def clouds(rng, side):
    cells = int(rng.integers(2, 24))
    channels = 3 if rng.random() < 0.5 else 1
    values = rng.integers(0, 256, (cells, cells, channels))
    return _smooth(values.repeat(3 // channels, 2), side)


def blank(rng, side):
    return np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)


def gradient(rng, side):
    y, x = np.mgrid[:side, :side] / side
    turn = rng.uniform(0, 2 * np.pi)
    share = (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5) + 0.75)[..., None] / 1.5
    if rng.random() < 0.3:
        share = np.hypot(x - 0.5, y - 0.5)[..., None] * 1.4
    first, last = rng.integers(0, 256, (2, 3))
    return np.clip(first + share * (last - first), 0, 255).astype(np.uint8)


def pattern(rng, side):
    """Gratings, checks and discs."""
    y, x = np.mgrid[:side, :side] / side
    count = rng.uniform(1, 20)
    kind = rng.integers(0, 3)
    if kind == 0:
        turn = rng.uniform(0, np.pi)
        share = 0.5 + 0.5 * np.sin(2 * np.pi * count * (np.cos(turn) * x + np.sin(turn) * y))
    elif kind == 1:
        share = (np.floor(x * count) + np.floor(y * count)) % 2
    else:
        share = np.zeros_like(x)
        for _ in range(int(count)):
            centre, radius = rng.random(2), rng.uniform(0.02, 0.25)
            share[np.hypot(x - centre[0], y - centre[1]) < radius] = rng.random()
    first, last = rng.integers(0, 256, (2, 3))
    return (first + share[..., None] * (last - first)).astype(np.uint8)


MADE_UP = {
    "noise": noise,
    "clouds": clouds,
    "blank": blank,
    "gradients": gradient,
    "patterns": pattern,
}


def made_up(kind, count, seed=0):
    rng = np.random.default_rng(seed)
    return [MADE_UP[kind](rng, int(rng.integers(48, 256))) for _ in range(count)]


def corners(photos: LazyImages, count: int) -> list[np.ndarray]:
    """Pieces of the margin of FairFace photos, a quarter of their side wide."""
    rng = np.random.default_rng(1)
    found = []
    for photo in (photos[int(n)] for n in np.linspace(0, len(photos) - 1, count)):
        side = photo.shape[0] // 4
        top, left = rng.integers(0, 2, 2) * (photo.shape[0] - side)
        found.append(photo[top : top + side, left : left + side])
    return found


def objects(count: int) -> list[np.ndarray]:
    """Pieces of scikit-image's pictures in which nobody is seen."""
    from skimage import data

    rng = np.random.default_rng(2)
    names = "brick grass gravel coffee coins page text clock moon rocket immunohistochemistry"
    pictures = []
    for name in names.split():
        try:
            pictures.append(np.asarray(getattr(data, name)()))
        except Exception as error:  # some are downloaded
            print(f"left out scikit-image's {name}: {type(error).__name__}")
    pieces = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        if picture.ndim == 2:
            picture = picture[..., None].repeat(3, 2)
        side = int(rng.integers(48, min(picture.shape[:2])))
        top, left = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
        pieces.append(np.ascontiguousarray(picture[top : top + side, left : left + side, :3]))
    return pieces


def photos_of(data: Path, file: str, start: str, count: int) -> LazyImages | None:
    if not (data / file).exists():
        return None
    files = ImageFiles(data / file)
    names = [name for name in files.images() if name.startswith(start)]
    chosen = np.unique(np.linspace(0, len(names) - 1, count).astype(int))
    return LazyImages(files, [names[n] for n in chosen])


def groups_of(data: Path, count: int) -> Iterator[tuple[str, bool, object]]:
    for name, (file, start) in FACES.items():
        photos = photos_of(data, file, start, count)
        if photos is not None:
            yield name, True, photos
            if name == "FairFace val":
                yield "corners of FairFace photos", False, corners(photos, count)
    for kind in MADE_UP:
        yield kind, False, made_up(kind, count)
    yield "pieces of scikit-image's pictures", False, objects(count)


def accepted(distances, own):
    """Number of pairs at most as far as each threshold, and of all; each pair once if ``own``."""
    if own:
        distances = distances[np.triu_indices(len(distances), 1)]
    counts = {target: int((distances <= limit).sum()) for target, limit in THRESHOLDS.items()}
    return counts, distances.size


THRESHOLDS: dict[float, float] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=600, help="pictures of each kind")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--min-face-score", type=float, help="instead of the shipped limit")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    THRESHOLDS.update({t: shipped_rule(options.weights, t).threshold for t in TARGETS})
    limit = "auto" if options.min_face_score is None else options.min_face_score
    embedder = FaceEmbedder(options.weights, min_face_score=limit, n_jobs=2)
    aligner = FaceAligner(n_jobs=2)

    rows, scores, names, is_face = [], [], [], []
    for name, face, images in groups_of(options.data, options.count):
        rows.append(embedder.transform(images))
        scores.append(aligner.find_landmarks(images)[1])
        names += [name] * len(rows[-1])
        is_face += [face] * len(rows[-1])
    rows, scores = np.concatenate(rows), np.concatenate(scores)
    names, is_face = np.array(names), np.array(is_face)
    lost = np.isnan(rows).any(axis=1)
    filled = np.where(lost[:, None], np.float32(1), rows)
    distances = chi2_matrix(filled, filled)
    distances[lost] = distances[:, lost] = np.inf

    results = {}
    for name in dict.fromkeys(names):
        mine = names == name
        results[name] = {
            "pictures": int(mine.sum()),
            "acquired": int((~lost[mine]).sum()),
            "face score, 0.1, 50 and 99.9 %": np.quantile(scores[mine], QUANTILES).tolist(),
        }
        if not is_face[mine][0]:
            results[name]["accepted pairs"] = accepted(distances[np.ix_(mine, mine)], True)
    others = ~is_face
    summary = {
        "non-face with non-face": accepted(distances[np.ix_(others, others)], True),
        "non-face with face": accepted(distances[np.ix_(others, is_face)], False),
    }
    for name, row in results.items():
        print(name + ": " + ", ".join(f"{key} {value}" for key, value in row.items()))
    for name, (counts, pairs) in summary.items():
        told = ", ".join(f"at FMR {target:g}: {count:,}" for target, count in counts.items())
        print(f"{name}, accepted of {pairs:,} pairs: {told}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"groups": results, "pairs": summary}, file, indent=1)


if __name__ == "__main__":
    main()
