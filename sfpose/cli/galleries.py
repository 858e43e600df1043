"""Galleries that the subcommands read, of a folder of their own or of a bundle."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.runtime.folders import settled

if TYPE_CHECKING:
    from sfpose.gallery import TemplateGallery

__all__ = ["check_changeable", "read_people", "weights_for"]


def _is_bundle(path: Path) -> bool:
    # A writer that was stopped midway left it under another name.
    path = settled(path)
    return zipfile.is_zipfile(path) if path.is_file() else (path / "model.onnx").is_file()


def check_changeable(path: Path) -> None:
    """Refuse a bundle, whose people are changed with its thresholds at hand, in Python.

    Raises
    ------
    ValueError
    """
    if _is_bundle(path):
        raise ValueError(
            f"a gallery that is changed must be a folder of its own; {str(path)!r} is a bundle: "
            "load it with VerificationBundle.load, change its gallery, and save it"
        )


def weights_for(path: Path, asked: str | None) -> str:
    """The weights that are asked for, or a bundle's own, or those that ship."""
    if asked is not None:
        return asked
    # A bundle's folder may be called "default", and is no name of what ships.
    return str(path.absolute()) if _is_bundle(path) else "default"


def read_people(
    path: Path, weights: str | None = None, n_jobs: int | None = None
) -> TemplateGallery:
    """The gallery of a folder, or of a bundle.

    Parameters
    ----------
    path : Path
    weights : str, optional
        Those that probes will come from.
    n_jobs : int, default=None

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no gallery, or it is of another network than the weights.
    """
    from sfpose.gallery import TemplateGallery

    if not _is_bundle(path):
        return TemplateGallery.load(path, weights=weights, n_jobs=n_jobs)
    from sfpose.bundle import VerificationBundle
    from sfpose.decision import DescriptorForm

    gallery = VerificationBundle.load(path, n_jobs=n_jobs).gallery
    assert gallery is not None  # it is empty if none was saved
    if weights is not None:
        names = f"the gallery {str(path)!r}", f"weights {weights!r}"
        DescriptorForm.of_weights(weights).check_network(gallery._network, *names)
    return gallery
