"""What descriptors are like: width, sum of each row, the network that made them.

May import ``runtime``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfpose.runtime.artifact import DISTANCE, Artifact, Manifest, check_kind, read_manifest

__all__ = ["DescriptorForm", "Weights", "manifest_of"]

_UNIT_SUM = 1e-3

Weights: TypeAlias = str | os.PathLike[str] | Manifest
"""A shipped name or path of an artifact, or what its manifest said when it was read."""


def manifest_of(weights: Weights) -> Manifest:
    """What an artifact of a descriptor network says of itself.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such artifact, or its network finds landmarks.
    """
    manifest = weights if isinstance(weights, Mapping) else read_manifest(weights)
    check_kind(manifest)
    return manifest


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
        stated = manifest.get("descriptor")
        size, kind = (
            (stated.get(each) for each in ("size", "normalization"))
            if isinstance(stated, dict)
            else (None, None)
        )
        if type(size) is not int or size < 1 or kind not in ("l1", "none"):
            raise ValueError(
                "a manifest must state size, 1 or more, and normalization, 'l1' or 'none', of its "
                f"descriptors; that of {name!r} states {stated!r}"
            )
        try:
            sha256 = digest()
        except (KeyError, TypeError):
            sha256 = None
        if not isinstance(sha256, str):
            raise ValueError(
                f"a manifest must state the sha256 of its network; that of {name!r} does not"
            )
        return cls(size, kind, sha256)

    @classmethod
    def of_rows(cls, rows: NDArray[np.floating[Any]], weights: Weights) -> DescriptorForm:
        """Form of some descriptors; with a digest if they may come from these weights."""
        unit = _sum_to_one(rows)
        # Few by chance, or all but a damaged one.
        if not unit.all() and unit.mean() > 0.5:
            row = int(np.argmin(unit))
            raise ValueError(
                "descriptors must sum to 1 in each row or be as the network gives them; most rows "
                f"sum to 1, row {row} to {rows[row].sum(dtype=np.float64):g}"
            )
        own = cls(rows.shape[1], "l1" if unit.all() else "none")
        made = cls.of_weights(weights)
        return made if made[:2] == own[:2] else own

    def check_network(self, digest: str | None, name: str, source: str) -> None:
        """Refuse what is known to be of another network than descriptors of this form.

        Parameters
        ----------
        digest : str or None
            SHA-256 of its network; None if it is not known.
        name, source : str
            What to call it in an error, and where such descriptors come from.

        Raises
        ------
        ValueError
        """
        if digest not in (None, self.digest):
            raise ValueError(
                f"{name} must be of the network of {source}, {self.digest}; it is of {digest}: "
                "take its own weights, or fit, enrol or load again"
            )

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
