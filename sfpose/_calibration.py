"""Thresholds for each kind of comparison, from descriptors of known people.

May import ``_checks``, ``_cohort``, ``_sampling``, ``_scoring``, ``decision``, ``metrics``,
``runtime`` and ``templates``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_labels, check_rate, check_whole
from sfpose._cohort import Cohort
from sfpose._sampling import row_and_column, sample
from sfpose._scoring import chi2_pairs_at
from sfpose.decision import Condition, Rule, shipped_conditions
from sfpose.metrics.intervals import Interval
from sfpose.metrics.likelihood import LikelihoodRatioCalibrator
from sfpose.metrics.thresholds import (
    SmallSampleWarning,
    ThresholdCalibration,
    calibrate_threshold,
    warn_of_few,
)
from sfpose.runtime.artifact import Json, Manifest
from sfpose.templates import build_templates

__all__ = [
    "TEMPLATE_SIZES",
    "Calibrated",
    "Calibrator",
    "check_parameters",
    "from_conditions",
    "to_conditions",
]

TEMPLATE_SIZES = ((1, 1), (2, 1), (3, 1), (5, 1), (10, 1), (2, 2), (3, 3), (5, 5), (10, 10))
"""Numbers of images on both sides for which thresholds are looked for."""

_RATIO_PAIRS = 100_000


@dataclass(frozen=True)
class Calibrated:
    """What was learnt about one kind of comparison.

    Attributes
    ----------
    thresholds : tuple of ThresholdCalibration
        One for each target, as far as the data go.
    slope, intercept : float
        Of the line from distance to log-likelihood ratio.
    """

    thresholds: tuple[ThresholdCalibration, ...]
    slope: float
    intercept: float

    def rule(self) -> Rule:
        """What decides at the first of the targets."""
        found = self.thresholds[0]
        return Rule(found.threshold, found.target_fmr, self.slope, self.intercept)


class _Side(NamedTuple):
    """Templates of so many images, whose they are, their pose and their images."""

    templates: NDArray[np.floating[Any]]
    subjects: NDArray[np.int64]
    poses: NDArray[np.int64]
    images: NDArray[np.int64]


class Calibrator:
    """Compares known people in every way that is asked for.

    Parameters
    ----------
    rows : array of shape (n, d), values >= 0
        Checked descriptors.
    subjects : array of shape (n,)
    poses : array of shape (n,), optional
        With poses, a template holds images of one pose, and each pair of poses gets a
        threshold of its own.
    cohort : Cohort, optional
        Strangers by whom distances are normalised.
    max_pairs, random_state, n_jobs
        See ``sfpose.TemplateVerifier``.

    Raises
    ------
    ValueError
        If there is not one subject, and one pose, for each descriptor, or only one person.
    """

    def __init__(
        self,
        rows: NDArray[np.floating[Any]],
        subjects: ArrayLike,
        poses: ArrayLike | None = None,
        *,
        cohort: Cohort | None = None,
        max_pairs: int = 5_000_000,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self._max_pairs = max_pairs
        self._rows = rows
        rule = "subjects must name one person for each descriptor"
        self.subjects, self._subject = check_labels(subjects, len(rows), rule)
        if len(self.subjects) < 2:
            raise ValueError(
                "a calibration needs at least two people, or there is no impostor pair; "
                f"got {len(self.subjects)}"
            )
        self._pose_names: list[str] = []
        self._pose = np.zeros(len(rows), np.int64)
        if poses is not None:
            rule = "poses must name one for each descriptor"
            names, self._pose = check_labels(poses, len(rows), rule)
            self._pose_names = [str(name) for name in names]
        self._cohort = cohort
        self._random_state = random_state
        self._n_jobs = n_jobs

    def run(
        self,
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[float],
        *,
        optional: bool,
    ) -> dict[Condition, Calibrated]:
        """Thresholds for each condition that the data allow.

        Parameters
        ----------
        sizes : sequence of (int, int)
            Images of template and probe.
        targets : sequence of float
            False match rates.
        optional : bool
            Leave out, after the first size, what rests on fewer than 3 expected false
            matches, and keep without a warning what rests on fewer than 30.

        Raises
        ------
        ValueError
            If no condition can be calibrated, one of the sizes cannot although ``optional`` is
            false, or different people share a descriptor.
        """
        found: dict[Condition, Calibrated] = {}
        for place, (more, fewer) in enumerate(sizes):
            paired = self._compare(more, fewer)
            if paired is None:
                if not optional:
                    raise ValueError(
                        f"templates of {more} against {fewer} images need two people with that "
                        "many images, and one person with enough for both sides without sharing "
                        "any; the data have none"
                    )
                continue
            first, second, distances, left, right = paired
            people = left.subjects[first], right.subjects[second]
            for poses, chosen in self._by_poses(left.poses[first], right.poses[second]):
                genuine = people[0][chosen] == people[1][chosen]
                condition = Condition.of(more, fewer, poses)
                if not genuine.any() or genuine.all():
                    if place == 0 and poses is not None:
                        warnings.warn(
                            f"no threshold for {condition}: genuine or impostor pairs are missing",
                            SmallSampleWarning,
                            stacklevel=3,
                        )
                    continue
                strangers = int((~genuine).sum())
                needed = place == 0 or not optional
                kept = [target for target in targets if needed or target * strangers >= 3]
                if kept:
                    sides = self.subjects[people[0][chosen]], self.subjects[people[1][chosen]]
                    compared = distances[chosen], genuine, sides
                    _refuse_equal(*compared, min(kept))
                    found[condition] = self._calibrated(*compared, kept)
                    for threshold in found[condition].thresholds if needed else ():
                        warn_of_few(threshold, stacklevel=3)
        if not found:
            raise ValueError(
                "a calibration needs at least one person with two descriptors; everyone has one"
            )
        return found

    def _calibrated(
        self,
        distances: NDArray[np.floating[Any]],
        genuine: NDArray[np.bool_],
        people: tuple[NDArray[np.generic], NDArray[np.generic]],
        targets: Sequence[float],
    ) -> Calibrated:
        thresholds = tuple(
            calibrate_threshold(
                distances,
                genuine,
                target,
                first_people=people[0],
                second_people=people[1],
                warn=False,
            )
            for target in targets
        )
        # A straight line needs no more; strangers outnumber the rest by far.
        rng = np.random.default_rng(self._random_state)
        drawn = np.concatenate(
            [rng.permutation(np.flatnonzero(kind))[:_RATIO_PAIRS] for kind in (genuine, ~genuine)]
        )
        line = LikelihoodRatioCalibrator().fit(distances[drawn], genuine[drawn])
        return Calibrated(thresholds, line.slope_, line.intercept_)

    def _by_poses(
        self, first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> Iterator[tuple[tuple[str, str] | None, NDArray[np.bool_] | slice]]:
        yield None, slice(None)
        names = self._pose_names
        low, high = np.minimum(first, second), np.maximum(first, second)
        for one in range(len(names)):
            for other in range(one, len(names)):
                chosen = (low == one) & (high == other)
                if chosen.any():
                    yield (names[one], names[other]), chosen

    def _side(self, images: int) -> _Side | None:
        """Templates of consecutive images of a person and pose; the rest is left out."""
        order = np.lexsort((np.arange(len(self._rows)), self._pose, self._subject))
        kind = self._subject[order] * (self._pose.max() + 1) + self._pose[order]
        starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        size = np.bincount(np.cumsum(place == 0) - 1)[np.cumsum(place == 0) - 1]
        whole = place < size // images * images
        rows = order[whole].reshape(-1, images)
        if not len(rows):
            return None
        if images == 1:
            templates = self._rows[rows[:, 0]]
        else:
            groups = np.repeat(np.arange(len(rows)), images)
            templates = build_templates(self._rows[rows.ravel()], groups).templates
        return _Side(templates, self._subject[rows[:, 0]], self._pose[rows[:, 0]], rows)

    def _compare(
        self, more: int, fewer: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any], _Side, _Side] | None:
        left = self._side(more)
        right = left if more == fewer else self._side(fewer)
        if left is None or right is None:
            return None
        first, second = self._pairs(left, right)
        genuine = left.subjects[first] == right.subjects[second]
        if not genuine.any() or genuine.all():
            return None
        distances = chi2_pairs_at(
            left.templates, first, second, right.templates, n_jobs=self._n_jobs
        )
        if self._cohort is not None:
            near = self._cohort.nearness_of_both(
                left.templates, right.templates, n_jobs=self._n_jobs
            )
            distances = self._cohort.normalised(distances, near[0].at(first), near[1].at(second))
        return first, second, distances, left, right

    def _pairs(self, left: _Side, right: _Side) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Genuine pairs without a shared image, and all or a sample of the impostors."""
        same = left is right
        # Sides are in the order of people, so that each person is one range of the other side.
        starts = np.searchsorted(right.subjects, left.subjects, side="left")
        ends = np.searchsorted(right.subjects, left.subjects, side="right")
        later = starts
        if same:
            # Each row meets the rows after it alone, or every pair would come twice.
            later, starts = np.arange(1, len(ends) + 1), np.zeros_like(ends)
        lengths = ends - later
        first, second = row_and_column(np.arange(lengths.sum()), lengths)
        genuine = np.stack([first, later[first] + second])
        skipped = ends - starts
        lengths = len(right.subjects) - skipped
        rng = np.random.default_rng(self._random_state)
        # Pairs are numbered and not listed: there may be far more than memory holds.
        numbers = sample(rng, int(lengths.sum()), self._max_pairs)
        first, second = row_and_column(numbers, lengths)
        impostor = np.stack([first, second + skipped[first] * (second >= starts[first])])
        if not same:
            apart = left.images[genuine[0]][:, :, None] != right.images[genuine[1]][:, None, :]
            genuine = genuine[:, apart.all((1, 2))]
        first, second = np.concatenate([genuine, impostor], axis=1)
        return first, second


