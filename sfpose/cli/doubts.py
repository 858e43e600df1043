"""Whom somebody who enrols should look at: photos of another person, people under two ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sfpose.cli.rates import calibrated_rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfpose.decision import Weights
    from sfpose.gallery import TemplateGallery

__all__ = ["LookAlike", "OddPhoto", "look_alikes", "odd_photos"]

_ODD_FMR, _ALIKE_FMR = 1e-2, 1e-3


class OddPhoto(NamedTuple):
    """A photo that lies farther from the person's other photos than the threshold."""

    photo: str
    id: str
    distance: float
    threshold: float

    def __str__(self) -> str:
        return (
            f"{self.photo} may show somebody else than {self.id}: look at it (distance to the "
            f"other photos {self.distance:.4f} > {self.threshold:.4f})"
        )


class LookAlike(NamedTuple):
    """A person whose template lies no farther from another's than the threshold."""

    id: str
    other: str | int
    distance: float
    threshold: float

    def __str__(self) -> str:
        return (
            f"{self.id} may already be enrolled as {self.other}: look at both (distance "
            f"{self.distance:.4f} <= {self.threshold:.4f})"
        )


def odd_photos(
    descriptors: NDArray[np.floating[Any]],
    people: NDArray[np.str_],
    photos: Sequence[str],
    weights: Weights,
) -> list[OddPhoto]:
    """Photos that would be refused as the person whom the other photos show.

    At a false match rate of 1 %, or the next greater one that the weights are calibrated for;
    none is named where they are calibrated for no such rate.

    Parameters
    ----------
    descriptors : array of shape (n, d)
    people, photos : sequences of str, length n
        Whose each photo is said to be, and its name.
    weights : str, path or mapping
        Or what their manifest says.
    """
    import numpy as np

    from sfpose._scoring import chi2_pairs

    rate = min((rate for rate in calibrated_rates(weights) if rate >= _ODD_FMR), default=None)
    names, codes, counts = np.unique(people, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[codes] > 1)
    if rate is None or not len(several):
        return []
    sums = np.zeros((len(names), descriptors.shape[1]))
    np.add.at(sums, codes, descriptors)
    others = (counts[codes] - 1)[several]
    # What is subtracted from a sum leaves rounding errors that may lie below zero.
    rest = np.maximum(sums[codes[several]] - descriptors[several], 0) / others[:, None]
    distances = chi2_pairs(descriptors[several].astype(np.float64), rest)
    limits = {count: _threshold(weights, rate, count, 1) for count in set(others.tolist())}
    found = zip(several.tolist(), distances.tolist(), others.tolist(), strict=True)
    return [
        OddPhoto(photos[row], str(people[row]), distance, limits[count])
        for row, distance, count in found
        if distance > limits[count]
    ]


def look_alikes(gallery: TemplateGallery, new: Sequence[str], weights: Weights) -> list[LookAlike]:
    """Whom of the others in a gallery each new person matches, the nearest of them.

    At a false match rate of 0.1 %, or the next lower one that the weights are calibrated for;
    nobody is named where they are calibrated for no such rate. Of two new people, the one who
    comes later is said to match the other.
    """
    import numpy as np

    from sfpose._scoring import chi2_matrix

    rates = calibrated_rates(weights)
    rate = max((rate for rate in rates if rate <= _ALIKE_FMR), default=None)
    if rate is None:
        return []
    ids, templates = list(gallery), gallery.templates
    rows = {name: row for row, name in enumerate(ids)}
    sizes, kinds = np.unique(gallery.counts, return_inverse=True)
    limits = np.array([[_threshold(weights, rate, a, b) for b in sizes] for a in sizes])
    seen = np.ones(len(ids), dtype=bool)
    seen[[rows[name] for name in new]] = False
    found = []
    for name in new:
        row = rows[name]
        # One at a time: a few hundred people are compared without compiling anything.
        (distances,) = chi2_matrix(templates[[row]], templates, n_jobs=gallery.n_jobs)
        allowed = limits[kinds[row]][kinds]
        near = np.flatnonzero((distances <= allowed) & seen)
        if len(near):
            best = int(near[np.argmin(distances[near])])
            found.append(LookAlike(name, ids[best], float(distances[best]), float(allowed[best])))
        seen[row] = True
    return found


def _threshold(weights: Weights, rate: float, template_images: int, probe_images: int) -> float:
    """Threshold for so many images a side, or the lowest where there is none for so many."""
    from sfpose.decision import Condition, manifest_of, shipped_conditions, shipped_rule

    manifest = manifest_of(weights)
    try:
        wanted = Condition.of(template_images, probe_images)
        return shipped_rule(manifest, rate, wanted).threshold
    except ValueError:
        conditions = [known for known in shipped_conditions(manifest) if known.poses is None]
    rules = []
    for known in conditions:
        try:
            rules.append(shipped_rule(manifest, rate, known).threshold)
        except ValueError:  # not all are calibrated for each rate
            continue
    return min(rules)
