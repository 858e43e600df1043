"""How well a teacher tells people apart in crops of several zooms, and by the mean of them.

    python benchmarks/teacher_zooms.py DATA --teacher sface.onnx [--zooms 0.92 1 1.09]

DATA is the folder with cfp_dev.zip (people 001 to 100). Crops are aligned by the landmark network;
a zoom is their side over that of the canonical crop. Each row has the equal error rates in percent
of the teacher's answers to image and mirror image, compared by the cosine.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from peers import cosine_distance

from sfpose import FaceAligner
from sfpose.evaluation import evaluate_cfp
from sfpose.protocols import CFP
from sfpose.training.teachers import TEACHER_SIZE, OnnxTeacher, both_looks, each_look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, metavar="ONNX")
    parser.add_argument("--zooms", nargs="+", type=float, default=[0.92, 1.0, 1.09])
    options = parser.parse_args()
    folder = CFP(options.data / "cfp_dev.zip", people=range(1, 101))
    teacher = OnnxTeacher(options.teacher)
    said = {}
    for zoom in options.zooms:
        aligner = FaceAligner(size=TEACHER_SIZE, margin=zoom, min_face_score=0, n_jobs=2)
        crops = torch.from_numpy(aligner.transform(folder.images)).permute(0, 3, 1, 2)
        parts = (both_looks(*each_look(teacher, part / 255)) for part in crops.split(100))
        said[zoom] = np.concatenate(list(parts))
    print("zooms                 F-P    F-F  5 v 4")
    for count in range(1, len(said) + 1):
        for zooms in combinations(said, count):
            rows = sum(said[zoom] for zoom in zooms)
            found = evaluate_cfp(folder, lambda _, rows=rows: rows, cosine_distance, draws=2)
            rates = "  ".join(f"{100 * row.rates.eer:5.2f}" for row in found)
            print(f"{' and '.join(f'{zoom:g}' for zoom in zooms):18s}  {rates}", flush=True)


if __name__ == "__main__":
    main()
