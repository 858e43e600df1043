r"""Error rates of sfpose beside SFace on identical comparisons.

SFace and the YuNet detector that aligns its input are files that you give (both are
published by OpenCV's model zoo); OpenCV is needed for them alone:

    pip install opencv-python-headless
    python benchmarks/peers.py cfp cfp_dev.zip --people 101-250 --sface S.onnx --yunet Y.onnx \
        --weights default small
    python benchmarks/peers.py lfw lfw_pairs.zip --sface S.onnx --yunet Y.onnx
    python benchmarks/peers.py poses kdef_pose.zip --sface S.onnx --yunet Y.onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sfpose import FaceEmbedder
from sfpose._scoring import chi2_pairs_at
from sfpose.cli.evaluate import embed_with_progress, people_range
from sfpose.evaluation import (
    evaluate_cfp,
    evaluate_lfw,
    format_table,
    pose_columns,
)
from sfpose.geometry import similarity_to_canonical
from sfpose.preprocessing import aligned_crop
from sfpose.protocols import CFP, LFW, PoseFolder
from sfpose.reproduction import TABLE_4, cells_of, det_figure, pose_table
from sfpose.runtime.session import OnnxModel


class SFace:
    """SFace as its authors run it: YuNet's landmarks, aligned 112x112, cosine."""

    def __init__(self, sface: str, yunet: str) -> None:
        import cv2

        with open(sface, "rb") as file:
            self._network = OnnxModel(file.read(), n_threads=2)
        self._detector = cv2.FaceDetectorYN.create(yunet, "", (320, 320), 0.3)
        self.missed = 0

    def _landmarks(self, image):
        height, width = image.shape[:2]
        self._detector.setInputSize((width, height))
        _, faces = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))
        if faces is None:
            self.missed += 1
            return None
        return faces[np.argmax(faces[:, 14]), 4:14].reshape(5, 2)

    def __call__(self, images):
        """Embeddings of length 1, one a row."""
        rows = []
        for image in tqdm(images, desc="SFace", disable=None):
            landmarks = self._landmarks(image)
            if landmarks is None:
                side = min(image.shape[:2])
                shift = [(image.shape[1] - side) / 2, (image.shape[0] - side) / 2]
                matrix = np.array([[side, 0, shift[0]], [0, side, shift[1]], [0, 0, 1]])
            else:
                matrix = similarity_to_canonical(landmarks[None])[0]
            crop = aligned_crop(image, matrix, 112).astype(np.float32).transpose(2, 0, 1)
            row = self._network.run(crop[None])[0]
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


def cosine_distance(rows, first, second):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    parts = np.array_split(np.arange(len(first)), max(1, len(first) // 100_000))
    return np.concatenate([1 - (unit[first[p]] * unit[second[p]]).sum(1) for p in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=("lfw", "cfp", "poses"))
    parser.add_argument("path")
    parser.add_argument("--people", type=people_range)
    parser.add_argument("--weights", nargs="+", default=["default"])
    parser.add_argument("--sface", required=True)
    parser.add_argument("--yunet", required=True)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--figure", metavar="FILE", help="DET curves of the first --weights and SFace (poses only)"
    )
    options = parser.parse_args()
    if options.dataset == "lfw":
        data, compare = LFW(options.path), evaluate_lfw
    elif options.dataset == "cfp":
        data, compare = CFP(options.path, people=options.people), evaluate_cfp
    else:
        data, compare = PoseFolder(options.path, people=options.people), pose_columns
    peer = SFace(options.sface, options.yunet)
    if options.figure and options.dataset != "poses":
        parser.error("--figure goes with poses")
    embedded = {
        f"sfpose {weights}": embed_with_progress(FaceEmbedder(weights, n_jobs=2), data.images)
        for weights in options.weights
    }
    compared = {
        name: list(compare(data, lambda _, rows=rows: rows, chi2_pairs_at))
        for name, rows in embedded.items()
    }
    rows = peer(data.images)
    compared["SFace"] = list(compare(data, lambda _: rows, cosine_distance))
    if options.dataset == "poses":
        if options.figure:
            shown = {name: compared[name] for name in (next(iter(embedded)), "SFace")}
            det_figure(shown, options.figure, "DET curves of sfpose (lines) and SFace (dashes)")
        cells = {name: cells_of(columns) for name, columns in compared.items()}
        print(pose_table(cells, TABLE_4, f"EER %, {Path(options.path).name}") + "\n")
        results = {name: list(found.values()) for name, found in cells.items()}
    else:
        results = compared
    for name, rows in results.items():
        print(f"{name}\n{format_table(rows)}\n")
    print(
        f"YuNet found no face in {peer.missed} of {len(data.images)} images: their centre was taken"
    )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {name: [row.to_dict() for row in rows] for name, rows in results.items()}, file
            )


if __name__ == "__main__":
    main()
