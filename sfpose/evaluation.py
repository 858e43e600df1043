"""From a data set and a way to embed to a table of error rates.

May import everything but ``training`` and ``cli``. The way to embed
and the distance are arguments, so that peers are measured by the same code on
identical comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sfpose._calibrated import to_conditions
from sfpose._calibration import TEMPLATE_SIZES, Calibrator
from sfpose._scoring import chi2_pairs_at
from sfpose.comparisons import (
    Comparison,
    Descriptors,
    PoseColumn,
    compared,
    distances_of,
    mean_of_known,
    plan,
)
from sfpose.embedder import FaceEmbedder
from sfpose.error_table import Row, format_table, row_from_distances
from sfpose.pose import POSES
from sfpose.protocols import CFP, LFW, LazyImages, PoseFolder, Trials, all_pairs
from sfpose.runtime.artifact import Artifact, Json

__all__ = [
    "Comparison",
    "Embed",
    "PoseColumn",
    "Row",
    "calibrated",
    "evaluate_cfp",
    "evaluate_lfw",
    "evaluate_poses",
    "format_table",
    "pose_columns",
    "row_from_distances",
]

Embed = Callable[[LazyImages], Descriptors]


def _row(name: str, trials: Trials, rows: Descriptors, compare: Comparison, draws: int) -> Row:
    return row_from_distances(name, trials, distances_of(trials, rows, compare), draws=draws)


def evaluate_lfw(
    lfw: LFW, embed: Embed, compare: Comparison = chi2_pairs_at, *, draws: int = 200
) -> list[Row]:
    """Error rates and 10-fold accuracy on LFW's View 2.

    Parameters
    ----------
    lfw : LFW
    embed : callable
        From images to one descriptor each.
    compare : callable
        Distances of pairs of rows given by index; chi-square if not given.
    draws : int, default=200
        Resamplings of people for the interval.

    Returns
    -------
    list of Row
        One row.

    Raises
    ------
    FileNotFoundError, ValueError
        If an image is missing or refused.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.evaluation import evaluate_lfw
    >>> from sfpose.protocols import LFW
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for person, grey in (("Ann", 40), ("Bo", 90), ("Cy", 200)):
    ...         for number in (1, 2):
    ...             image = Image.new("RGB", (2, 2), (grey + number,) * 3)
    ...             image.save(f"{root}/{person}_000{number}.jpg")
    ...     with open(f"{root}/pairs.txt", "w") as file:
    ...         pairs = "Ann 1 2", "Ann 1 Bo 1", "Cy 1 2", "Bo 2 Cy 1"
    ...         print("2 1", *pairs, sep=chr(10), file=file)
    ...     pixels = lambda images: np.stack([image.ravel() / 1.0 for image in images])
    ...     (row,) = evaluate_lfw(LFW(root), pixels)
    >>> row.name, row.rates.eer
    ('LFW View 2', 0.0)
    """
    trials = lfw.trials()
    rows = embed(lfw.images)
    return [_row("LFW View 2", trials, rows, compare, draws)]


def evaluate_cfp(
    cfp: CFP, embed: Embed, compare: Comparison = chi2_pairs_at, *, draws: int = 200
) -> list[Row]:
    """Error rates on all pairs of CFP: across poses, frontal, and of templates.

    Parameters
    ----------
    cfp : CFP
        With the poses ``frontal`` and ``profile``, five and four images of each person.
    embed, compare, draws
        See ``evaluate_lfw``.

    Returns
    -------
    list of Row
        Frontal-profile, frontal-frontal, and the mean of five frontal images against
        the mean of four profile images.

    Raises
    ------
    ValueError
        If a pose is missing or somebody has fewer images of it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.evaluation import evaluate_cfp
    >>> from sfpose.protocols import CFP
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for person, grey in (("001", 40), ("002", 90), ("003", 200)):
    ...         for pose, count in (("frontal", 5), ("profile", 4)):
    ...             (Path(root) / person / pose).mkdir(parents=True)
    ...             for number in range(count):
    ...                 image = Image.new("RGB", (2, 2), (grey + number,) * 3)
    ...                 image.save(f"{root}/{person}/{pose}/{number}.png")
    ...     pixels = lambda images: np.stack([image.ravel() / 1.0 for image in images])
    ...     rows = evaluate_cfp(CFP(root), pixels)
    >>> [(row.name, row.rates.genuine, row.rates.eer) for row in rows][-1]
    ('5 frontal against 4 profile', 3, 0.0)
    """
    pairs = {
        "frontal-profile": cfp.trials("frontal", "profile"),
        "frontal-frontal": cfp.trials("frontal", "frontal"),
    }
    chosen = [cfp.template_rows("frontal", 5), cfp.template_rows("profile", 4)]
    rows = embed(cfp.images)
    table = [_row(name, trials, rows, compare, draws) for name, trials in pairs.items()]
    parts = [_means(rows[own], cfp.subjects[own]) for own in chosen]
    templates = np.concatenate([part for part, _ in parts])
    people = np.concatenate([names for _, names in parts])
    half = len(parts[0][0])
    trials = all_pairs(people, np.arange(half), np.arange(half, len(people)))
    table.append(_row("5 frontal against 4 profile", trials, templates, compare, draws))
    return table


def evaluate_poses(
    folder: PoseFolder,
    embed: Embed,
    compare: Comparison = chi2_pairs_at,
    *,
    poses: Sequence[str] = POSES,
    template_sizes: Sequence[int] = (1, 5),
    draws: int = 200,
) -> list[Row]:
    """Error rates under the paper's pose protocol: the columns of its Table 4.

    Parameters
    ----------
    folder : PoseFolder
        With at least two templates of each size for each person and pose.
    embed, compare, draws
        See ``evaluate_lfw``.
    poses : sequence of str
        From frontal to profile, as the folders are called.
    template_sizes : sequence of int
        Images a template.

    Returns
    -------
    list of Row
        For each template size: each pose with itself, then across poses.

    Raises
    ------
    ValueError
        If there is no such pose, or somebody has too few images of one.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sfpose.evaluation import evaluate_poses
    >>> subjects = np.repeat(["ann", "bo", "cy"], 8)
    >>> poses = np.tile(np.repeat(["frontal", "profile"], 4), 3)
    >>> rows = np.repeat(np.eye(3), 8, axis=0)  # descriptors, in the place of images
    >>> folder = SimpleNamespace(subjects=subjects, poses=poses, images=rows)
    >>> table = evaluate_poses(
    ...     folder, np.asarray, poses=("frontal", "profile"), template_sizes=(2,)
    ... )
    >>> [row.name for row in table]
    ['frontal - frontal, 2 images', 'profile - profile, 2 images', 'frontal - profile, 2 images']
    >>> [row.rates.eer for row in table]
    [0.0, 0.0, 0.0]
    """
    return [
        row_from_distances(column.name, column.trials, column.distances, draws=draws)
        for column in pose_columns(
            folder, embed, compare, poses=poses, template_sizes=template_sizes
        )
    ]


def pose_columns(
    folder: PoseFolder,
    embed: Embed,
    compare: Comparison = chi2_pairs_at,
    *,
    poses: Sequence[str] = POSES,
    template_sizes: Sequence[int] = (1, 5),
) -> Iterator[PoseColumn]:
    """The comparisons of the paper's pose protocol, column by column.

    Parameters are those of ``evaluate_poses``.

    Yields
    ------
    PoseColumn
        NaN where an image could not be acquired.

    Raises
    ------
    ValueError
        If there is no such pose, or somebody has too few images of one.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sfpose.evaluation import pose_columns
    >>> subjects = np.repeat(["ann", "bo", "cy"], 8)
    >>> poses = np.tile(np.repeat(["frontal", "profile"], 4), 3)
    >>> rows = np.repeat(np.eye(3), 8, axis=0)  # descriptors, in the place of images
    >>> folder = SimpleNamespace(subjects=subjects, poses=poses, images=rows)
    >>> columns = pose_columns(folder, np.asarray, poses=("frontal",), template_sizes=(1, 2))
    >>> [(column.name, len(column.distances)) for column in columns]
    [('frontal - frontal, 1 image', 24), ('frontal - frontal, 2 images', 9)]
    """
    planned = plan(folder, dict.fromkeys(template_sizes, poses))
    yield from compared(planned, embed(folder.images), compare)


TARGET_FMRS = (0.1, 0.01, 0.001, 0.0001)
"""False match rates that shipped weights have a threshold for."""


def calibrated(artifact: Artifact, cfp: CFP) -> Artifact:
    """The artifact with thresholds calibrated on comparisons of some people.

    For each pair of poses, where templates of several images hold one, and for all together, where
    they hold both in turn, those of different people both; as far as at least 3 false matches are
    expected.

    Parameters
    ----------
    artifact : Artifact
        Descriptor network.
    cfp : CFP
        People who take no part in any test.

    Returns
    -------
    Artifact
        The same network; its manifest has a ``calibration``.

    Warns
    -----
    SmallSampleWarning
        If a threshold of single images rests on too few comparisons.
    """
    embedder = FaceEmbedder()
    embedder.artifact_ = artifact
    descriptors = embedder.transform(cfp.images)
    acquired = ~np.isnan(descriptors).any(axis=1)
    descriptors, subjects = descriptors[acquired], cfp.subjects[acquired]
    calibrator = Calibrator(descriptors, subjects, cfp.poses[acquired])
    found = calibrator.run(TEMPLATE_SIZES, TARGET_FMRS, needed=1)
    people = np.unique(subjects)
    data = (
        f"CFP, people {people[0]} to {people[-1]}, all pairs of templates of their "
        f"{len(descriptors)} frontal and profile images; templates of several hold both in turn "
        "where no poses are stated, those of different people both"
    )
    calibration: dict[str, Json] = {"data": data, "conditions": _rounded(to_conditions(found))}
    return Artifact(artifact.model, {**artifact.manifest, "calibration": calibration})


_DIGITS = {"threshold": 10, "fmr_interval": 3, "fnmr_interval": 3, "fmr_interval_if_independent": 3}


def _rounded(stated: Json, digits: int = 7) -> Json:
    """Numbers with a fraction as short as they may be: digits that say nothing do not compress."""
    if isinstance(stated, dict):
        return {name: _rounded(each, _DIGITS.get(name, digits)) for name, each in stated.items()}
    if isinstance(stated, list):
        return [_rounded(each, digits) for each in stated]
    return float(f"{stated:.{digits}g}") if isinstance(stated, float) else stated


def _means(
    rows: Descriptors, people: NDArray[np.generic]
) -> tuple[Descriptors, NDArray[np.generic]]:
    """Mean of each person's rows and whose they are; a peer's rows may be negative."""
    names, codes = np.unique(people, return_inverse=True)
    return np.stack([mean_of_known(rows[codes == code]) for code in range(len(names))]), names
