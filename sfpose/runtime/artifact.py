"""Artifacts: a network as ONNX with a manifest that says how to use it.

An artifact is a folder (or a zip file of one) with ``model.onnx`` and
``manifest.json``. It holds no pickle and no code; the digest of every file stands
in the manifest and is checked when the artifact is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

__all__ = [
    "DISTANCE",
    "FORMAT",
    "FORMAT_VERSION",
    "SHIPPED",
    "Artifact",
    "Manifest",
    "read_artifact",
    "read_manifest",
    "write_artifact",
    "write_folder",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Manifest: TypeAlias = Mapping[str, Json]

FORMAT = "sfpose-artifact"
FORMAT_VERSION = 1
SHIPPED = ("default", "landmarks")
"""Names of the artifacts inside the package."""

DISTANCE: Manifest = MappingProxyType(
    {"name": "chi-square", "definition": "sum((x - y)^2 / (x + y)), 0/0 = 0", "factor": 1.0}
)
"""The distance definition that is written into every artifact."""

_LARGEST_FILE = 512 * 2**20
_MODEL, _MANIFEST = "model.onnx", "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A network and what its manifest says of it.

    Attributes
    ----------
    model : bytes
        The ONNX file.
    manifest : mapping
        See :func:`read_manifest`.
    """

    model: bytes
    manifest: Manifest

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
            raise ValueError(f"the manifest must have a table {name!r}; got {value!r}")
        return value


class _Files:
    """The files of a folder or of a zip file, read by name and never beyond a limit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise FileNotFoundError(
                f"weights must be one of {SHIPPED} or the path of an artifact; got {str(path)!r}"
            )
        if not path.is_dir() and not zipfile.is_zipfile(path):
            raise ValueError(
                f"an artifact must be a folder or a zip file with {_MODEL} and {_MANIFEST}; "
                f"got {str(path)!r}"
            )

    def read(self, name: str) -> bytes:
        if self._path.is_dir():
            file = self._path / name
            if not file.is_file():
                raise self._missing(name)
            self._check_size(name, file.stat().st_size)
            return file.read_bytes()
        with zipfile.ZipFile(self._path) as archive:
            try:
                info = archive.getinfo(name)
            except KeyError:
                raise self._missing(name) from None
            self._check_size(name, info.file_size)
            return archive.read(info)

    def _missing(self, name: str) -> ValueError:
        return ValueError(f"an artifact must hold {name}; there is none in {str(self._path)!r}")

    def _check_size(self, name: str, size: int) -> None:
        if size > _LARGEST_FILE:
            raise ValueError(f"{name} must have at most {_LARGEST_FILE} bytes; got {size}")


def _files(weights: str | os.PathLike[str]) -> _Files:
    if isinstance(weights, str) and weights in SHIPPED:
        return _Files(Path(str(resources.files("sfpose.weights"))) / weights)
    return _Files(Path(weights))


def _parse_manifest(data: bytes) -> Manifest:
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{_MANIFEST} must be JSON; {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{_MANIFEST} must state format {FORMAT!r}; got another file")
    version = manifest.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"format_version must be 1 to {FORMAT_VERSION}; got {version!r}: "
            "a newer sfpose wrote this"
        )
    return manifest


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
        ``descriptor`` (size, normalization), ``distance``, ``calibration``,
        ``license``, ``files``.

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
    return _parse_manifest(_files(weights).read(_MANIFEST))


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
    files = _files(weights)
    manifest = _parse_manifest(files.read(_MANIFEST))
    artifact = Artifact(files.read(_MODEL), manifest)
    listed = manifest.get("files")
    stated = listed.get(_MODEL) if isinstance(listed, dict) else None
    if not isinstance(stated, dict) or stated.get("sha256") != artifact.digest:
        raise ValueError(
            f"{_MODEL} must have the sha256 that {_MANIFEST} states; got {artifact.digest}: "
            "the file was changed or damaged"
        )
    return artifact


def write_artifact(
    path: str | os.PathLike[str],
    model: bytes,
    manifest: Manifest,
    *,
    overwrite: bool = False,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an artifact folder: whole, or not at all.

    Parameters
    ----------
    path : path
        The folder to make.
    model : bytes
        The ONNX file.
    manifest : mapping
        ``format``, ``format_version`` and ``files`` are set here, whatever it says.
    overwrite : bool, default=False
        Replace an artifact that is already there.
    extra : mapping of str to bytes, optional
        Further files by name, such as a model card.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, or is not an artifact.
    """
    listed: dict[str, Json] = {
        _MODEL: {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    }
    own: dict[str, Json] = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": listed}
    full = {**own, **manifest, **own}
    contents = {
        _MODEL: model,
        _MANIFEST: (json.dumps(full, indent=1) + "\n").encode(),
        **(extra or {}),
    }
    return write_folder(path, contents, overwrite=overwrite, marker=_MANIFEST)


def write_folder(
    path: str | os.PathLike[str],
    contents: Mapping[str, bytes],
    *,
    overwrite: bool,
    marker: str,
) -> Path:
    """Write files as a folder that is there whole or not at all.

    Parameters
    ----------
    path : path
        The folder to make.
    contents : mapping of str to bytes
        Files by name.
    overwrite : bool
        Replace a folder that holds ``marker``.
    marker : str
        File by which a folder of the same kind is known.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false, or it holds no ``marker``.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / marker).is_file()):
        raise FileExistsError(
            f"{str(path)!r} must not exist, or hold {marker} and be overwritten by wish"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for name, data in contents.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        if path.exists():
            # Folders cannot be exchanged in one step everywhere: the old one steps aside.
            aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, aside / path.name)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
