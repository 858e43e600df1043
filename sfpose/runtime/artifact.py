"""Artifacts: a network as ONNX with a manifest that says how to use it.

An artifact is a folder (or a zip file of one) with ``model.onnx`` and
``manifest.json``. It holds no pickle and no code; the digest of every file stands
in the manifest and is checked when the artifact is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, TypeGuard, TypeVar

from sfpose.runtime.files import parse_json, read_file
from sfpose.runtime.folders import read_whole, write_folder
from sfpose.runtime.inspection import LARGEST_NETWORK
from sfpose.runtime.zips import missing, zip_pieces

__all__ = [
    "DISTANCE",
    "FORMAT",
    "FORMAT_VERSION",
    "SHIPPED",
    "Artifact",
    "Manifest",
    "NetworkInput",
    "artifact_files",
    "check_kind",
    "read_artifact",
    "read_manifest",
    "unpack_entry",
    "write_artifact",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Manifest: TypeAlias = Mapping[str, Json]
Result = TypeVar("Result")

FORMAT = "sfpose-artifact"
FORMAT_VERSION = 1
SHIPPED = ("default", "small", "plain", "plain-int8", "landmarks")
"""Names of the artifacts inside the package."""

DISTANCE: Manifest = MappingProxyType(
    {"name": "chi-square", "definition": "sum((x - y)^2 / (x + y)), 0/0 = 0", "factor": 1.0}
)
"""The distance definition that is written into every artifact."""

_MODEL, _MANIFEST = "model.onnx", "manifest.json"
_LARGEST = {_MODEL: LARGEST_NETWORK, _MANIFEST: 2**20}
_LARGEST_INPUT = 1024
_LARGEST_MEAN, _STD = 1e6, (1e-6, 1e6)


@dataclass(frozen=True)
class NetworkInput:
    """What a network is fed.

    Attributes
    ----------
    size : int
        Side of the image in pixels.
    mean, std : tuple of three floats
        Of the channels, on the scale 0 to 1.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> read_artifact("default").network_input.size
    100
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Artifact:
    """A network and what its manifest says of it.

    Attributes
    ----------
    model : bytes
        The ONNX file.
    manifest : mapping
        See ``read_manifest``.
    manifest_digest : str, optional
        SHA-256 of the manifest's file, hexadecimal, where it was read from one.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> artifact = read_artifact("default")
    >>> artifact.descriptor_size, len(artifact.digest)
    (256, 64)
    """

    model: bytes
    manifest: Manifest
    manifest_digest: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the ONNX file, hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    def section(self, name: str) -> dict[str, Json]:
        """A part of the manifest that is itself a table.

        Raises
        ------
        ValueError
            If the manifest has no such table.
        """
        value = self.manifest.get(name)
        if not isinstance(value, dict):
            if name == "descriptor":
                check_kind(self.manifest)
            raise ValueError(f"the manifest must have a table {name!r}; got {value!r}")
        return value

    @cached_property
    def network_input(self) -> NetworkInput:
        """Side, mean and standard deviation of the images.

        Raises
        ------
        ValueError
            If the manifest does not state them.
        """
        table = self.section("input")
        size, mean, std = (table.get(name) for name in ("size", "mean", "std"))
        if not _is_whole(size) or not 1 <= size <= _LARGEST_INPUT:
            raise ValueError(f"the input size must be 1 to {_LARGEST_INPUT}; got {size!r}")
        least, most = _STD
        if not _are_channels(mean, -_LARGEST_MEAN, _LARGEST_MEAN) or not _are_channels(
            std, least, most
        ):
            raise ValueError(
                f"mean and std must be three numbers, std positive, up to {most:g} and std at "
                f"least {least:g}; got {mean!r} and {std!r}"
            )
        return NetworkInput(size, tuple(mean), tuple(std))

    @property
    def descriptor_size(self) -> int:
        """Values of a descriptor.

        Raises
        ------
        ValueError
            If the manifest does not state it.
        """
        size = self.section("descriptor").get("size")
        if not _is_whole(size) or size < 1:
            raise ValueError(f"the descriptor size must be a positive number; got {size!r}")
        return size


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_channels(values: object, least: float, most: float) -> TypeGuard[list[float]]:
    """Whether there is a number for each channel, by which pixels stay within float32."""
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and least <= value <= most for value in values)
    )