def _refuse_equal(
    distances: NDArray[np.floating[Any]],
    genuine: NDArray[np.bool_],
    people: tuple[NDArray[np.generic], NDArray[np.generic]],
    target: float,
) -> None:
    """Refuse different people with equal descriptors, whom no threshold keeps apart."""
    equal = np.flatnonzero(~genuine & (distances == 0))
    if len(equal) > target * (~genuine).sum():
        one, other = (side[equal[0]] for side in people)
        raise ValueError(
            f"descriptors of different people must differ for an FMR of {target:g}; {one} and "
            f"{other} share one, as where an image is filed under both ({len(equal)} such pairs)"
        )


def check_parameters(
    target_fmr: float, template_sizes: ArrayLike | None, max_pairs: int, random_state: int
) -> tuple[tuple[int, int], ...]:
    """Numbers of images on both sides that are asked for; the usual ones if None.

    Raises
    ------
    ValueError
        If a parameter of ``sfpose.TemplateVerifier`` is refused.
    """
    check_rate(target_fmr, "target_fmr")
    check_whole(max_pairs, "max_pairs", 1)
    check_whole(random_state, "random_state", 0)
    if template_sizes is None:
        return TEMPLATE_SIZES
    pairs = np.array(template_sizes, dtype=object)
    whole = all(isinstance(images, (int, np.integer)) and images >= 1 for images in pairs.flat)
    if not pairs.size or pairs.shape[1:] != (2,) or not whole:
        raise ValueError(
            "template_sizes must be one or more pairs of whole numbers of images, at least 1; "
            f"got {template_sizes!r}"
        )
    return tuple((int(more), int(fewer)) for more, fewer in pairs)


