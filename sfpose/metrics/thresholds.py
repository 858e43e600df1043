"""Choosing a threshold: what was asked, what was achieved, on how much evidence."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import LEAST_PEOPLE, RULE_OF_3, check_rate, expected_errors
from sfpose.metrics._checks import check_scores, people_given
from sfpose.metrics._drawn_people import people_of
from sfpose.metrics.error_rates import threshold_at_fmr
from sfpose.metrics.intervals import Interval, clopper_pearson_interval, intervals_at

__all__ = ["SmallSampleWarning", "ThresholdCalibration", "calibrate_threshold"]


RULE_OF_30 = 30
"""With fewer false matches the true rate may be off by more than 30 %, with 90 % confidence."""


_AS_BY_CHANCE = 0.4
"""Share of impostors nearer than the median of genuine ones that is suspect; chance gives half."""


class SmallSampleWarning(UserWarning):
    """The data cannot support the false match rate that was asked for.

    There are too few comparisons of different people for it, or too few people in them. Take the
    threshold that ships with the weights (``TemplateVerifier()`` without ``fit``), a larger
    ``target_fmr``, or more people.

    Examples
    --------
    >>> import warnings
    >>> from sfpose.metrics import SmallSampleWarning, calibrate_threshold
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = calibrate_threshold([1.0, 2.0, 3.0], [1, 0, 0], 0.1)
    >>> caught[0].category is SmallSampleWarning
    True
    """


@dataclass(frozen=True)
class ThresholdCalibration:
    """A threshold and the evidence for it.

    Attributes
    ----------
    target_fmr : float
        The false match rate that was asked for.
    threshold : float
        Accept when the distance is at most this.
    achieved_fmr, fnmr : float
        Rates of the calibration data at the threshold, 0 to 1.
    genuine_pairs, impostor_pairs, people : int
        How much was compared; ``people`` is 0 if it was not told.
    fmr_interval, fnmr_interval : Interval or None
        95 % intervals of both rates at the threshold (``people_rate_interval``); None if
        it was not told who takes part, or fewer than 10 people have such pairs.
    fmr_interval_if_independent : Interval
        95 % Clopper-Pearson interval of the false match rate. It takes comparisons
        as independent, which pairs that share a person are not: it is too narrow.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import calibrate_threshold
    >>> genuine = np.arange(20_000) < 1_000
    >>> distances = np.random.default_rng(0).normal(np.where(genuine, 1.0, 3.0), 0.5)
    >>> calibration = calibrate_threshold(distances, genuine, 0.01)
    >>> calibration.impostor_pairs, calibration.expected_false_matches
    (19000, 190.0)
    """

    target_fmr: float
    threshold: float
    achieved_fmr: float
    fnmr: float
    genuine_pairs: int
    impostor_pairs: int
    people: int
    fmr_interval: Interval | None
    fnmr_interval: Interval | None
    fmr_interval_if_independent: Interval

    @property
    def expected_false_matches(self) -> float:
        """Impostor pairs times target: how many errors the threshold rests on."""
        return expected_errors(self.target_fmr, self.impostor_pairs)

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Attributes as plain numbers, for JSON."""
        values: dict[str, Any] = asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def calibrate_threshold(
    distances: ArrayLike,
    is_genuine: ArrayLike,
    target_fmr: float,
    *,
    first_people: ArrayLike | None = None,
    second_people: ArrayLike | None = None,
    warn: bool = True,
) -> ThresholdCalibration:
    """Find the threshold for a target false match rate and say how well it is founded.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)
    target_fmr : float
        Between 0 and 1.
    first_people, second_people : arrays of shape (n,), optional
        Who is on either side of each comparison, for intervals that resample people.
    warn : bool, default=True
        False leaves it to the caller to look at ``expected_false_matches`` and ``people``.

    Returns
    -------
    ThresholdCalibration

    Raises
    ------
    ValueError
        If the scores are refused, ``target_fmr`` is no rate, only one side's people are
        given, they have another shape, or somebody has no name.

    Warns
    -----
    SmallSampleWarning
        If fewer than 30 false matches are expected at the target (rule of 30: the
        true rate is then within 30 % with 90 % confidence), or fewer than 3 (rule of
        3: not even "below the target" can be claimed with 95 % confidence); or if people are
        given and fewer than 10, whose pairs are too alike, however many.
    UserWarning
        If genuine distances are not smaller than those of impostors: 40 % of the impostors or
        more are as near as the median of genuine ones, where labels by chance give half. They
        may be similarities, or the labels of other rows.

    References
    ----------
    Doddington et al., "The NIST speaker recognition evaluation", 2000 (rule of 30);
    ISO/IEC 19795-1, annex B.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import calibrate_threshold
    >>> rng = np.random.default_rng(0)
    >>> genuine = np.arange(20_000) < 1_000
    >>> distances = rng.normal(np.where(genuine, 1.0, 3.0), 0.5)
    >>> calibration = calibrate_threshold(distances, genuine, 0.01)
    >>> calibration.achieved_fmr
    0.01
    """
    scores, genuine = check_scores(distances, is_genuine)
    target = check_rate(target_fmr, "target_fmr")
    people = people_given(first_people, second_people, scores.shape)
    impostors = int((~genuine).sum())
    threshold = threshold_at_fmr(scores, genuine, target)
    accepted = scores <= threshold
    count, fmr_interval, fnmr_interval = 0, None, None
    if people is not None:
        count = people_of(*people)
        fmr_interval, fnmr_interval = intervals_at(accepted, genuine, *people)
    found = ThresholdCalibration(
        target_fmr=target,
        threshold=threshold,
        achieved_fmr=float(accepted[~genuine].mean()),
        fnmr=float((~accepted[genuine]).mean()),
        genuine_pairs=int(genuine.sum()),
        impostor_pairs=impostors,
        people=count,
        fmr_interval=fmr_interval,
        fnmr_interval=fnmr_interval,
        fmr_interval_if_independent=clopper_pearson_interval(
            int(accepted[~genuine].sum()), impostors
        ),
    )
    if warn:
        warn_of_few(found)
        warn_of_no_order(scores, genuine)
    return found


