"""``sfpose reproduce table1|table3|...|figures|studies``: the paper on data of yours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sfpose.cli.arguments import check_new, people_range, to_path
from sfpose.cli.evaluate import CountedEmbedding
from sfpose.cli.output import print_json, say_left_out
from sfpose.cli.photos import add_progress_option, in_steps

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Callable, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from sfpose.protocols import PoseFolder

_Printed: TypeAlias = "tuple[str, dict[str, object]]"
"""What is printed as text, and as JSON."""

_OF_DATA = ("table3", "table4", "table5", "figures", "studies")
_PARTS = ("networks", "table1", *_OF_DATA)
_TAKEN_BY = {
    "data": _OF_DATA,
    "people": _OF_DATA,
    "weights": _OF_DATA[1:],
    "n_jobs": _OF_DATA[1:],
    "out": ("figures",),
    "rounds": ("table1",),
}


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "reproduce",
        help="the paper's tables and figures on data of yours",
        description="Print the paper's tables with a row of our own, measured under its pose "
        "protocol on a folder or zip of subject/pose/image with the poses frontal, "
        "three_quarter and profile (such as VGGFace2-Pose), beside the paper's rows. networks "
        "lists all of ours, table1 times those of the paper; both need no data but sfpose[train]. "
        "studies, on aligned faces, are those that the paper leaves to later.",
    )
    parser.add_argument("part", choices=_PARTS)
    parser.add_argument("--data", help="folder or zip file; not for networks and table1")
    parser.add_argument("--people", type=people_range, metavar="FIRST-LAST", help="people to take")
    parser.add_argument("--weights", help="shipped name or path of an artifact (default: default)")
    parser.add_argument("--n-jobs", type=int, metavar="N", help="threads (default: all)")
    parser.add_argument("--out", type=to_path, help="image of figures (default: det.png)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="images a network for table1 (default: 40)"
    )
    add_progress_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--draws", type=int, default=200, metavar="N", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table or say where the figure is."""
    for option, parts in _TAKEN_BY.items():
        if getattr(options, option) is not None and options.part not in parts:
            flag = option.replace("_", "-")
            raise ValueError(f"--{flag} must go with {' or '.join(parts)}; got {options.part}")
    if options.part not in _OF_DATA:
        _networks(options)
        return 0
    options.weights = "default" if options.weights is None else options.weights
    options.n_jobs = -1 if options.n_jobs is None else options.n_jobs
    options.out = options.out or Path("det.png")
    if options.data is None:
        raise ValueError(f"{options.part} needs --data, a folder or zip of subject/pose/image")
    from sfpose.protocols import CFP, PoseFolder

    folder = PoseFolder(options.data, people=options.people)
    if set(folder.poses.tolist()) == {"frontal", "profile"}:
        folder = CFP(options.data, people=options.people)
    text, told = _PRINTED[options.part](folder, options)
    if options.json:
        told |= {"data": options.data, "people": len(set(folder.subjects.tolist()))}
        print_json({**told, "people_without_image": folder.without_image})
    else:
        print(text)
        say_left_out(folder.without_image)
    return 0