def to_conditions(found: Mapping[Condition, Calibrated]) -> list[Json]:
    """What was learnt, as the ``conditions`` of a manifest's calibration."""
    return [
        {
            "template_images": condition.template_images,
            "probe_images": condition.probe_images,
            "poses": None if condition.poses is None else list(condition.poses),
            "thresholds": cast("list[Json]", [t.to_dict() for t in known.thresholds]),
            "log_likelihood_ratio": {"slope": known.slope, "intercept": known.intercept},
        }
        for condition, known in found.items()
    ]


def from_conditions(manifest: Manifest, least: float = 0.0) -> dict[Condition, Calibrated]:
    """What ``to_conditions`` wrote into a manifest; no threshold may be below ``least``.

    Raises
    ------
    ValueError
        If the manifest's calibration is of another form, or only for pairs of poses.
    """
    try:
        entries = shipped_conditions(manifest, least)
        found = {condition: _from_entry(entry) for condition, entry in entries.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"the manifest's calibration is of another form: {error}") from error
    if all(condition.poses for condition in found):
        raise ValueError(
            "the manifest must describe a bundle with a threshold for all poses mixed; it has none"
        )
    return found


def _from_entry(entry: Mapping[str, Any]) -> Calibrated:
    thresholds = []
    for stated in entry["thresholds"]:
        intervals = {
            name: None if stated[name] is None else Interval(*stated[name])
            for name in ("fmr_interval", "fnmr_interval", "fmr_interval_if_independent")
        }
        thresholds.append(ThresholdCalibration(**{**stated, **intervals}))
    line = entry["log_likelihood_ratio"]
    return Calibrated(tuple(thresholds), float(line["slope"]), float(line["intercept"]))
