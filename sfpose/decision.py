"""What a decision says, what it is for, and the shipped threshold.

A threshold holds for one kind of comparison: means of several images lie closer to each
other than single images do, strangers included, and profiles lie farther from frontal
images than these from each other. May import ``_checks``, ``_descriptor_form`` and ``runtime``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sfpose._checks import check_number, check_rate, check_whole, little_evidence
from sfpose._descriptor_form import DescriptorForm, Weights, manifest_of
from sfpose.runtime.artifact import Json, Manifest

_SAME = 1e-6
"""By how little two rates may differ, relatively, and be one: float32 keeps no more."""

__all__ = [
    "Condition",
    "DescriptorForm",
    "Poses",
    "Rule",
    "VerificationResult",
    "Weights",
    "choose_condition",
    "different_rates",
    "manifest_of",
    "shipped_conditions",
    "shipped_rule",
]


Poses: TypeAlias = Sequence[str | int] | None
"""Poses of both sides of a comparison, or None for all mixed."""


class Condition(NamedTuple):
    """A kind of comparison that has a threshold of its own; both sides may be swapped, each whole.

    Five frontal images against one profile are not five profiles against one frontal image:
    strangers are accepted up to three times as often in the one as in the other.

    Attributes
    ----------
    template_images, probe_images : int
        Images whose mean descriptors are compared, the larger number first.
    poses : (str, str), optional
        Their poses in the order of the numbers, in alphabetical order where both sides have as
        many; None for all poses mixed.

    Examples
    --------
    >>> from sfpose.decision import Condition
    >>> print(Condition.of(1, 3, ("frontal", "profile")))
    3 against 1 images, profile - frontal
    """

    template_images: int = 1
    probe_images: int = 1
    poses: tuple[str, str] | None = None

    @classmethod
    def of(cls, template_images: int, probe_images: int, poses: Poses = None) -> Condition:
        """The condition of a comparison whose sides come in any order; poses become text.

        Raises
        ------
        ValueError
            If a number of images is not a positive whole number, or poses are not two.
        """
        sides = {"template_images": template_images, "probe_images": probe_images}
        images = [check_whole(number, name, 1) for name, number in sides.items()]
        if poses is None:
            return cls(max(images), min(images))
        if np.shape(poses) != (2,):
            raise ValueError(f"poses must be two, one of each side; got {poses!r}")
        named = zip(images, map(str, poses), strict=True)
        (more, one), (fewer, other) = sorted(named, key=lambda side: (-side[0], side[1]))
        return cls(more, fewer, (one, other))

    def __str__(self) -> str:
        sizes = f"{self.template_images} against {self.probe_images} images"
        return sizes if self.poses is None else f"{sizes}, {self.poses[0]} - {self.poses[1]}"


def choose_condition(known: Iterable[Condition], wanted: Condition) -> Condition:
    """The known condition by which a comparison may be decided.

    The poses must be known as asked, each on the side of its number of images. Of these numbers,
    the smallest known that are not below those asked: means of more images lie closer together,
    so that such a threshold is the stricter one and its false match rate still holds.

    Parameters
    ----------
    known : iterable of Condition
    wanted : Condition

    Returns
    -------
    Condition

    Raises
    ------
    ValueError
        If no known condition covers the one that is asked.

    Examples
    --------
    >>> from sfpose.decision import Condition, choose_condition
    >>> known = [Condition(1, 1), Condition(5, 1), Condition(10, 1)]
    >>> choose_condition(known, Condition(3, 1))
    Condition(template_images=5, probe_images=1, poses=None)
    """
    known = list(known)
    fitting = [other for other in known if _covers(other, wanted)]
    if not fitting:
        # Of other poses only which there are: all their sizes would bury what is asked about.
        near: list[object] = [
            other for other in known if sorted(other.poses or ()) == sorted(wanted.poses or ())
        ]
        pairs = sorted({condition.poses for condition in known if condition.poses})
        listed = "; ".join(map(str, near or (" - ".join(pair) for pair in pairs))) or "none"
        advice = "Give fewer images, or calibrate on more" if near else "Calibrate on such poses"
        raise ValueError(
            f"a decision needs a threshold calibrated for its poses and for at least its number "
            f"of images; got {wanted}, calibrated are: {listed}. {advice}: TemplateVerifier.fit"
        )
    return min(fitting, key=lambda c: (c.template_images + c.probe_images, c.template_images))


def _covers(known: Condition, wanted: Condition) -> bool:
    """Whether each side that is asked for has its pose and its images on a side of its own."""
    there, asked = (
        list(zip(condition[:2], condition.poses or (None, None), strict=True))
        for condition in (known, wanted)
    )
    return any(
        all(
            images >= least and pose == own
            for (images, pose), (least, own) in zip(there, sides, strict=True)
        )
        for sides in (asked, asked[::-1])
    )


@dataclass(frozen=True)
class Rule:
    """What decides about one kind of comparison.

    Attributes
    ----------
    threshold : float
        Largest distance that is accepted.
    target_fmr : float
    slope, intercept : float
        ``slope * distance + intercept`` is the log-likelihood ratio.
    caution : str, optional
        See ``VerificationResult``.

    Examples
    --------
    >>> from sfpose.decision import Rule
    >>> Rule(threshold=0.5, target_fmr=1e-3, slope=-10.0, intercept=6.0).decide(0.4).match
    True
    """

    threshold: float
    target_fmr: float
    slope: float
    intercept: float
    caution: str | None = None

    def of_single_images(self) -> Rule:
        """The same for means of several images, with a caution: they lie closer together."""
        said = "calibrated on single images"
        return replace(self, caution=f"{self.caution}, {said}" if self.caution else said)

    def decide(self, distance: float) -> VerificationResult:
        """Accept or refuse a distance."""
        match = distance <= self.threshold
        ratio = self.slope * distance + self.intercept
        return VerificationResult(
            match, distance, self.threshold, self.target_fmr, ratio, self.caution
        )


@dataclass(frozen=True)
class VerificationResult:
    """A decision and what it rests on.

    Attributes
    ----------
    match : bool
        Whether both sides are taken to show the same person.
    distance : float
        Chi-square, or normalised if a cohort was fitted; smaller means more alike.
    threshold : float
        Largest distance that is accepted.
    target_fmr : float
        False match rate that the threshold was calibrated for.
    log_likelihood_ratio : float
        Natural logarithm of how much more likely the distance is for one person than
        for two, by logistic calibration on the same data as the threshold.
    caution : str or None
        What the threshold was calibrated on, where no rate can be stated by it: too few people or
        pairs, or single images, where templates of several are compared.

    Examples
    --------
    >>> from sfpose.decision import VerificationResult
    >>> print(VerificationResult(True, 0.31, 0.45, 1e-3, 4.2))
    same person: distance 0.3100 <= threshold 0.4500 (for one false match in 1,000)
    >>> print(VerificationResult(True, 0.31, 0.45, 1e-3, 4.2, "calibrated on 3 people"))
    same person: distance 0.3100 <= threshold 0.4500 (target FMR 0.001, calibrated on 3 people)
    """

    match: bool
    distance: float
    threshold: float
    target_fmr: float
    log_likelihood_ratio: float
    caution: str | None = None

    def __bool__(self) -> bool:
        return self.match

    def __str__(self) -> str:
        decision, sign = ("same person", "<=") if self.match else ("different people", ">")
        rate = f"for one false match in {1 / self.target_fmr:,.0f}"
        if self.caution is not None:
            rate = f"target FMR {self.target_fmr:g}, {self.caution}"
        return (
            f"{decision}: distance {self.distance:.4f} {sign} threshold {self.threshold:.4f} "
            f"({rate})"
        )


def shipped_conditions(manifest: Manifest, least: float = 0.0) -> dict[Condition, dict[str, Json]]:
    """Conditions of an artifact's own calibration, each with what it says of it.

    Parameters
    ----------
    manifest : mapping
    least : float, default=0.0
        Least that a threshold can be; those of normalised distances lie below 0 too.

    Returns
    -------
    dict of Condition to dict

    Raises
    ------
    ValueError
        If the calibration does not make sense.

    Examples
    --------
    >>> from sfpose.decision import Condition, shipped_conditions
    >>> from sfpose.runtime.artifact import read_manifest
    >>> Condition() in shipped_conditions(read_manifest("default"))
    True
    """
    calibration: Any = manifest.get("calibration")
    if not isinstance(calibration, dict | None):
        raise ValueError(f"the manifest's calibration must be a table; got {calibration!r}")
    try:
        found: dict[Condition, dict[str, Json]] = {}
        for entry in (calibration or {}).get("conditions", []):
            condition = Condition.of(*(entry[name] for name in Condition._fields))
            if condition in found:
                raise ValueError(f"conditions must differ; {condition} comes twice")
            line = entry["log_likelihood_ratio"]
            check_number(line["intercept"], "intercept")
            check_number(line["slope"], "slope")
            rates: list[float] = []
            for stated in entry["thresholds"]:
                rate = check_rate(stated["target_fmr"], "target_fmr")
                if any(math.isclose(rate, other, rel_tol=_SAME) for other in rates):
                    raise ValueError(f"target_fmr must differ; {rate:g} comes twice")
                rates.append(rate)
                if not check_number(stated["threshold"], "threshold") >= least:
                    raise ValueError(
                        f"threshold must be at least {least}; got {stated['threshold']}"
                    )
                for count in ("impostor_pairs", "people"):
                    check_whole(stated.get(count, 0), count, 0)
            found[condition] = entry
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the manifest's calibration is of another form: {error!r}") from error
    return found


def different_rates(rates: Iterable[float]) -> list[float]:
    """Rates, the largest first, but for those that no calibration tells from a larger one.

    Examples
    --------
    >>> from sfpose.decision import different_rates
    >>> different_rates([0.01, 0.1 - 1e-12, 0.1])
    [0.1, 0.01]
    """
    kept: list[float] = []
    for rate in sorted(rates, reverse=True):
        if not kept or not math.isclose(rate, kept[-1], rel_tol=_SAME):
            kept.append(rate)
    return kept


def _has_cohort(manifest: Mapping[str, Any]) -> bool:
    stated = manifest.get("bundle")
    return isinstance(stated, dict) and bool(stated.get("cohort"))


def shipped_rule(weights: Weights, target_fmr: float, wanted: Condition | None = None) -> Rule:
    """What decides by an artifact's own calibration.

    Parameters
    ----------
    weights : str, path or mapping
        Shipped name or path of an artifact, or its manifest.
    target_fmr : float
        One of those that the artifact was calibrated for.
    wanted : Condition, optional
        One image a side, in any pose, if not given.

    Returns
    -------
    Rule

    Raises
    ------
    ValueError
        If the artifact has no threshold for ``target_fmr`` or for the condition.

    Examples
    --------
    >>> from sfpose.decision import Condition, shipped_rule
    >>> one, five = (shipped_rule("default", 1e-3, Condition(n, 1)) for n in (1, 5))
    >>> five.threshold < one.threshold  # means of several images lie closer together
    True
    """
    check_number(target_fmr, "target_fmr")
    usable: dict[Condition, Rule] = {}
    targets: set[float] = set()
    manifest = manifest_of(weights)
    conditions: Any = shipped_conditions(manifest)
    for condition, entry in conditions.items():
        line = entry["log_likelihood_ratio"]
        for stated in entry["thresholds"]:
            targets.add(stated["target_fmr"])
            if math.isclose(stated["target_fmr"], target_fmr, rel_tol=_SAME):
                evidence = stated.get("impostor_pairs"), stated.get("people", 0)
                usable[condition] = Rule(
                    stated["threshold"],
                    target_fmr,
                    line["slope"],
                    line["intercept"],
                    little_evidence(target_fmr, *evidence),
                )
    if not targets and _has_cohort(manifest):
        raise ValueError(
            "the bundle decides by distances less those to its cohort, and its weights have no "
            "thresholds for others: decide by the verifier of VerificationBundle.load"
        )
    if not usable:
        known = ", ".join(f"{target:g}" for target in sorted(targets)) or "none"
        raise ValueError(
            f"before fit, target_fmr must be one that the weights were calibrated for ({known}); "
            f"got {target_fmr:g}: calibrate on your own people (TemplateVerifier.fit, or "
            f"sfpose calibrate --target-fmr {target_fmr:g})"
        )
    return usable[choose_condition(usable, wanted or Condition())]