def _networks(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from sfpose.networks import NETWORKS, network_summary
    from sfpose.training.table1 import measure_networks, network_list, network_table

    if options.part == "table1":
        rows = measure_networks(rounds=40 if options.rounds is None else options.rounds)
        print_json(rows) if options.json else print(network_table(rows))
    elif options.json:
        print_json({name: asdict(network_summary(name)) for name in NETWORKS})
    else:
        print(network_list())


def _embedding(options: argparse.Namespace) -> CountedEmbedding:
    from sfpose.embedder import FaceEmbedder

    embedder = FaceEmbedder(options.weights, n_jobs=options.n_jobs)
    return CountedEmbedding(embedder, progress=options.progress)


def _title(folder: PoseFolder, options: argparse.Namespace) -> str:
    return f"EER %, {Path(options.data).stem}, {len(set(folder.subjects.tolist()))} people"


def _table3(folder: PoseFolder, options: argparse.Namespace) -> _Printed:
    from sfpose.reproduction import count_trials, format_trial_counts

    return format_trial_counts(folder), {"rows": [row._asdict() for row in count_trials(folder)]}


def _pose_table(folder: PoseFolder, options: argparse.Namespace) -> _Printed:
    from sfpose.reproduction import TABLE_4, TABLE_5, pose_table, table_cells

    published = TABLE_4 if options.part == "table4" else TABLE_5
    embed = _embedding(options)
    cells = table_cells(folder, embed, draws=options.draws)
    title = f"{_title(folder, options)}; the paper's rows are of VGGFace2-Pose"
    told: dict[str, object] = {
        "weights": str(options.weights),
        **embed.to_dict(),
        "rows": [
            {"template_size": size, "poses": poses, **row.to_dict()}
            for (size, poses), row in cells.items()
        ],
        "published_eer_percent": {name: list(rates) for name, rates in published.items()},
    }
    table = pose_table({f"sfpose {options.weights}": cells}, published, title)
    return f"{table}\n{embed}".rstrip(), told


def _figures(folder: PoseFolder, options: argparse.Namespace) -> _Printed:
    from matplotlib.backend_bases import FigureCanvasBase

    from sfpose.reproduction import det_figure, table_columns

    check_new(options.out, overwrite=True)
    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if options.out.suffix[1:].lower() not in kinds:
        raise ValueError(f"--out must end in one of .{', .'.join(kinds)}; got {str(options.out)!r}")
    embed = _embedding(options)
    columns = list(table_columns(folder, embed))
    systems = {f"sfpose {options.weights}": columns}
    path = det_figure(systems, options.out, _title(folder, options))
    return f"wrote {path}\n{embed}".rstrip(), {"out": str(path), **embed.to_dict()}


def _aligned(folder: PoseFolder, options: argparse.Namespace) -> tuple[NDArray[Any], ...]:
    """Of the faces that are found: crops, rows of their images, yaw in degrees, face scores."""
    import numpy as np

    from sfpose.alignment import FaceAligner
    from sfpose.runtime.artifact import read_artifact

    size = read_artifact(options.weights).network_input.size
    aligner = FaceAligner(size=size, policy="skip", n_jobs=options.n_jobs)

    def align(start: int, part: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], ...]:
        faces = aligner.align(part)
        return faces.images, start + faces.index, faces.pose().yaw, faces.scores

    images = folder.images
    parts = in_steps(images, images.names, 128, align, label="aligning", progress=options.progress)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _measures(
    crops: NDArray[np.uint8], yaw: NDArray[Any], scores: NDArray[Any]
) -> dict[str, ArrayLike]:
    """By what the best of several frames may be chosen: less is better."""
    import numpy as np

    # Differences of neighbours: blur leaves little of them.
    grey = crops.mean(axis=3)
    sharpness = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey)).mean((1, 2))
    return {
        "absolute yaw": np.abs(yaw),
        "sharpness": -sharpness,
        "face score": -scores,
    }


def _studies(folder: PoseFolder, options: argparse.Namespace) -> _Printed:
    """Every study of section 6 on one data set, by name."""
    import numpy as np

    from sfpose.embedder import FaceEmbedder
    from sfpose.evaluation import format_table
    from sfpose.studies import PoseStudies, keep_ocular_region

    # What nobody has the images for is refused before minutes go into them.
    PoseStudies(np.ones((len(folder.poses), 1)), folder.subjects, folder.poses)
    crops, index, yaw, scores = _aligned(folder, options)
    embedder = FaceEmbedder(options.weights, align="done", n_jobs=options.n_jobs)
    whole, ocular = embedder.transform(crops), embedder.transform(keep_ocular_region(crops))
    found = np.asarray(~(np.isnan(whole) | np.isnan(ocular)).any(axis=1))

    def of(rows: NDArray[np.float32]) -> PoseStudies:
        subjects, poses = folder.subjects[index[found]], folder.poses[index[found]]
        return PoseStudies(rows[found], subjects, poses, draws=options.draws)

    full = of(whole)
    measures = _measures(crops[found], yaw[found], scores[found])
    numbers = [row for pose in full.poses for row in full.number_of_images(full.enrolled, pose)]
    studies = {
        "number of images of a template": numbers,
        "templates that mix poses": full.mixed_poses(),
        "one probe of any pose against several templates": full.several_enrolled(),
        "the best of several frames": full.best_frame(measures),
        "whole face": full.same_pose(),
        "ocular region alone": of(ocular).same_pose(),
    }
    count = len(folder.images)
    lost = count - int(found.sum())
    lines = [f"{count} images, {lost} of them not acquired and left out"]
    # Those too of whom no image was acquired, whom the studies never saw.
    left_out = len(set(folder.subjects.tolist()) - set(full.people.tolist()))
    if left_out:
        lines.append(f"{left_out} people without two images of each pose were left out")
    lines += [f"{study}\n{format_table(rows)}\n" for study, rows in studies.items()]
    told: dict[str, object] = {
        "weights": str(options.weights),
        "images": count,
        "not_acquired": lost,
        "people_left_out": left_out,
        "studies": {study: [row.to_dict() for row in rows] for study, rows in studies.items()},
    }
    return "\n".join(lines), told


_PRINTED: dict[str, Callable[[PoseFolder, argparse.Namespace], _Printed]] = {
    "table3": _table3,
    "table4": _pose_table,
    "table5": _pose_table,
    "figures": _figures,
    "studies": _studies,
}
