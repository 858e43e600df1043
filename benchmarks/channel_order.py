"""What images in OpenCV's order of channels, BGR instead of RGB, cost.

python benchmarks/channel_order.py CFP [--people 101-250] [--weights default]

Pairs of two frontal photos of CFP at the threshold that ships for an FMR of 0.1 %: both in RGB,
both in BGR, and one of each, as where people were enrolled from files and probes come from OpenCV.
Images in which no face is found are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.cli.evaluate import people_range
from sfpose.metrics import error_rates_at_threshold
from sfpose.protocols import CFP, all_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--people", type=people_range, default=range(101, 251))
    parser.add_argument("--weights", default="default")
    options = parser.parse_args()
    cfp = CFP(options.cfp, people=options.people)
    embedder = FaceEmbedder(options.weights, n_jobs=2)
    verifier = TemplateVerifier(target_fmr=1e-3, weights=options.weights)
    frontal = np.flatnonzero(cfp.poses == "frontal")
    photos = [cfp.images[int(row)] for row in frontal]
    subjects = cfp.subjects[frontal]
    rgb = embedder.transform(photos)
    bgr = embedder.transform([np.ascontiguousarray(photo[:, :, ::-1]) for photo in photos])
    pairs = all_pairs(subjects, np.arange(len(subjects)))
    threshold = verifier.decision_rule().threshold
    print("first, second | strangers accepted, % | genuine refused, %")
    for name, first, second in [
        ("RGB, RGB", rgb, rgb),
        ("BGR, BGR", bgr, bgr),
        ("RGB, BGR", rgb, bgr),
    ]:
        distances = np.full(len(pairs.first), np.inf)
        compared = ~np.isnan(first[pairs.first, 0] + second[pairs.second, 0])
        distances[compared] = verifier.score_pairs(
            first[pairs.first[compared]], second[pairs.second[compared]]
        )
        rates = error_rates_at_threshold(distances, pairs.is_genuine, threshold)
        print(f"{name} | {100 * rates.fmr:.2f} | {100 * rates.fnmr:.1f}")


if __name__ == "__main__":
    main()
