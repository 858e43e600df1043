"""The paper's tables and figures, measured on the data at hand, beside the paper's rows.

May import ``comparisons``, ``_scoring``, ``evaluation``, ``metrics`` and ``protocols``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from sfpose._scoring import chi2_pairs_at
from sfpose.comparisons import Comparison, Descriptors, PoseColumn, compared, everybody_has, plan
from sfpose.evaluation import Embed, Row, evaluate_cfp, row_from_distances
from sfpose.metrics import DetCurveDisplay
from sfpose.metrics.displays._common import pyplot
from sfpose.pose import POSES
from sfpose.protocols import CFP, LazyImages, PoseFolder, VGGFace2Pose
from sfpose.protocols.pose_folder import known_poses

__all__ = [
    "TABLE_4",
    "TABLE_5",
    "TrialCount",
    "cells_of",
    "count_trials",
    "det_figure",
    "format_trial_counts",
    "pose_table",
    "table_cells",
    "table_columns",
]

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


Cell = tuple[int, str]
"""Images a template and a head of Table 4, such as (1, "F-P")."""


def cells_of(columns: Iterable[PoseColumn], *, draws: int = 200) -> dict[Cell, Row]:
    """Error rates of columns that were compared already, by their place in Table 4.

    Parameters
    ----------
    columns : iterable of PoseColumn
    draws : int, default=200
        Resamplings of people for each interval.

    Returns
    -------
    dict of (int, str) to Row
        In the order of the columns.
    """
    return {
        (column.template_size, _head(column.poses)): row_from_distances(
            column.name, column.trials, column.distances, draws=draws
        )
        for column in columns
    }


def table_columns(
    folder: PoseFolder, embed: Embed, compare: Comparison = chi2_pairs_at
) -> Iterator[PoseColumn]:
    """The comparisons of the pose protocol that a data set allows, for ``det_figure``.

    With the three poses of the paper all twelve. With fewer, those of one image among the poses
    there are, and those of five among frontal images, if everybody has ten of these.

    Parameters
    ----------
    folder : PoseFolder
    embed, compare
        See ``sfpose.evaluation.evaluate_lfw``.

    Yields
    ------
    PoseColumn

    Raises
    ------
    ValueError
        If the folder has none of the poses, or somebody has too few images of one.
    """
    poses = [pose for pose in POSES if pose in folder.poses.tolist()]
    if not poses:
        found = known_poses(folder.poses)
        raise ValueError(f"poses must be called {', '.join(POSES)}; got {found}")
    sizes = {1: poses}
    if len(poses) == len(POSES):
        sizes[5] = poses
    elif everybody_has(folder, poses[0], 10):
        sizes[5] = poses[:1]
    yield from compared(plan(folder, sizes), embed(folder.images), compare)


def table_cells(
    folder: PoseFolder, embed: Embed, compare: Comparison = chi2_pairs_at, *, draws: int = 200
) -> dict[Cell, Row]:
    """The columns of Table 4 that a data set fills.

    With the three poses of the paper, and at least two templates of each size of every person,
    all twelve. With frontal and profile images alone, as in CFP, the columns of one image, and
    those of five: frontal templates under the protocol if everybody has ten images, and
    five frontal against four profile images, each person against all others.

    Parameters
    ----------
    folder : PoseFolder
    embed, compare, draws
        See ``sfpose.evaluation.evaluate_lfw``.

    Returns
    -------
    dict of (int, str) to Row

    Raises
    ------
    ValueError
        If somebody has too few images of a pose.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sfpose.reproduction import table_cells
    >>> subjects = np.repeat(["ann", "bo", "cy"], 20)
    >>> poses = np.tile(np.repeat(["frontal", "profile"], 10), 3)
    >>> rows = np.repeat(np.eye(3), 20, axis=0)  # descriptors, in the place of images
    >>> folder = SimpleNamespace(subjects=subjects, poses=poses, images=rows)
    >>> sorted(table_cells(folder, np.asarray))
    [(1, 'F-F'), (1, 'F-P'), (1, 'P-P'), (5, 'F-F')]
    """
    held: list[Descriptors] = []

    def once(images: LazyImages) -> Descriptors:
        if not held:
            held.append(embed(images))
        return held[0]

    cells = cells_of(table_columns(folder, once, compare), draws=draws)
    enough = everybody_has(folder, "frontal", 5) and everybody_has(folder, "profile", 4)
    if isinstance(folder, CFP) and len(set(folder.poses.tolist())) == 2 and enough:
        cells[5, "F-P"] = evaluate_cfp(folder, once, compare, draws=draws)[-1]
    return cells


def _head(poses: tuple[str, str]) -> str:
    short = dict(zip(POSES, ("F", "3/4", "P"), strict=True))
    return "-".join(short.get(pose, pose) for pose in poses)


class TrialCount(NamedTuple):
    """A row of Table 3.

    Attributes
    ----------
    name : str
    genuine, impostor : int or None
        Comparisons of the data at hand; None where somebody has too few images for two templates.
    published_genuine, published_impostor : int or None
        Those of the paper, for template sizes that it has.

    Examples
    --------
    >>> from sfpose.reproduction import TrialCount
    >>> count = TrialCount("same pose, 1 image", 135, 6, 16_560, 36_800)
    >>> count.genuine / (count.genuine + count.impostor) > 0.9
    True
    """

    name: str
    genuine: int | None
    impostor: int | None
    published_genuine: int | None
    published_impostor: int | None


def count_trials(folder: PoseFolder, *, template_sizes: Sequence[int] = (1, 5)) -> list[TrialCount]:
    """Table 3 for a data set: genuine and impostor comparisons, and the paper's.

    Parameters
    ----------
    folder : PoseFolder
        With the poses frontal and profile; others do not count.
    template_sizes : sequence of int

    Returns
    -------
    list of TrialCount
        None for what somebody has too few images for.

    Raises
    ------
    ValueError
        If nothing can be counted: somebody has fewer than two frontal images.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sfpose.reproduction import count_trials
    >>> folder = SimpleNamespace(
    ...     subjects=np.repeat(["ann", "bo", "cy"], 20),
    ...     poses=np.tile(np.repeat(["frontal", "profile"], 10), 3),
    ... )
    >>> count_trials(folder)[3][:3]
    ('cross pose, 5 images', 12, 6)
    """
    rows = []
    for size in template_sizes:
        images = "1 image" if size == 1 else f"{size} images"
        for name, poses in (("same", ("frontal",)), ("cross", ("frontal", "profile"))):
            counts: tuple[int | None, int | None] = None, None
            if all(everybody_has(folder, pose, 2 * size) for pose in poses):
                trials = plan(folder, {size: poses})[0].trials[poses[0], poses[-1]]
                genuine = int(trials.is_genuine.sum())
                counts = genuine, len(trials) - genuine
            published = _TABLE_3.get((size, name), (None, None))
            rows.append(TrialCount(f"{name} pose, {images}", *counts, *published))
    if all(row.genuine is None for row in rows):
        raise ValueError("two frontal images of everybody are needed to count comparisons")
    return rows


def format_trial_counts(folder: PoseFolder, *, template_sizes: Sequence[int] = (1, 5)) -> str:
    """What ``count_trials`` counts, as aligned text, and how many people take part.

    Parameters and errors are those of ``count_trials``.

    Returns
    -------
    str

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sfpose.reproduction import format_trial_counts
    >>> folder = SimpleNamespace(
    ...     subjects=np.repeat(["ann", "bo", "cy"], 20),
    ...     poses=np.tile(np.repeat(["frontal", "profile"], 10), 3),
    ... )
    >>> print(format_trial_counts(folder).splitlines()[1])
    same pose, 1 image             135         6          16,560    36,800
    """
    protocol = VGGFace2Pose(folder.subjects, folder.poses)
    lines = [f"{'':24}{'genuine':>10}{'impostor':>10}{'paper: genuine':>16}{'impostor':>10}"]
    for row in count_trials(folder, template_sizes=template_sizes):
        cells = ["" if count is None else f"{count:,}" for count in row[1:]]
        widths = (10, 10, 16, 10)
        lines.append(
            f"{row.name:24}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    lines.append(
        f"{len(protocol.people)} people, {protocol.impostors} others each as impostors "
        "(paper: 368 and 100)"
    )
    return "\n".join(lines)


def pose_table(
    measured: Mapping[str, Mapping[Cell, Row]], published: Mapping[str, Percent], title: str
) -> str:
    """Measured rows beside published ones, in the layout of Tables 4 and 5.

    Parameters
    ----------
    measured : mapping of str to mapping of (int, str) to Row
        What ``table_cells`` gives, of each system.
    published : mapping of str to 12 numbers
        The paper's, in percent.
    title : str
        What the measured rows were measured on.

    Returns
    -------
    str
        Equal error rates in percent, each measured one with its 95 % interval over people
        in the line below, or what so many people can exclude where there is no error; a dash
        where the data have no such templates.

    Examples
    --------
    >>> from sfpose.evaluation import row_from_distances
    >>> from sfpose.protocols import all_pairs
    >>> from sfpose.reproduction import TABLE_4, pose_table
    >>> trials = all_pairs(list("aabbcc"), range(6))
    >>> row = row_from_distances("F-F", trials, 1.0 - 0.9 * trials.is_genuine)
    >>> table = pose_table({"ours": {(1, "F-F"): row}}, {"plain": TABLE_4["+DWC"]}, "made up")
    >>> table.splitlines()[2].split()
    ['ours', '0.00', '-', '-', '-', '-', '-']
    """
    names = [*measured, *(f"paper: {name}" for name in published)]
    width = max(len(name) for name in names) + 2
    lines = [title]
    for place, size, images in ((0, 1, "one image"), (6, 5, "five images")):
        lines.append(f"{images:{width}}" + "".join(f"{head:>14}" for head in _HEADS))
        for name, cells in measured.items():
            rates, spans = [], []
            for head in _HEADS:
                row = cells.get((size, head))
                rates.append("-" if row is None else f"{100 * row.rates.eer:.2f}")
                spans.append("" if row is None else row.interval_in_percent(1))
            lines.append(f"{name:{width}}" + "".join(f"{rate:>14}" for rate in rates))
            lines.append(" " * width + "".join(f"{span:>14}" for span in spans).rstrip())
        for name, theirs in published.items():
            lines.append(
                f"{'paper: ' + name:{width}}"
                + "".join(f"{rate:>14.2f}" for rate in theirs[place : place + 6])
            )
    return "\n".join(lines)


def det_figure(systems: Mapping[str, Sequence[PoseColumn]], path: str | Path, title: str) -> Path:
    """Figures 4 to 7: DET curves within and across poses, for both template sizes.

    Parameters
    ----------
    systems : mapping of str to sequence of PoseColumn
        What ``table_columns`` gives, of each system; beyond four, styles of lines come
        again. A panel without a column is left out.
    path : path
        Image file to write.
    title : str
        Above all panels.

    Returns
    -------
    Path
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(12, 12))
    styles: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
    for (row, size), (column, kind) in (
        (a, b) for a in enumerate((1, 5)) for b in enumerate(("same pose", "across poses"))
    ):
        panel = axes[row, column]
        for (name, columns), style in zip(systems.items(), cycle(styles), strict=False):
            panel.set_prop_cycle(None)
            for found in columns:
                same = found.poses[0] == found.poses[1]
                if found.template_size != size or same != (kind == "same pose"):
                    continue
                refused = np.where(np.isnan(found.distances), np.inf, found.distances)
                display = DetCurveDisplay.from_scores(
                    refused, found.trials.is_genuine, name=f"{name} {_head(found.poses)}", ax=panel
                )
                display.line_.set_linestyle(style)
                panel.legend(loc="upper right", fontsize=8)
        panel.set_visible(bool(panel.lines))
        panel.set_title(f"{kind}, {size} image{'s' if size > 1 else ''} a template")
    figure.suptitle(title)
    figure.tight_layout()
    path = Path(path)
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path
