"""Thresholds for each kind of comparison, from descriptors of known people.

May import ``_calibrated``, ``_checks``, ``_cohort``, ``_scoring``, ``_template_pairs``,
``decision`` and ``metrics``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._calibrated import Calibrated
from sfpose._checks import RULE_OF_3, check_labels, check_rate, check_whole, expected_errors
from sfpose._cohort import Cohort
from sfpose._scoring import chi2_pairs_at, first_of_each
from sfpose._template_pairs import KnownImages, Side, template_pairs
from sfpose.decision import Condition
from sfpose.metrics.likelihood import LikelihoodRatioCalibrator
from sfpose.metrics.thresholds import (
    SmallSampleWarning,
    calibrate_threshold,
    pairs_needed,
    warn_of_few,
    warn_of_no_order,
)

__all__ = ["TEMPLATE_SIZES", "Calibrator", "check_parameters", "check_poses_given"]

TEMPLATE_SIZES = (
    *((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (10, 1)),
    *((2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3), (5, 3), (4, 4), (5, 4), (5, 5), (10, 10)),
)
"""Numbers of images on both sides for which thresholds are looked for."""

_RATIO_PAIRS = 100_000

_TOO_FEW = (
    "templates of {} against {} images{} need two people with that many images, and one person "
    "with enough for both sides without sharing any; the data have none"
)

_MOST_COPIES = 0.01
"""Of the descriptors; a few move a threshold by less than chance does."""

_STACKLEVEL = 4
"""From what warns about a condition up to who called ``TemplateVerifier.fit``."""


class _Compared(NamedTuple):
    """Distances of pairs, which are genuine, whose descriptors are equal, who is on both sides.

    People are numbers: names may be long, and there is one for each side of millions of pairs.
    """

    distances: NDArray[np.floating[Any]]
    genuine: NDArray[np.bool_]
    equal: NDArray[np.bool_]
    people: tuple[NDArray[np.int64], NDArray[np.int64]]


class _Paired(NamedTuple):
    """Rows of both sides that are compared, at which distance, and whose descriptors are equal."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distances: NDArray[np.floating[Any]]
    equal: NDArray[np.bool_]
    left: Side
    right: Side


