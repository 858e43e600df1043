"""The paper's tables and figures, measured on the data at hand, beside the paper's rows.

May import ``evaluation``, ``metrics`` and ``protocols``; ``networks`` only for Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from sfpose.evaluation import POSES, PoseColumn, Row, row_from_distances
from sfpose.metrics import DetCurveDisplay
from sfpose.protocols import PoseFolder, VGGFace2Pose

__all__ = ["TABLE_4", "TABLE_5", "det_figure", "pose_table", "rows_of_columns", "trial_counts"]

Percent = tuple[float, ...]

TABLE_4: Mapping[str, Percent] = MappingProxyType(
    {
        "SqueezeFacePoseNet": (
            *(6.39, 5.47, 7.88, 6.09, 7.02, 8.15),
            *(0.27, 0.06, 0.54, 0.20, 0.88, 1.23),
        ),
        "+GDC": (*(8.67, 7.18, 9.18, 8.06, 9.00, 10.59), *(0.27, 0.08, 0.37, 0.15, 0.75, 1.29)),
        "+DWC": (*(8.28, 7.77, 12.27, 8.11, 11.08, 12.03), *(0.39, 0.54, 1.11, 0.47, 1.98, 2.85)),
        "+DWC+GDC": (
            *(10.07, 9.11, 14.04, 9.86, 12.67, 14.24),
            *(0.81, 0.61, 1.63, 0.68, 1.82, 3.39),
        ),
        "ResNet50ft": (
            *(4.14, 3.13, 5.16, 3.68, 4.25, 4.99),
            *(0.01, 0.02, 0.27, 0.07, 0.14, 0.14),
        ),
        "SENet50ft": (*(3.86, 2.87, 4.16, 3.36, 3.71, 4.48), *(0.02, 0.02, 0.27, 0.07, 0.20, 0.14)),
    }
)
"""Equal error rates of Table 4 in percent, on VGGFace2-Pose: one image a template, then five."""

TABLE_5: Mapping[str, Percent] = MappingProxyType(
    {
        "MS1M": (
            *(16.82, 16.23, 20.24, 17.45, 21.24, 24.19),
            *(1.17, 2.17, 3.25, 1.70, 5.24, 7.01),
        ),
        "VGGFace2": (*(8.93, 6.97, 8.34, 8.35, 8.16, 10.35), *(0.27, 0.27, 0.64, 0.20, 0.55, 1.09)),
        "MS1M, then VGGFace2": TABLE_4["SqueezeFacePoseNet"],
    }
)
"""The same of Table 5: the plain network by what it was trained on."""

_TABLE_3 = {(1, "same"): (16_560, 36_800), (5, "same"): (368, 36_800)}
_TABLE_3 |= {(1, "cross"): (36_800, 36_800), (5, "cross"): (1_472, 36_800)}
_HEADS = ("F-F", "3/4-3/4", "P-P", "F-3/4", "3/4-P", "F-P")


def rows_of_columns(columns: Sequence[PoseColumn], *, draws: int = 200) -> list[Row]:
    """Error rates of each column, with intervals over people."""
    return [
        row_from_distances(column.name, column.trials, column.distances, draws=draws)
        for column in columns
    ]


def trial_counts(folder: PoseFolder, *, template_sizes: Sequence[int] = (1, 5)) -> str:
    """Table 3 for a data set: genuine and impostor comparisons beside the paper's.

    Parameters
    ----------
    folder : PoseFolder
        With the poses frontal, three_quarter and profile.
    template_sizes : sequence of int

    Returns
    -------
    str
        A table as aligned text.
    """
    protocol = VGGFace2Pose(folder.subjects, folder.poses)
    lines = [f"{'':24}{'genuine':>10}{'impostor':>10}{'paper: genuine':>16}{'impostor':>10}"]
    for size in template_sizes:
        for name, poses in (("same", ("frontal", "frontal")), ("cross", ("frontal", "profile"))):
            trials = protocol.trials(*poses, size)
            genuine = int(trials.is_genuine.sum())
            theirs = _TABLE_3.get((size, name), ("", ""))
            images = "1 image" if size == 1 else f"{size} images"
            lines.append(
                f"{name + ' pose, ' + images:24}{genuine:>10,}{len(trials) - genuine:>10,}"
                + "".join(
                    f"{count:>{width},}" if count != "" else " " * width
                    for count, width in zip(theirs, (16, 10), strict=True)
                )
            )
    lines.append(
        f"{len(protocol.people)} people, {protocol.impostors} others each as impostors "
        "(paper: 368 and 100)"
    )
    return "\n".join(lines)


def pose_table(
    measured: Mapping[str, Sequence[Row]], published: Mapping[str, Percent], title: str
) -> str:
    """Measured rows beside published ones, in the layout of Tables 4 and 5.

    Parameters
    ----------
    measured : mapping of str to sequence of Row
        The columns of each system: six with one image a template, then six with five.
    published : mapping of str to 12 numbers
        The paper's, in percent.
    title : str
        What the measured rows were measured on.

    Returns
    -------
    str
        Equal error rates in percent, each measured one with its 95 % interval over people
        in the line below.
    """
    names = [*measured, *(f"paper: {name}" for name in published)]
    width = max(len(name) for name in names) + 2
    lines = [title]
    for place, images in ((0, "one image"), (6, "five images")):
        lines.append(f"{images:{width}}" + "".join(f"{head:>14}" for head in _HEADS))
        for name, rows in measured.items():
            part = rows[place : place + 6]
            lines.append(
                f"{name:{width}}" + "".join(f"{100 * row.rates.eer:>14.2f}" for row in part)
            )
            spans = (
                f"{100 * row.eer_interval.low:.1f} to {100 * row.eer_interval.high:.1f}"
                for row in part
            )
            lines.append(" " * width + "".join(f"{span:>14}" for span in spans))
        for name, rates in published.items():
            lines.append(
                f"{'paper: ' + name:{width}}"
                + "".join(f"{rate:>14.2f}" for rate in rates[place : place + 6])
            )
    return "\n".join(lines)


def det_figure(systems: Mapping[str, Sequence[PoseColumn]], path: str | Path, title: str) -> Path:
    """Figures 4 to 7: DET curves within and across poses, for both template sizes.

    Parameters
    ----------
    systems : mapping of str to sequence of PoseColumn
        The twelve columns of each system.
    path : path
        Image file to write.
    title : str
        Above all panels.

    Returns
    -------
    Path
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 12))
    short = dict(zip(POSES, ("F", "3/4", "P"), strict=True))
    styles: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
    for (row, size), (column, kind) in (
        (a, b) for a in enumerate((1, 5)) for b in enumerate(("same pose", "across poses"))
    ):
        panel = axes[row, column]
        for (name, columns), style in zip(systems.items(), styles, strict=False):
            panel.set_prop_cycle(None)
            for found in columns:
                same = found.poses[0] == found.poses[1]
                if found.template_size != size or same != (kind == "same pose"):
                    continue
                pair = "-".join(short.get(pose, pose) for pose in found.poses)
                refused = np.where(np.isnan(found.distances), np.inf, found.distances)
                display = DetCurveDisplay.from_scores(
                    refused, found.trials.is_genuine, name=f"{name} {pair}", ax=panel
                )
                display.line_.set_linestyle(style)
                panel.legend(loc="upper right", fontsize=8)
        panel.set_title(f"{kind}, {size} image{'s' if size > 1 else ''} a template")
    figure.suptitle(title)
    figure.tight_layout()
    path = Path(path)
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path
