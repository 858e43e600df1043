"""False match rates that weights have thresholds for, and which of them a command takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sfpose.cli.output import note

if TYPE_CHECKING:
    from sfpose.decision import Weights
    from sfpose.runtime.artifact import Manifest

__all__ = ["calibrated_rates", "chosen_rate"]


def calibrated_rates(weights: Weights, images: int = 1) -> list[float]:
    """Rates that weights are calibrated for in any pose, the strictest first; perhaps none.

    Those that they have a threshold for of templates of so many images against one.

    Raises
    ------
    ValueError, OSError
        If there are no such weights, or their calibration does not make sense.
    """
    from sfpose.decision import manifest_of, shipped_conditions

    conditions: Any = shipped_conditions(manifest_of(weights))
    rates = {
        stated["target_fmr"]
        for condition, entry in conditions.items()
        if condition.poses is None and condition.template_images >= images
        for stated in entry["thresholds"]
    }
    return sorted(rates)


def chosen_rate(
    asked: float | None, manifest: Manifest, usual: float, images: Iterable[int] = ()
) -> float:
    """The rate that is asked for; else a bundle's own; else one of those that are calibrated.

    Of these it is the strictest that is at least the usual one, and that there are thresholds for
    of templates of so many images, where there is one for all. Where all are below the usual
    rate, it is the greatest; where there is none, the usual one, which whoever looks for its
    threshold refuses.

    Raises
    ------
    ValueError, OSError
        As ``calibrated_rates`` does, and if a bundle states no rate.
    """
    if asked is not None:
        return asked
    if "bundle" in manifest:
        return _rate_of_bundle(manifest["bundle"])
    rates = calibrated_rates(manifest)
    for count in sorted(set(images)):
        fit = [rate for rate in rates if rate in calibrated_rates(manifest, count)]
        rates = fit or rates
    fitting = [rate for rate in rates if rate >= usual or math.isclose(rate, usual)]
    chosen = min(fitting, default=max(rates, default=usual))
    if not math.isclose(chosen, usual):
        note(f"the weights are not calibrated for --target-fmr {usual:g}; {chosen:g} is taken")
    return chosen


def _rate_of_bundle(stated: Any) -> float:
    from sfpose._checks import is_number

    try:
        rate = stated["verifier"]["target_fmr"]
    except (KeyError, TypeError):
        rate = None
    if not (is_number(rate) and 0 < rate < 1):
        raise ValueError(f"a bundle must state its verifier's target_fmr; got {rate!r}")
    return float(rate)
