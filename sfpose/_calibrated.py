"""What was learnt about each kind of comparison, and how a manifest states it.

May import ``_checks``, ``decision``, ``metrics`` and ``runtime``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sfpose._checks import check_whole, is_number, little_evidence
from sfpose.decision import Condition, Rule, shipped_conditions
from sfpose.metrics.intervals import Interval
from sfpose.metrics.thresholds import ThresholdCalibration
from sfpose.runtime.artifact import Json, Manifest

__all__ = ["Calibrated", "from_conditions", "to_conditions"]


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
        caution = little_evidence(found.target_fmr, found.impostor_pairs, found.people)
        return Rule(found.threshold, found.target_fmr, self.slope, self.intercept, caution)


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
        for name in ("achieved_fmr", "fnmr"):
            _check_share(stated[name], name)
        for name in ("genuine_pairs", "impostor_pairs", "people"):
            check_whole(stated[name], name, 0)
        intervals = {
            name: _interval(stated[name], name)
            for name in ("fmr_interval", "fnmr_interval", "fmr_interval_if_independent")
        }
        thresholds.append(ThresholdCalibration(**{**stated, **intervals}))
    line = entry["log_likelihood_ratio"]
    return Calibrated(tuple(thresholds), float(line["slope"]), float(line["intercept"]))


def _check_share(value: object, name: str) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a rate, 0 <= {name} <= 1; got {value!r}")
    return value


def _interval(value: object, name: str) -> Interval | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} must be two rates, or null; got {value!r}")
    return Interval(*(_check_share(limit, name) for limit in value))
