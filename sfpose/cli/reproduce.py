"""``sfpose reproduce table3|table4|table5|figures|studies``: the paper on data of yours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.evaluate import people_range

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import numpy as np
    from numpy.typing import NDArray

    from sfpose.embedder import FaceEmbedder
    from sfpose.evaluation import Row
    from sfpose.protocols import LazyImages, PoseFolder

_PARTS = ("networks", "table1", "table3", "table4", "table5", "figures", "studies")


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "reproduce",
        help="the paper's tables and figures on data of yours",
        description="Print the paper's tables with a row of our own, measured under its pose "
        "protocol on a folder or zip of subject/pose/image with the poses frontal, "
        "three_quarter and profile (such as VGGFace2-Pose), beside the paper's rows. networks "
        "lists all of ours, table1 times those of the paper; both need no data but sfpose[train]. "
        "studies are those that the paper leaves to later.",
    )
    parser.add_argument("part", choices=_PARTS)
    parser.add_argument("--data", help="folder or zip file; not for networks and table1")
    parser.add_argument("--people", type=people_range, metavar="FIRST-LAST", help="people to take")
    parser.add_argument("--weights", default="default", help="shipped name or path of an artifact")
    parser.add_argument(
        "--n-jobs", type=int, default=-1, metavar="N", help="threads (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("det.png"), help="image of figures (default: det.png)"
    )
    parser.add_argument(
        "--rounds", type=int, default=40, metavar="N", help="images a network for table1"
    )
    parser.add_argument("--draws", type=int, default=200, metavar="N", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table or say where the figure is."""
    if options.part in ("networks", "table1"):
        from sfpose.training.table1 import measure_networks, network_list, network_table

        measured = options.part == "table1"
        print(
            network_table(measure_networks(rounds=options.rounds)) if measured else network_list()
        )
        return 0
    if options.data is None:
        raise ValueError(f"{options.part} needs --data, a folder or zip of subject/pose/image")
    from sfpose.cli.evaluate import embed_with_progress
    from sfpose.embedder import FaceEmbedder
    from sfpose.evaluation import format_table, pose_columns
    from sfpose.protocols import CFP, PoseFolder
    from sfpose.reproduction import (
        TABLE_4,
        TABLE_5,
        det_figure,
        pose_table,
        table_cells,
        trial_counts,
    )

    folder = PoseFolder(options.data, people=options.people)
    if set(folder.poses.tolist()) == {"frontal", "profile"}:
        folder = CFP(options.data, people=options.people)
    title = f"EER %, {Path(options.data).stem}, {len(set(folder.subjects.tolist()))} people"
    if options.part == "table3":
        print(trial_counts(folder))
        return 0
    embedder = FaceEmbedder(options.weights, n_jobs=options.n_jobs)

    def embed(images: LazyImages) -> NDArray[np.float32]:
        return embed_with_progress(embedder, images)

    if options.part == "studies":
        for study, found in _studies(folder, embedder, options.weights, options.draws).items():
            print(f"{study}\n{format_table(found)}\n")
        return 0
    name = f"sfpose {options.weights}"
    if options.part == "figures":
        columns = list(pose_columns(folder, embed))
        print(f"wrote {det_figure({name: columns}, options.out, title)}")
        return 0
    published = TABLE_4 if options.part == "table4" else TABLE_5
    cells = {name: table_cells(folder, embed, draws=options.draws)}
    print(pose_table(cells, published, f"{title}; the paper's rows are of VGGFace2-Pose"))
    return 0


def _studies(
    folder: PoseFolder, embedder: FaceEmbedder, weights: str, draws: int
) -> dict[str, list[Row]]:
    """Every study of section 6 on one data set, by name."""
    import numpy as np

    from sfpose.alignment import FaceAligner
    from sfpose.cli.evaluate import embed_with_progress
    from sfpose.embedder import FaceEmbedder
    from sfpose.pose import head_pose
    from sfpose.runtime.artifact import read_artifact
    from sfpose.studies import PoseStudies, keep_ocular_region

    whole = embed_with_progress(embedder, folder.images)
    size = read_artifact(weights).network_input.size
    aligner = FaceAligner(size=size, min_face_score=0, n_jobs=embedder.n_jobs)
    crops = aligner.transform(folder.images)
    landmarks, scores = aligner.find_landmarks(folder.images)
    aligned = FaceEmbedder(weights, align="done", n_jobs=embedder.n_jobs)
    ocular = aligned.transform(keep_ocular_region(crops))
    found = np.asarray(~(np.isnan(whole) | np.isnan(ocular)).any(axis=1))
    print(f"{found.size} images, {np.sum(~found)} of them not acquired and left out")

    def of(rows: NDArray[np.float32]) -> PoseStudies:
        return PoseStudies(rows[found], folder.subjects[found], folder.poses[found], draws=draws)

    full = of(whole)
    # Differences of neighbours: blur leaves little of them.
    grey = crops[found].mean(axis=3)
    sharpness = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey)).mean((1, 2))
    measures = {
        "absolute yaw": np.abs(head_pose(landmarks[found]).yaw),
        "sharpness": -sharpness,
        "face score": -scores[found],
    }
    first = "frontal" if "frontal" in full.poses else full.poses[0]
    numbers = [
        row for pose in full.poses for row in full.number_of_images(first, pose, (1, 2, 3, 5))
    ]
    return {
        "number of images of a template": numbers,
        "templates that mix poses": full.mixed_poses(),
        "one probe of any pose against several templates": full.several_enrolled(),
        "the best of several frames": full.best_frame(measures),
        "whole face": full.same_pose(),
        "ocular region alone": of(ocular).same_pose(),
    }
