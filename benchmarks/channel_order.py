"""What images in OpenCV's order of channels, BGR instead of RGB, cost.

python benchmarks/channel_order.py CFP [--people 101-250] [--weights default]

Pairs of two frontal photos of CFP at the threshold that ships for an FMR of 0.1 %: both in RGB,
both in BGR, and one of each, as where people were enrolled from files and probes come from OpenCV.
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
    found = ~(np.isnan(rgb) | np.isnan(bgr)).any(axis=1)
    rgb, bgr, subjects = rgb[found], bgr[found], subjects[found]
    pairs = all_pairs(subjects, np.arange(len(subjects)))
    threshold = verifier.verify(rgb[0], rgb[0]).threshold
    print(f"{np.sum(~found)} of {len(found)} photos show no face in one of the two")
    print("first, second | strangers accepted, % | genuine refused, %")
    for name, first, second in [
        ("RGB, RGB", rgb, rgb),
        ("BGR, BGR", bgr, bgr),
        ("RGB, BGR", rgb, bgr),
    ]:
        distances = verifier.score_pairs(first[pairs.first], second[pairs.second])
        rates = error_rates_at_threshold(distances, pairs.is_genuine, threshold)
        print(f"{name} | {100 * rates.fmr:.2f} | {100 * rates.fnmr:.1f}")


if __name__ == "__main__":
    main()
