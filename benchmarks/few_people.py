"""How many people does a calibration need? Thresholds of few people, measured on others.

    python benchmarks/few_people.py CFP [--target-fmr 0.001] [--draws 40]

Of CFP people 101 to 250, the first hundred are whom calibrations are drawn from, with their
first three frontal photos; all pairs of frontal photos of the other fifty are what the thresholds
are measured on, beside the threshold that ships.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.metrics import SmallSampleWarning, error_rates_at_threshold
from sfpose.protocols import CFP, all_pairs

PEOPLE = (3, 5, 10, 20, 50)
PHOTOS = 3
"""Of each person of a calibration."""


def frontal(path: str, people: range, photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors of each person's first frontal photos, and whose they are."""
    cfp = CFP(path, people=people)
    rows = np.flatnonzero(cfp.poses == "frontal")
    own = [rows[cfp.subjects[rows] == who][:photos] for who in np.unique(cfp.subjects)]
    chosen = np.concatenate(own)
    rows = FaceEmbedder(n_jobs=-1).transform([cfp.images[row] for row in chosen])
    found = ~np.isnan(rows).any(axis=1)
    return rows[found], cfp.subjects[chosen][found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp")
    parser.add_argument("--target-fmr", type=float, default=1e-3)
    parser.add_argument("--draws", type=int, default=40)
    options = parser.parse_args()
    warnings.simplefilter("ignore", SmallSampleWarning)
    rows, subjects = frontal(options.cfp, range(101, 201), PHOTOS)
    others, names = frontal(options.cfp, range(201, 251), 10)
    trials = all_pairs(names, np.arange(len(names)))
    shipped = TemplateVerifier(options.target_fmr)
    distances = shipped.score_pairs(others[trials.first], others[trials.second])

    def told(label: str, thresholds: list[float]) -> None:
        rates = [error_rates_at_threshold(distances, trials.is_genuine, t) for t in thresholds]
        fmr, fnmr = 100 * np.array(rates).T
        print(
            f"{label:24} {np.median(fmr):8.3f} {np.percentile(fmr, 95):8.3f} {fmr.max():8.3f} "
            f"{np.median(fnmr):10.1f}"
        )

    print(f"target FMR {100 * options.target_fmr:g} %, {(~trials.is_genuine).sum():,} pairs")
    print(f"{'calibrated on':24} {'FMR %':>8} {'95th':>8} {'worst':>8} {'FNMR %':>10}")
    rng = np.random.default_rng(0)
    for count in PEOPLE:
        thresholds = []
        for _ in range(options.draws):
            drawn = rng.choice(np.unique(subjects), count, replace=False)
            chosen = np.isin(subjects, drawn)
            verifier = TemplateVerifier(options.target_fmr, groups=None)
            thresholds.append(verifier.fit(rows[chosen], subjects[chosen]).threshold_)
        told(f"{count} people", thresholds)
    told("what ships: 100 people", [shipped.decision_rule().threshold])


if __name__ == "__main__":
    main()
