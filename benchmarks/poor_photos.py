r"""Strangers who are accepted because of their photos: blurred, tiny, cut off or squeezed alike.

    python benchmarks/poor_photos.py LFW [--weights default] [--people 400] [--target-fmr 0.001]

One photo of each of so many people of LFW, by name, all changed in the same way: cut off above or
below by so many of their 150 pixels, or their middle of 100 pixels blurred by so many pixels
(standard deviation of a Gauss function), shrunk to so many, or squeezed to so many percent of its
width or height, as by an app that makes squares of other photos. Each row gives how many are
embedded and the share of their pairs, all strangers, that the threshold that ships accepts: as the
library refuses what is blurred or cut off, and with ``--everything`` as it would if it took every
image that its landmark network finds a face in.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image, ImageFilter

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose._scoring import chi2_pairs_at
from sfpose.protocols import LFW


def changed(photo: np.ndarray, change: str, by: int) -> np.ndarray:
    if change == "cut off above":
        return photo[by:]
    if change == "cut off below":
        return photo[: len(photo) - by]
    middle = Image.fromarray(photo[25:125, 25:125])
    if change == "blurred":
        return np.asarray(middle.filter(ImageFilter.GaussianBlur(by)))
    size = {"% of its width": (by, 100), "% of its height": (100, by)}.get(change, (by, by))
    return np.asarray(middle.resize(size, Image.Resampling.LANCZOS))


CHANGES = [
    ("as it is", [0]),
    ("blurred", [1, 2, 3, 4, 5, 6]),
    ("pixels wide", [32, 24, 20, 16, 12, 10]),
    ("cut off above", [40, 50, 60, 70]),
    ("cut off below", [40, 50, 60]),
    ("% of its width", [90, 80, 75, 70, 60, 50]),
    ("% of its height", [90, 80, 75, 70, 60, 50]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lfw", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--target-fmr", type=float, default=0.001)
    parser.add_argument("--everything", action="store_true")
    options = parser.parse_args()
    lfw = LFW(options.lfw)
    trials = lfw.trials()
    people, first = np.unique(
        np.concatenate([trials.first_people, trials.second_people]), return_index=True
    )
    rows = np.concatenate([trials.first, trials.second])[first]
    step = max(1, len(people) // options.people)
    photos = [lfw.images[row] for row in rows[::step][: options.people].tolist()]
    embedder = FaceEmbedder(options.weights, n_jobs=2)
    limit = TemplateVerifier(options.target_fmr, weights=options.weights).decision_rule(1).threshold
    print(f"{len(photos)} people; threshold {limit:.4f}")
    print("photos                embedded  strangers accepted, %")
    for change, amounts in CHANGES:
        for by in amounts:
            images = photos if not by else [changed(photo, change, by) for photo in photos]
            taking_all = mock.patch.multiple("sfpose._embedding", **_TAKING_ALL)
            with taking_all if options.everything else contextlib.nullcontext():
                found = embedder.transform(images)
            found = found[np.isfinite(found).all(axis=1)]
            told = f"{change} {by or ''}"
            if len(found) < 20:
                print(f"{told:20}  {len(found):8}", flush=True)
                continue
            pairs = np.column_stack(np.triu_indices(len(found), 1)).astype(np.int64)
            accepted = (chi2_pairs_at(found, *pairs.T) <= limit).mean()
            print(f"{told:20}  {len(found):8}  {100 * accepted:8.3f}", flush=True)


def _none(images: list[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    return np.zeros(len(images), dtype=bool)


_TAKING_ALL = {
    "are_blurred": _none,
    "are_cut_off": _none,
    "are_tiny": lambda landmarks: np.zeros(len(landmarks), dtype=bool),
}


if __name__ == "__main__":
    main()
