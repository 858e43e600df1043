"""What small, blurred, dark or compressed photos cost.

    python benchmarks/photo_quality.py CFP [--people 101-250] [--weights default] [--json FILE]

Every photo of CFP is changed in the same way before it is aligned and embedded. Each row is the
EER in percent of frontal-profile and of frontal-frontal pairs, photos in which no face is seen
left out, and how many these are.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sfpose import FaceEmbedder
from sfpose._scoring import chi2_pairs_at
from sfpose.cli.evaluate import people_range
from sfpose.metrics import equal_error_rate
from sfpose.protocols import CFP, all_pairs

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def compressed(quality: int) -> Change:
    def change(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def reduced_to(side: int) -> Change:
    """``side`` pixels on the shorter side: a face that is far away."""

    def change(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (round(length * side / min(photo.size)) for length in photo.size)
        return photo.resize((width, height), Image.Resampling.BOX)

    return change


def blurred(share: float) -> Change:
    """A Gaussian of ``share`` of the shorter side."""
    return lambda photo, rng: photo.filter(ImageFilter.GaussianBlur(share * min(photo.size)))


def by_value(curve: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """A curve of values 0 to 1."""

    def change(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
        values = curve(np.asarray(photo) / 255, rng)
        return Image.fromarray(np.clip(255 * values, 0, 255).round().astype(np.uint8))

    return change


def unevenly_lit(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side: a fifth of it is left on the other."""
    light = np.linspace(0.2, 1, values.shape[1])[:: rng.choice([-1, 1])]
    return values * light[None, :, None]


CHANGES: dict[str, Change] = {
    "as it is": lambda photo, rng: photo,
    "grey": lambda photo, rng: photo.convert("L").convert("RGB"),
    "dark: a quarter of the light": by_value(lambda values, rng: values / 4),
    "too bright: gain 1.8": by_value(lambda values, rng: 1.8 * values),
    "lit from one side": by_value(unevenly_lit),
    "contrast 0.5": by_value(lambda values, rng: 0.5 + (values - 0.5) / 2),
    "noise of 0.08": by_value(lambda values, rng: values + rng.normal(0, 0.08, values.shape)),
    "JPEG, quality 50": compressed(50),
    "JPEG, quality 20": compressed(20),
    "blurred by 1 % of its side": blurred(0.01),
    "blurred by 2 %": blurred(0.02),
    "64 pixels wide": reduced_to(64),
    "48 pixels": reduced_to(48),
    "32 pixels": reduced_to(32),
}


def changed(photos: Sequence[np.ndarray], change: Change) -> list[np.ndarray]:
    """All photos changed in one way; what is random begins anew with each way."""
    rng = np.random.default_rng(0)
    return [np.asarray(change(Image.fromarray(photo), rng)) for photo in photos]


def error_rates(rows: np.ndarray, subjects: np.ndarray, poses: np.ndarray) -> dict[str, float]:
    """EER in percent by kind of pair."""
    frontal, profile = (np.flatnonzero(poses == pose) for pose in ("frontal", "profile"))
    pairs = {
        "frontal-profile": all_pairs(subjects, frontal, profile),
        "frontal-frontal": all_pairs(subjects, frontal),
    }
    return {
        name: 100
        * equal_error_rate(chi2_pairs_at(rows, trials.first, trials.second), trials.is_genuine)
        for name, trials in pairs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--people", type=people_range, default=range(101, 251))
    parser.add_argument("--weights", default="default")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    cfp = CFP(options.cfp, people=options.people)
    embedder = FaceEmbedder(options.weights, n_jobs=2)
    results = {}
    print("photo | frontal-profile | frontal-frontal | refused")
    for name, change in CHANGES.items():
        rows = embedder.transform(changed(cfp.images, change))
        kept = ~np.isnan(rows).any(axis=1)
        rates = error_rates(rows[kept], cfp.subjects[kept], cfp.poses[kept])
        refused = int(np.sum(~kept))
        results[name] = {**rates, "refused": refused}
        told = [f"{rate:.2f}" for rate in rates.values()]
        print(" | ".join([name, *told, str(refused)]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
