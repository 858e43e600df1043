"""Every picture of error rates, on people who took no part in the calibration.

    python examples/displays.py CFP --out FOLDER

CFP is a folder or zip of ``001/frontal/01.jpg``, ``001/profile/01.jpg``. Thresholds are calibrated
on people 001 to 100, and drawn on people 101 to 250. Groups are poses here; with labels of your
own people they would be theirs.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.metrics import (
    DetCurveDisplay,
    GroupErrorDisplay,
    PoseErrorDisplay,
    ScoreHistogramDisplay,
    TippettDisplay,
)
from sfpose.protocols import CFP


def embedded(path, people):
    """Descriptors, subjects and poses of the images in which something was found."""
    cfp = CFP(path, people=people)
    rows = FaceEmbedder(n_jobs=-1).transform(cfp.images)
    found = ~np.isnan(rows).any(axis=1)
    return rows[found], cfp.subjects[found], cfp.poses[found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--last", type=int, default=250, help="last of the people to draw")
    options = parser.parse_args()

    rows, subjects, poses = embedded(options.cfp, range(1, 101))
    verifier = TemplateVerifier(1e-3, groups="pose", n_jobs=-1).fit(rows, subjects, poses=poses)
    rows, subjects, poses = embedded(options.cfp, range(101, options.last + 1))
    calibration = verifier.calibration_
    print(f"threshold {calibration.threshold:.4f} of {calibration.people} people")

    figure, axes = plt.subplots(2, 3, figsize=(15, 9))
    people = rows, subjects
    DetCurveDisplay.from_estimator(verifier, *people, name="all pairs", ax=axes[0, 0])
    ScoreHistogramDisplay.from_estimator(verifier, *people, ax=axes[0, 1])
    TippettDisplay.from_estimator(verifier, *people, ax=axes[0, 2])
    PoseErrorDisplay.from_estimator(verifier, *people, poses, ax=axes[1, 0])
    GroupErrorDisplay.from_estimator(verifier, *people, poses, ax=axes[1, 1])
    GroupErrorDisplay.from_estimator(verifier, *people, poses, rate="fnmr", ax=axes[1, 2])
    titles = ("DET curve", "Distances", None, "EER by pose", "FMR by pose", "FNMR by pose")
    for ax, title in zip(axes.flat, titles, strict=True):
        if title:
            ax.set_title(title)
    figure.tight_layout()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "displays.png"
    figure.savefig(path, dpi=70)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