class _Files:
    """The files of a folder or of a zip file, read by name and never beyond a limit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            names = tuple(name for name in SHIPPED if name != "landmarks")
            raise FileNotFoundError(
                f"weights must be one of {names} or the path of an artifact; got {str(path)!r}"
            )
        # A pipe would be waited for, and a device has no end.
        if not path.is_dir() and not (path.is_file() and zipfile.is_zipfile(path)):
            raise ValueError(
                f"an artifact must be a folder or a zip file with {_MODEL} and {_MANIFEST}; "
                f"got {str(path)!r}"
            )

    def read(self, name: str) -> bytes:
        if self._path.is_dir():
            try:
                return read_file(self._path, name, _LARGEST[name])
            except FileNotFoundError:
                raise missing(name, self._path) from None
        return b"".join(zip_pieces(self._path, name, _LARGEST[name]))


def _from_files(weights: str | os.PathLike[str], read: Callable[[_Files], Result]) -> Result:
    if isinstance(weights, str) and weights in SHIPPED:
        shipped = Path(str(resources.files("sfpose"))) / "weights" / weights
        if not shipped.is_dir():
            needs = "unpacked, with its weights (PyInstaller: --collect-data sfpose)"
            raise FileNotFoundError(f"sfpose must be installed {needs}; there is no {shipped}")
        return read(_Files(shipped))
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights must be a shipped name or a path; got {weights!r}")
    return read_whole(weights, lambda path: read(_Files(path)))


def _parse_manifest(data: bytes) -> Manifest:
    manifest = parse_json(data, _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{_MANIFEST} must state format {FORMAT!r}; got another file")
    version = manifest.get("format_version")
    if not _is_whole(version) or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"format_version must be 1 to {FORMAT_VERSION}; got {version!r}: "
            "a newer sfpose wrote this"
        )
    return manifest


def check_kind(manifest: Manifest) -> None:
    """Refuse weights that find landmarks where descriptors are wanted.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> from sfpose.runtime.artifact import check_kind, read_manifest
    >>> check_kind(read_manifest("small"))
    """
    if manifest.get("kind") == "landmarks":
        raise ValueError("weights must give descriptors; those of kind 'landmarks' give landmarks")


def read_manifest(weights: str | os.PathLike[str]) -> Manifest:
    """Read what an artifact says of itself, without its network.

    Parameters
    ----------
    weights : str or path
        A shipped name (``"default"``, ``"landmarks"``) or the path of a folder or zip.

    Returns
    -------
    mapping
        ``name``, ``kind``, ``network``, ``input`` (size, mean, std), ``alignment``,
        ``descriptor`` (size, normalization; some have ``less_mean``, the share of their mean
        that is taken off the values before that, none below zero), ``distance``,
        ``calibration``, ``license``, ``files``.

    Raises
    ------
    FileNotFoundError
        If there is no such artifact.
    ValueError
        If it is of another format.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_manifest
    >>> read_manifest("default")["distance"]["name"]
    'chi-square'
    """
    return _from_files(weights, lambda files: _parse_manifest(files.read(_MANIFEST)))


def read_artifact(weights: str | os.PathLike[str]) -> Artifact:
    """Read an artifact and check the digest of its network.

    Parameters
    ----------
    weights : str or path
        A shipped name or the path of a folder or zip.

    Raises
    ------
    FileNotFoundError
        If there is no such artifact.
    ValueError
        If it is of another format, incomplete, or its network is not the one that
        the manifest describes.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> len(read_artifact("default").model) < 5_000_000
    True
    """
    return _from_files(weights, _read_both)


def _read_both(files: _Files) -> Artifact:
    stating = files.read(_MANIFEST)
    manifest = _parse_manifest(stating)
    artifact = Artifact(files.read(_MODEL), manifest, hashlib.sha256(stating).hexdigest())
    listed = manifest.get("files")
    stated = listed.get(_MODEL) if isinstance(listed, dict) else None
    if not isinstance(stated, dict) or stated.get("sha256") != artifact.digest:
        raise ValueError(
            f"{_MODEL} must have the sha256 that {_MANIFEST} states; got {artifact.digest}: "
            "the file was changed or damaged"
        )
    return artifact


def unpack_entry(path: Path, name: str, target: Path, most: int) -> None:
    """Write an entry of a zip file to a file of its own.

    Parameters
    ----------
    path, target : Path
        The zip file, and the file to write.
    name : str
    most : int
        Largest size of the entry, in bytes.

    Raises
    ------
    ValueError
        If there is no such entry, it is larger, or the zip file is damaged.
    """
    with open(target, "wb") as file:
        file.writelines(zip_pieces(path, name, most))


def write_artifact(
    path: str | os.PathLike[str], model: bytes, manifest: Manifest, *, overwrite: bool = False
) -> Path:
    """Write an artifact folder: whole, or not at all.

    Parameters
    ----------
    path : path
        The folder to make.
    model : bytes
        The ONNX file.
    manifest : mapping
        ``format``, ``format_version`` and ``files`` are set here, whatever it says; what it says
        of a bundle's verifier and gallery is left out, as they are.
    overwrite : bool, default=False
        Replace an artifact that is already there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, or is not an artifact.

    Examples
    --------
    >>> import tempfile
    >>> from sfpose.runtime.artifact import read_artifact, write_artifact
    >>> shipped = read_artifact("default")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_artifact(f"{folder}/mine", shipped.model, shipped.manifest)
    ...     read_artifact(path).digest == shipped.digest
    True
    """
    alone = {name: value for name, value in manifest.items() if name != "bundle"}
    bundle = manifest.get("bundle")
    if isinstance(bundle, dict):
        # Thresholds and templates are of images that are cropped as the bundle's are.
        crops: dict[str, Json] = {
            name: bundle[name] for name in ("align", "min_face_score") if name in bundle
        }
        if any(value != "auto" for value in crops.values()):
            alone["crops"] = crops
    files = artifact_files(model, alone, {})
    return write_folder(path, files, overwrite=overwrite, marker=_MANIFEST)


def artifact_files(
    model: bytes, manifest: Manifest, extra: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of an artifact by name, and ``extra`` ones beside them."""
    listed: dict[str, Json] = {
        _MODEL: {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    }
    own: dict[str, Json] = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": listed}
    text = json.dumps({**own, **manifest, **own}, indent=1, allow_nan=False) + "\n"
    return {_MODEL: model, _MANIFEST: text.encode(), **extra}