def rests_on_few(rate: float, impostors: int) -> bool:
    """Whether so many impostor pairs are too few for a rate: the rule of 30."""
    return expected_errors(rate, impostors) < RULE_OF_30


def warn_of_few(found: ThresholdCalibration, stacklevel: int = 2) -> None:
    """Warn, at a line so far up, if too few false matches or people found a threshold."""
    expected, target = found.expected_false_matches, found.target_fmr
    if rests_on_few(target, found.impostor_pairs):
        rule = RULE_OF_3 if expected < RULE_OF_3 else RULE_OF_30
        warnings.warn(
            f"a target FMR of {target:g} needs at least {pairs_needed(target, rule)} impostor "
            f"pairs (rule of {rule}); got {found.impostor_pairs}, "
            f"in which {expected:.1f} false matches are expected",
            SmallSampleWarning,
            stacklevel=stacklevel + 1,
        )
    if 0 < found.people < LEAST_PEOPLE:
        warnings.warn(
            f"a threshold needs at least {LEAST_PEOPLE} people; got {found.people}, so that its "
            "true FMR may be many times the target: take the threshold that ships "
            "(TemplateVerifier() without fit; --weights default), or calibrate on more people",
            SmallSampleWarning,
            stacklevel=stacklevel + 1,
        )


def pairs_needed(target: float, rule: int) -> int:
    """Impostor pairs in which so many false matches are expected."""
    near = math.ceil(rule / target)
    # The quotient is rounded: 30 / 0.0006 lies above 50,000.
    return near - 1 if expected_errors(target, near - 1) >= rule else near


def warn_of_no_order(
    distances: NDArray[np.floating[Any]], genuine: NDArray[np.bool_], stacklevel: int = 2
) -> None:
    """Warn, at a line so far up, if genuine distances are not the smaller ones."""
    # Failures to acquire are infinite, and say nothing about the order of the others.
    finite = np.isfinite(distances)
    if not (finite & genuine).any() or not (finite & ~genuine).any():
        return
    own, strangers = float(np.median(distances[genuine & finite])), distances[~genuine & finite]
    if (strangers <= own).mean() >= _AS_BY_CHANCE:
        warnings.warn(
            "distances must be smaller the more alike both sides are; genuine ones have the "
            f"median {own:.4g}, impostor ones {np.median(strangers):.4g}: are these "
            "similarities, or the labels of other rows?",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