class Calibrator:
    """Compares known people in every way that is asked for.

    Parameters
    ----------
    rows : array of shape (n, d), values >= 0
        Checked descriptors.
    subjects : array of shape (n,)
    poses : array of shape (n,), optional
        With poses, each pair of poses gets a threshold of its own, of templates that hold images
        of one pose. Where none are asked for, templates hold a person's images of all poses in
        turn, or of any where no poses are known; those that hold one pose, since others are used
        up, meet no strangers, whom they are farther from.
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
        rule = "subjects must name one person for each descriptor"
        self.subjects, numbers = check_labels(subjects, len(rows), rule)
        if len(self.subjects) < 2:
            raise ValueError(
                "a calibration needs at least two people, or there is no impostor pair; "
                f"got {len(self.subjects)}"
            )
        self._pose_names: list[str] = []
        pose = np.zeros(len(rows), np.int64)
        if poses is not None:
            rule = "poses must name one for each descriptor"
            names, pose = check_labels(poses, len(rows), rule)
            self._pose_names = [str(name) for name in names]
        drawn_by = None if self._pose_names else random_state
        self._images = KnownImages(rows, numbers, pose, drawn_by)
        if cohort is not None:
            cohort.check_strangers(rows)
        self._cohort = cohort
        self._random_state = random_state
        self._n_jobs = n_jobs

    def run(
        self, sizes: Sequence[tuple[int, int]], targets: Sequence[float], *, needed: int
    ) -> dict[Condition, Calibrated]:
        """Thresholds for each condition that the data allow.

        Parameters
        ----------
        sizes : sequence of (int, int)
            Images of template and probe.
        targets : sequence of float
            False match rates.
        needed : int
            So many of the first sizes get a threshold for every target, with a warning where too
            little founds it. Of the others, what rests on fewer than 3 expected false matches is
            left out, with a warning if of the first size; what rests on fewer than 30, or on fewer
            than 10 people, is kept without one.

        Raises
        ------
        ValueError
            If no condition of any poses can be calibrated, a size that is needed cannot, or
            different people share a descriptor.
        """
        found: dict[Condition, Calibrated] = {}
        self._warn_of_copies()
        for place, (more, fewer) in enumerate(sizes):
            mixed, alone = self._compare(more, fewer, mixed=True), None
            if self._pose_names:
                alone = mixed if more == 1 else self._compare(more, fewer, mixed=False)
            if mixed is None and alone is None and place < max(needed, 1):
                raise ValueError(
                    "a calibration needs at least one person with two descriptors; everyone has one"
                    if more == fewer == 1
                    else _TOO_FEW.format(more, fewer, "")
                )
            for poses, compared in self._by_poses(mixed, alone):
                condition = Condition.of(more, fewer, poses)
                known = self._calibrated(condition, compared, targets, place == 0, place < needed)
                if known is not None:
                    found[condition] = known
        if all(condition.poses is not None for condition in found):
            raise ValueError(_TOO_FEW.format(*sizes[0], " of all poses in turn"))
        return found

    def _warn_of_copies(self) -> None:
        copies = ~first_of_each(self._images.rows, self._images.subjects)
        if copies.mean() > _MOST_COPIES:
            warnings.warn(
                "descriptors of a person must be of different images; "
                f"{copies.sum()} are copies of others, as of a photo that is filed twice: "
                "thresholds accept more strangers than stated, and people seem to be refused less",
                UserWarning,
                stacklevel=_STACKLEVEL,
            )

    def _calibrated(
        self,
        condition: Condition,
        compared: _Compared,
        targets: Sequence[float],
        first: bool,
        needed: bool,
    ) -> Calibrated | None:
        """What is learnt about a condition of the first or a later size, if it can be."""
        distances, genuine, equal, people = compared
        if not genuine.any() or genuine.all():
            if first and condition.poses is not None:
                _warn(f"no threshold for {condition}: genuine or impostor pairs are missing")
            return None
        strangers = int((~genuine).sum())
        kept = [rate for rate in targets if needed or expected_errors(rate, strangers) >= RULE_OF_3]
        lacking = [
            f"a target FMR of {rate:g} needs at least {pairs_needed(rate, RULE_OF_3)}"
            for rate in targets
            if rate not in kept
        ]
        shortage = f"impostor pairs (rule of {RULE_OF_3}); got {strangers}"
        if first and not kept:
            raise ValueError(
                f"a threshold needs {RULE_OF_3} false matches to be expected: {lacking[0]} "
                f"{shortage} of {len(self.subjects)} people. Take the thresholds that ship, or "
                "calibrate on more people"
            )
        for lack in lacking if first else ():
            _warn(f"no threshold for {condition}: {lack} {shortage}")
        if not kept:
            return None
        equal = equal & ~genuine
        if equal.sum() > min(kept) * strangers:
            self._refuse_equal(equal, people, min(kept))
        thresholds = tuple(
            calibrate_threshold(
                distances,
                genuine,
                target,
                first_people=people[0],
                second_people=people[1],
                warn=False,
            )
            for target in kept
        )
        if first:
            warn_of_no_order(distances, genuine, _STACKLEVEL)
        for threshold in thresholds if first or needed else ():
            warn_of_few(threshold, _STACKLEVEL)
        # A straight line needs no more; strangers outnumber the rest by far.
        rng = np.random.default_rng(self._random_state)
        drawn = np.concatenate(
            [rng.permutation(np.flatnonzero(kind))[:_RATIO_PAIRS] for kind in (genuine, ~genuine)]
        )
        line = LikelihoodRatioCalibrator().fit(distances[drawn], genuine[drawn])
        return Calibrated(thresholds, line.slope_, line.intercept_)

    def _refuse_equal(
        self,
        equal: NDArray[np.bool_],
        people: tuple[NDArray[np.int64], NDArray[np.int64]],
        target: float,
    ) -> NoReturn:
        """Different people with equal descriptors, whom no threshold keeps apart."""
        one, other = (self.subjects[side[equal][0]] for side in people)
        raise ValueError(
            f"descriptors of different people must differ for an FMR of {target:g}; {one} and "
            f"{other} share one, as where an image is filed under both ({equal.sum()} such pairs)"
        )

    def _by_poses(
        self, mixed: _Paired | None, alone: _Paired | None
    ) -> Iterator[tuple[tuple[str, str] | None, _Compared]]:
        """Pairs of any poses, then, of templates that hold one alone, those of each pair."""
        compared = None
        if mixed is not None:
            compared = self._compared(mixed)
            yield None, compared
        if alone is None:
            return
        if compared is None or alone is not mixed:
            compared = self._compared(alone)
        distances, genuine, equal, people = compared
        sides = alone.left.poses[alone.first], alone.right.poses[alone.second]
        numbers = range(len(self._pose_names))
        pairs = [(one, other) for one in numbers for other in numbers]
        if alone.left is alone.right:
            # Sides of as many images may be swapped.
            sides = np.minimum(*sides), np.maximum(*sides)
            pairs = list(combinations_with_replacement(numbers, 2))
        for one, other in pairs:
            chosen = (sides[0] == one) & (sides[1] == other)
            if chosen.any():
                own = people[0][chosen], people[1][chosen]
                poses = self._pose_names[one], self._pose_names[other]
                yield poses, _Compared(distances[chosen], genuine[chosen], equal[chosen], own)

    def _compared(self, paired: _Paired) -> _Compared:
        people = paired.left.subjects[paired.first], paired.right.subjects[paired.second]
        return _Compared(paired.distances, people[0] == people[1], paired.equal, people)

    def _compare(self, more: int, fewer: int, *, mixed: bool) -> _Paired | None:
        left = self._images.side(more, mixed=mixed)
        right = left if more == fewer else self._images.side(fewer, mixed=mixed, last=True)
        if left is None or right is None:
            return None
        first, second = template_pairs(left, right, self._max_pairs, self._random_state)
        genuine = left.subjects[first] == right.subjects[second]
        if not genuine.any() or genuine.all():
            return None
        distances = chi2_pairs_at(
            left.templates, first, second, right.templates, n_jobs=self._n_jobs
        )
        equal = distances == 0  # Normalised ones are no more.
        if self._cohort is not None:
            near = self._cohort.nearness_of_both(
                left.templates, right.templates, n_jobs=self._n_jobs
            )
            distances = self._cohort.normalised(distances, near[0].at(first), near[1].at(second))
        return _Paired(first, second, distances, equal, left, right)


def _warn(message: str) -> None:
    warnings.warn(message, SmallSampleWarning, stacklevel=_STACKLEVEL + 1)


def check_poses_given(groups: Sequence[str], poses: ArrayLike | None) -> None:
    """Refuse poses that no group asks for, and a group of poses without them.

    Raises
    ------
    ValueError
    """
    if ("pose" in groups) != (poses is not None):
        raise ValueError(
            'poses must be given where groups hold "pose", and nowhere else; got '
            f"groups={groups!r} and {'no ' if poses is None else ''}poses"
        )


def check_parameters(
    target_fmr: float, template_sizes: ArrayLike | None, max_pairs: int, random_state: int
) -> tuple[tuple[int, int], ...]:
    """Numbers of images on both sides that are asked for, the larger first; usual ones if None.

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
    return tuple((int(max(pair)), int(min(pair))) for pair in pairs)
