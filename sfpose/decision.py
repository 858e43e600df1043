"""What a decision says, what it is for, and the shipped threshold.

A threshold holds for one kind of comparison: means of several images lie closer to each
other than single images do, strangers included, and profiles lie farther from frontal
images than these from each other. May import ``_checks`` and ``runtime``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_number, check_whole
from sfpose.runtime.artifact import DISTANCE, Artifact, Json, Manifest, read_manifest

__all__ = [
    "Condition",
    "DescriptorForm",
    "Rule",
    "VerificationResult",
    "choose_condition",
    "manifest_of",
    "shipped_conditions",
    "shipped_rule",
]

_UNIT_SUM = 1e-3

Weights: TypeAlias = str | os.PathLike[str] | Manifest
"""A shipped name or path of an artifact, or what its manifest said when it was read."""


def manifest_of(weights: Weights) -> Manifest:
    """What an artifact says of itself."""
    return weights if isinstance(weights, Mapping) else read_manifest(weights)


class DescriptorForm(NamedTuple):
    """Which descriptors a threshold holds for.

    Attributes
    ----------
    size : int
        Values of a descriptor.
    normalization : {"l1", "none"}
        Whether the values of each sum to 1.
    digest : str, optional
        SHA-256 of the network that they come from, if it is known.

    Examples
    --------
    >>> from sfpose.decision import DescriptorForm
    >>> form = DescriptorForm.of_weights("default")
    >>> form.size, form.normalization
    (256, 'l1')
    """

    size: int
    normalization: str
    digest: str | None = None

    @classmethod
    def of_weights(cls, weights: Weights) -> DescriptorForm:
        """Form of the descriptors that an artifact makes.

        Raises
        ------
        ValueError
            If its manifest does not say it, or is for another distance than this library
            computes, such as chi-square with a factor of 1/2.
        """
        manifest: Any = manifest_of(weights)
        name = "a manifest" if manifest is weights else str(weights)
        return cls._of(manifest, lambda: manifest["files"]["model.onnx"]["sha256"], name)

    @classmethod
    def of_artifact(cls, artifact: Artifact, name: str) -> DescriptorForm:
        """The same of an artifact that was read already; errors call it by its name."""
        return cls._of(artifact.manifest, lambda: artifact.digest, name)

    @classmethod
    def _of(cls, manifest: Any, digest: Callable[[], object], name: str) -> DescriptorForm:
        if manifest.get("distance") != DISTANCE:
            raise ValueError(
                f"thresholds must be for {DISTANCE['definition']} with factor "
                f"{DISTANCE['factor']}; {name!r} is for {manifest.get('distance')!r}"
            )
        try:
            stated = manifest["descriptor"]
            return cls(int(stated["size"]), str(stated["normalization"]), str(digest()))
        except (KeyError, TypeError, ValueError) as error:
            rule = "a manifest must state size and normalization of its descriptors"
            raise ValueError(f"{rule}; {error!r} in that of {name!r}") from error

    @classmethod
    def of_rows(cls, rows: NDArray[np.floating[Any]], weights: Weights) -> DescriptorForm:
        """Form of some descriptors; with a digest if they may come from these weights."""
        own = cls(rows.shape[1], "l1" if _sum_to_one(rows).all() else "none")
        made = cls.of_weights(weights)
        return made if made[:2] == own[:2] else own

    def check(self, rows: NDArray[np.floating[Any]], name: str) -> None:
        """Refuse descriptors of another form.

        Parameters
        ----------
        rows : array of shape (n, d)
        name : str
            What to call them in an error.

        Raises
        ------
        ValueError
            If they have another width or another normalization.
        """
        if rows.shape[1] != self.size:
            raise ValueError(
                f"{name} must have {self.size} values a row, as descriptors of these weights "
                f"have; got {rows.shape[1]}"
            )
        unit = _sum_to_one(rows)
        if self.normalization == "l1" and not unit.all():
            raise ValueError(
                f"{name} must sum to 1 in each row, as descriptors of these weights do; "
                f"row {int(np.argmin(unit))} does not"
            )
        if self.normalization == "none" and unit.all():
            raise ValueError(
                f"{name} must not be normalised, since descriptors of these weights are not; "
                "each row sums to 1"
            )


def _sum_to_one(rows: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(rows.sum(axis=1, dtype=np.float64) - 1) <= _UNIT_SUM)


class Condition(NamedTuple):
    """A kind of comparison that has a threshold of its own; both sides may be swapped.

    Attributes
    ----------
    template_images, probe_images : int
        Images whose mean descriptors are compared, the larger number first.
    poses : (str, str), optional
        Their poses in alphabetical order; None for all poses mixed.

    Examples
    --------
    >>> from sfpose.decision import Condition
    >>> print(Condition.of(1, 3, ("profile", "frontal")))
    3 against 1 images, frontal - profile
    """

    template_images: int = 1
    probe_images: int = 1
    poses: tuple[str, str] | None = None

    @classmethod
    def of(
        cls, template_images: int, probe_images: int, poses: Sequence[str | int] | None = None
    ) -> Condition:
        """The condition of a comparison whose sides come in any order; poses become text.

        Raises
        ------
        ValueError
            If a number of images is not a positive whole number, or poses are not two.
        """
        sides = {"template_images": template_images, "probe_images": probe_images}
        second, first = sorted(check_whole(images, name, 1) for name, images in sides.items())
        if poses is None:
            return cls(first, second)
        if np.shape(poses) != (2,):
            raise ValueError(f"poses must be two, one of each side; got {poses!r}")
        low, high = sorted(map(str, poses))
        return cls(first, second, (low, high))

    def __str__(self) -> str:
        sizes = f"{self.template_images} against {self.probe_images} images"
        return sizes if self.poses is None else f"{sizes}, {self.poses[0]} - {self.poses[1]}"


def choose_condition(known: Iterable[Condition], wanted: Condition) -> Condition:
    """The known condition by which a comparison may be decided.

    The poses must be known as asked. Of the numbers of images, the smallest known that
    are not below those asked: means of more images lie closer together, so that such a
    threshold is the stricter one and its false match rate still holds.

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
    fitting = [
        other
        for other in known
        if other.poses == wanted.poses
        and other.template_images >= wanted.template_images
        and other.probe_images >= wanted.probe_images
    ]
    if not fitting:
        listed = "; ".join(str(condition) for condition in known) or "none"
        raise ValueError(
            f"a decision needs a threshold calibrated for its poses and for at least its number "
            f"of images; got {wanted}, calibrated are: {listed}. Give fewer images, or fit a "
            "TemplateVerifier on more"
        )
    return min(fitting, key=lambda c: (c.template_images + c.probe_images, c.template_images))


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

    def decide(self, distance: float) -> VerificationResult:
        """Accept or refuse a distance."""
        match = distance <= self.threshold
        ratio = self.slope * distance + self.intercept
        return VerificationResult(match, distance, self.threshold, self.target_fmr, ratio)


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

    Examples
    --------
    >>> from sfpose.decision import VerificationResult
    >>> print(VerificationResult(True, 0.31, 0.45, 1e-3, 4.2))
    same person: distance 0.3100 <= threshold 0.4500 (for one false match in 1,000)
    """

    match: bool
    distance: float
    threshold: float
    target_fmr: float
    log_likelihood_ratio: float

    def __bool__(self) -> bool:
        return self.match

    def __str__(self) -> str:
        decision, sign = ("same person", "<=") if self.match else ("different people", ">")
        return (
            f"{decision}: distance {self.distance:.4f} {sign} threshold {self.threshold:.4f} "
            f"(for one false match in {1 / self.target_fmr:,.0f})"
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
    entries = calibration.get("conditions", []) if isinstance(calibration, dict) else []
    try:
        found = {}
        for entry in entries:
            condition = Condition.of(*(entry[name] for name in Condition._fields))
            line = entry["log_likelihood_ratio"]
            numbers = [line["slope"], line["intercept"]]
            for stated in entry["thresholds"]:
                numbers += [stated["target_fmr"], stated["threshold"]]
                if not 0 < stated["target_fmr"] < 1 or not stated["threshold"] >= least:
                    raise ValueError(f"threshold {stated['threshold']!r}")
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"numbers {numbers}")
            found[condition] = entry
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the manifest's calibration is of another form: {error!r}") from error
    return found


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
    conditions: Any = shipped_conditions(manifest_of(weights))
    for condition, entry in conditions.items():
        line = entry["log_likelihood_ratio"]
        for stated in entry["thresholds"]:
            targets.add(stated["target_fmr"])
            if math.isclose(stated["target_fmr"], target_fmr, rel_tol=1e-9):
                usable[condition] = Rule(
                    stated["threshold"], target_fmr, line["slope"], line["intercept"]
                )
    if not usable:
        known = ", ".join(f"{target:g}" for target in sorted(targets)) or "none"
        raise ValueError(
            f"before fit, target_fmr must be one that the weights were calibrated for ({known}); "
            f"got {target_fmr:g}: fit a TemplateVerifier on your own people"
        )
    return usable[choose_condition(usable, wanted or Condition())]
