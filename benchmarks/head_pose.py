"""Faces found, yaw and pose labels on photos of known poses.

    python benchmarks/head_pose.py kdef_pose.zip [--yunet Y.onnx]

The folder or zip holds subject/pose/image with the poses frontal, three_quarter, profile.
"""

from __future__ import annotations

import argparse

import numpy as np

from sfpose import FaceAligner
from sfpose.detectors import LibFaceDetection, YuNet
from sfpose.pose import POSES, head_pose, pose_labels
from sfpose.protocols import PoseFolder


def report(name: str, landmarks, poses) -> None:
    yaw = np.abs(head_pose(landmarks).yaw)
    labels = pose_labels(yaw)
    print(f"\n{name}: pose, photos, |yaw| 5 % 50 % 95 %, labelled {' / '.join(POSES)} in %")
    for pose in POSES:
        rows = poses == pose
        if rows.any():
            spread = " ".join(f"{value:.0f}" for value in np.percentile(yaw[rows], [5, 50, 95]))
            shares = " / ".join(f"{100 * (labels[rows] == label).mean():.1f}" for label in POSES)
            print(f"{pose:14} {rows.sum():5}  {spread:10}  {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--yunet")
    options = parser.parse_args()
    folder = PoseFolder(options.photos)
    landmarks, _ = FaceAligner(n_jobs=2).find_landmarks(folder.images)
    report("landmark network", landmarks, folder.poses)
    detectors = {"libfacedetection, then the landmark network": LibFaceDetection()}
    if options.yunet:
        detectors["YuNet"] = YuNet(options.yunet)
    for name, detector in detectors.items():
        faces = FaceAligner(detector, policy="largest", n_jobs=2).align(folder.images)
        report(name, faces.landmarks, folder.poses[faces.index])
        print(f"a face was found in {len(faces.index)} of {len(folder.images)} photos")


if __name__ == "__main__":
    main()
