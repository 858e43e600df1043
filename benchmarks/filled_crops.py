r"""What surroundings do: photos that fill their crop beside the same, ending where CFP's do.

    python benchmarks/filled_crops.py LFW CFP [--weights default small ...] [--sface S.onnx]

CFP's photos are tight, so that an aligned crop is black where the photo ends, and thresholds are
calibrated on them; most apps' photos, and LFW's, fill it. Each photo of LFW is aligned once by the
landmark network, and taken as it is (filled) and cut off where a frontal photo of CFP people 101 to
250, drawn at random, would end. Both hold the same face at the same place, so nothing but what
surrounds it differs. Strangers are all pairs of people, by the first photo of each that pairs name;
genuine pairs are those of LFW's View 2.

Each row is a kind of pair. It gives the EER; the false match rate at the two thresholds where
strangers of crops that are cut off have 1 and 0.1 %; and, of the networks here, the false match and
non-match rate at the thresholds that ship for 1 and 0.1 %. SFace is given the same crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peers import cosine_distance
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose._scoring import chi2_pairs_at
from sfpose.geometry import similarity_to_canonical
from sfpose.metrics import equal_error_rate, error_rates_at_threshold, threshold_at_fmr
from sfpose.preprocessing import aligned_crop
from sfpose.protocols import CFP, LFW
from sfpose.runtime.session import OnnxModel

TARGETS = (0.01, 0.001)
KINDS = {"cut off": ("cut off", "cut off"), "filled": ("filled", "filled")}
KINDS["filled and cut off"] = ("filled", "cut off")
SIZE = 113


def seen_of_crops(cfp: Path) -> np.ndarray:
    """How far frontal photos reach in their crop: 1 inside, 0 outside; shape (n, size, size, 3)."""
    photos = CFP(cfp, people=range(101, 251))
    frontal = [photos.images[row] for row in np.flatnonzero(photos.poses == "frontal")]
    matrices = similarity_to_canonical(FaceAligner(n_jobs=2).find_landmarks(frontal)[0])
    return np.stack(
        [
            aligned_crop(np.full_like(photo, 255), matrix, SIZE) / 255
            for photo, matrix in zip(frontal, matrices, strict=True)
        ]
    )


def sface_embedder(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    network = OnnxModel(path.read_bytes(), n_threads=2)

    def embed(crops: np.ndarray) -> np.ndarray:
        images = (Image.fromarray(crop).resize((112, 112)) for crop in crops)
        inputs = (np.float32(image).transpose(2, 0, 1)[None] for image in images)
        return np.concatenate([network.run(one) for one in inputs])

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lfw", type=Path)
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--weights", nargs="+", default=["default"])
    parser.add_argument("--sface", type=Path, metavar="ONNX")
    options = parser.parse_args()
    lfw = LFW(options.lfw)
    faces = FaceAligner(policy="skip", n_jobs=2).align(lfw.images)
    row_of = np.full(len(lfw.images), -1)
    row_of[faces.index] = np.arange(len(faces.index))
    trials = lfw.trials()
    pairs = np.column_stack([row_of[trials.first], row_of[trials.second]])
    shown = (pairs >= 0).all(1)
    people, first_named = np.unique(
        np.column_stack([trials.first_people, trials.second_people])[shown], return_index=True
    )
    photos = pairs[shown].ravel()[first_named]
    genuine = pairs[shown & trials.is_genuine]
    strangers = photos[np.column_stack(np.triu_indices(len(photos), 1))]
    compared = np.concatenate([genuine, strangers]).T
    is_genuine = np.arange(len(compared[0])) < len(genuine)
    seen = seen_of_crops(options.cfp)
    drawn = np.random.default_rng(0).integers(len(seen), size=len(faces.images))
    cut = np.stack(
        [
            (image * seen[row]).round().astype(np.uint8)
            for image, row in zip(faces.images, drawn, strict=True)
        ]
    )
    crops = {"cut off": cut, "filled": faces.images}
    for kind, images in crops.items():
        unseen = np.median((images.max(3) == 0).mean((1, 2)))
        print(f"{kind}: nothing is seen of {100 * unseen:.0f} % of a crop, in the median")
    print(f"{len(people):,} people, {len(strangers):,} strangers, {len(genuine):,} genuine pairs")
    print("network    crops                EER %   FMR %, %      shipped: FMR and FNMR, twice, %")
    networks = {
        name: (FaceEmbedder(name, align="done", n_jobs=2).transform, chi2_pairs_at)
        for name in options.weights
    }
    if options.sface:
        networks["SFace"] = sface_embedder(options.sface), cosine_distance
    for name, (embed, distance) in networks.items():
        rows = {kind: embed(images) for kind, images in crops.items()}
        limits = []
        for kind, (one, other) in KINDS.items():
            both = np.concatenate([rows[one], rows[other]])
            distances = distance(both, compared[0], compared[1] + len(faces.images))
            if not limits:
                limits = [threshold_at_fmr(distances, is_genuine, target) for target in TARGETS]
            rates = [error_rates_at_threshold(distances, is_genuine, limit)[0] for limit in limits]
            if name in options.weights:
                for target in TARGETS:
                    rule = TemplateVerifier(target, weights=name).decision_rule(1)
                    rates += error_rates_at_threshold(distances, is_genuine, rule.threshold)
            told = " ".join(f"{100 * rate:6.3f}" for rate in rates)
            eer = equal_error_rate(distances, is_genuine)
            print(f"{name:10} {kind:18} {100 * eer:7.2f}  {told}", flush=True)


if __name__ == "__main__":
    main()
