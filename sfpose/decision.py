"""What a decision says, and the threshold that ships for it. Imports ``runtime`` alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from sfpose.runtime.artifact import read_manifest

__all__ = ["VerificationResult", "shipped_threshold"]


@dataclass(frozen=True)
class VerificationResult:
    """A decision and what it rests on.

    Attributes
    ----------
    match : bool
        Whether both sides are taken to show the same person.
    distance : float
        Chi-square distance; smaller means more alike.
    threshold : float
        Largest distance that is accepted.
    target_fmr : float
        False match rate that the threshold was calibrated for.

    Examples
    --------
    >>> from sfpose.decision import VerificationResult
    >>> print(VerificationResult(True, 0.31, 0.45, 1e-3))
    same person: distance 0.3100 <= threshold 0.4500 (for one false match in 1,000)
    """

    match: bool
    distance: float
    threshold: float
    target_fmr: float

    def __bool__(self) -> bool:
        return self.match

    def __str__(self) -> str:
        decision = "same person" if self.match else "different people"
        sign = "<=" if self.match else ">"
        return (
            f"{decision}: distance {self.distance:.4f} {sign} threshold {self.threshold:.4f} "
            f"(for one false match in {1 / self.target_fmr:,.0f})"
        )


def shipped_threshold(weights: str | os.PathLike[str], target_fmr: float) -> float:
    """Threshold of an artifact's own calibration.

    Parameters
    ----------
    weights : str or path
        Shipped name or path of an artifact.
    target_fmr : float
        One of those that the artifact was calibrated for.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the artifact has no threshold for ``target_fmr``.
    """
    calibration: Any = read_manifest(weights).get("calibration")
    entries = calibration["thresholds"] if isinstance(calibration, dict) else []
    for entry in entries:
        if math.isclose(entry["target_fmr"], target_fmr, rel_tol=1e-9):
            return float(entry["threshold"])
    known = ", ".join(f"{entry['target_fmr']:g}" for entry in entries) or "none"
    raise ValueError(
        f"before fit, target_fmr must be one that the weights were calibrated for ({known}); "
        f"got {target_fmr:g}: fit a TemplateVerifier on your own people"
    )
