"""What alignment by the landmark network gives when a crop is not as it should be.

    python benchmarks/alignment.py DATA [--weights default] [--lfw-folds 3] [--json FILE]

DATA is a folder with cfp_dev.zip (people 101 to 250), kdef_pose.zip and lfw_pairs.zip. Each
image is changed as a poor detector or a camera held askew would; every column is the EER in
percent with alignment, and without it (the paper's crop).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from sfpose import FaceEmbedder
from sfpose._scoring import chi2_pairs_at
from sfpose.metrics import equal_error_rate
from sfpose.protocols import CFP, LFW, PoseFolder
from sfpose.protocols.trials import all_pairs

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def crop_of(share: float, shift: float = 0.0) -> Change:
    """A square of ``share`` of the image's sides, moved; black where the image ends."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        turn = rng.uniform(0, 2 * np.pi)
        x = width * ((1 - share) / 2 + shift * np.cos(turn))
        y = height * ((1 - share) / 2 + shift * np.sin(turn))
        box = [round(v) for v in (x, y, x + share * width, y + share * height)]
        return np.asarray(Image.fromarray(image).crop(box))

    return change


def turned(degrees: float) -> Change:
    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = degrees * rng.choice([-1, 1])
        return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))

    return change


CHANGES: dict[str, Change] = {
    "as it is": lambda image, rng: image,
    "tight: 80 % of each side": crop_of(0.8),
    "loose: 140 %": crop_of(1.4),
    "off centre by 12 %": crop_of(1.0, 0.12),
    "turned by 15 degrees": turned(15),
    "turned by 30 degrees": turned(30),
}


def comparisons(data: Path, folds: int) -> dict[str, tuple]:
    """Images, both rows of each pair and whether it is genuine, for each column."""
    cfp = CFP(data / "cfp_dev.zip", people=range(101, 251))
    kdef = PoseFolder(data / "kdef_pose.zip")
    lfw = LFW(data / "lfw_pairs.zip")
    pairs = lfw.trials()
    some = pairs.folds < pairs.folds.min() + folds
    frontal, profile = kdef.rows("frontal"), kdef.rows("profile")
    columns = {
        "CFP frontal-profile": (cfp.images, cfp.trials()),
        "CFP frontal-frontal": (cfp.images, cfp.trials("frontal", "frontal")),
        "KDEF frontal-profile": (kdef.images, all_pairs(kdef.subjects, frontal, profile)),
        "KDEF frontal-frontal": (kdef.images, all_pairs(kdef.subjects, frontal)),
    }
    every = slice(None)
    return {
        name: (images, trials.first[part], trials.second[part], trials.is_genuine[part])
        for name, images, trials, part in (
            *((name, *column, every) for name, column in columns.items()),
            (f"LFW, {folds} folds", lfw.images, pairs, some),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--lfw-folds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    embedders = {
        "aligned": FaceEmbedder(options.weights, n_jobs=2),
        "not aligned": FaceEmbedder(options.weights, align=False, n_jobs=2),
    }
    columns = comparisons(options.data, options.lfw_folds)
    results: dict[str, dict[str, dict[str, float]]] = {}
    print("crop | " + " | ".join(columns) + " | faces refused")
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        results[name] = {}
        seen: dict[int, dict[str, np.ndarray]] = {}
        lost = 0
        for column, (images, first, second, genuine) in columns.items():
            used = np.unique(np.r_[first, second])
            if id(images) not in seen:
                changed = [change(images[int(row)], rng) for row in tqdm(used, name, disable=None)]
                seen[id(images)] = {}
                for way, embedder in embedders.items():
                    found = embedder.transform(changed)
                    rows = np.full((len(images), found.shape[1]), np.nan, np.float32)
                    rows[used] = found
                    seen[id(images)][way] = rows
                lost += int(np.isnan(seen[id(images)]["aligned"][used]).any(axis=1).sum())
            results[name][column] = {}
            for way, rows in seen[id(images)].items():
                known = ~np.isnan(rows).any(axis=1)
                kept = known[first] & known[second]
                filled = np.where(known[:, None], rows, np.float32(1))
                distances = chi2_pairs_at(filled, first[kept], second[kept])
                results[name][column][way] = 100 * equal_error_rate(distances, genuine[kept])
        cells = [f"{c['aligned']:.2f} ({c['not aligned']:.2f})" for c in results[name].values()]
        print(" | ".join([name, *cells, str(lost)]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
