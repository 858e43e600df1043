"""Photos of which the orientation was lost: faces that lie on their side, or are upside down.

    python benchmarks/lying_faces.py LFW [--yunet YUNET.onnx] [--weights default] [--count 400]

The first photo of ``--count`` people of LFW, drawn at random, turned. Each row says how many
degrees counterclockwise, the share of photos in which a face is taken, the share of pairs of
strangers that are accepted at the thresholds that ship for false match rates of 1 and 0.1 %, and
the mean distance to the same photo upright. With ``--yunet``, the largest face that this detector
finds is taken, aligned by its landmarks.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.detectors import YuNet
from sfpose.protocols import LFW

TARGETS = (0.01, 0.001)
DEGREES = (0, 45, 90, 135, 180, 270)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lfw")
    parser.add_argument("--yunet", metavar="ONNX")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    lfw = LFW(options.lfw)
    trials = lfw.trials()
    people = np.column_stack([trials.first_people, trials.second_people]).ravel()
    _, places = np.unique(people, return_index=True)
    rows = np.column_stack([trials.first, trials.second]).ravel()[places]
    chosen = np.random.default_rng(0).permutation(rows)[: options.count]
    photos = [Image.fromarray(lfw.images[row]) for row in chosen]
    verifier = TemplateVerifier(weights=options.weights)
    limits = [
        TemplateVerifier(target, weights=options.weights).decision_rule().threshold
        for target in TARGETS
    ]
    if options.yunet:
        aligner = FaceAligner(YuNet(options.yunet), policy="largest")
    else:
        aligner = FaceAligner(policy="skip", n_jobs=2)
    embedder = FaceEmbedder(options.weights, align="done", n_jobs=2)
    print("degrees  taken %  strangers accepted at 1 and at 0.1 %, %  to the upright photo")
    upright: dict[int, np.ndarray] = {}
    for degrees in DEGREES:
        turned = [np.asarray(photo.rotate(degrees, expand=degrees % 90 == 0)) for photo in photos]
        faces = aligner.align(turned)
        told = f"{degrees:7d} {100 * len(faces.index) / len(turned):8.1f}"
        if len(faces.index) > 1:
            found = embedder.transform(faces.images)
            distances = verifier.score_matrix(found, found)[np.triu_indices(len(found), 1)]
            accepted = (f"{100 * (distances <= limit).mean():9.3f}" for limit in limits)
            upright = upright or dict(zip(faces.index.tolist(), found, strict=True))
            pairs = [
                (row, upright[n]) for n, row in zip(faces.index, found, strict=True) if n in upright
            ]
            apart = verifier.score_pairs(*(np.stack(side) for side in zip(*pairs, strict=True)))
            told += f" {' '.join(accepted)} {np.mean(apart):25.4f}"
        print(told, flush=True)


if __name__ == "__main__":
    main()
