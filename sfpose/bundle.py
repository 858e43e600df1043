"""VerificationBundle: network, threshold and enrolled people in one folder or zip file.

A bundle is an artifact with more in it, so ``FaceEmbedder(path)`` and ``sfpose verify
--weights path`` take it as it is. May import the estimators, the gallery and ``runtime``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfpose.embedder import FaceEmbedder
from sfpose.gallery import TemplateGallery
from sfpose.metrics.intervals import Interval
from sfpose.metrics.thresholds import ThresholdCalibration
from sfpose.runtime.artifact import read_artifact, write_artifact
from sfpose.runtime.tensors import map_tensor, tensor_file
from sfpose.verifier import TemplateVerifier

__all__ = ["BUNDLE_VERSION", "VerificationBundle"]

BUNDLE_VERSION = 1
_TEMPLATES, _IDS, _MANIFEST = "templates.safetensors", "ids.json", "manifest.json"
_LARGEST = 8 * 2**30
_PARAMETERS = ("target_fmr", "max_pairs", "random_state")
_FITTED = {"threshold_", "calibration_", "n_features_in_"}


@dataclass
class VerificationBundle:
    """What a verification service needs, kept together so that it fits together.

    Attributes
    ----------
    embedder : FaceEmbedder
    verifier : TemplateVerifier
        Fitted, or resting on the calibration that ships with the embedder's weights.
    gallery : TemplateGallery, optional
        The people who are enrolled.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sfpose import FaceEmbedder, TemplateVerifier
    >>> from sfpose.bundle import VerificationBundle
    >>> bundle = VerificationBundle(FaceEmbedder(), TemplateVerifier(target_fmr=0.01))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = bundle.save(pathlib.Path(folder) / "door")
    ...     VerificationBundle.load(path).verifier.target_fmr
    0.01
    """

    embedder: FaceEmbedder
    verifier: TemplateVerifier
    gallery: TemplateGallery | None = None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a folder, or a zip file where ``path`` ends in ``.zip``: whole or not at all.

        ``model.onnx`` runs in plain onnxruntime, ``templates.safetensors`` is read by any
        safetensors library (tensor ``templates``; ``ids.json`` holds their ids in the same
        order), ``manifest.json`` says what they mean.

        Parameters
        ----------
        path : path
        overwrite : bool, default=False
            Replace a bundle that is already there.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If there is something at ``path`` already.
        ValueError
            If verifier or gallery are for descriptors of another width than the
            embedder's, an id is neither str nor int, or the verifier has learned
            something that a bundle cannot keep.
        """
        path = Path(path)
        if path.suffix != ".zip":
            return self._write(path, overwrite)
        if path.exists() and not (overwrite and zipfile.is_zipfile(path)):
            raise FileExistsError(f"{str(path)!r} must not exist, or be a zip file and overwritten")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            folder = self._write(temporary / "bundle", False)
            packed = temporary / "bundle.zip"
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
            with open(packed, "rb") as whole:
                os.fsync(whole.fileno())
            os.replace(packed, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    def _write(self, path: Path, overwrite: bool) -> Path:
        artifact = self.embedder.artifact
        width = self.embedder.n_features_out
        learned = {name for name in vars(self.verifier) if name[-1] == "_" and name[0] != "_"}
        if learned - _FITTED:
            raise ValueError(f"a bundle cannot keep {sorted(learned - _FITTED)} of a verifier")
        state: dict[str, Any] = {name: getattr(self.verifier, name) for name in _PARAMETERS}
        manifest: dict[str, Any] = dict(artifact.manifest)
        if learned:
            if self.verifier.n_features_in_ != width:
                raise ValueError(
                    f"the verifier must be fitted on descriptors of {width} values, as the "
                    f"embedder gives them; got {self.verifier.n_features_in_}"
                )
            calibration = self.verifier.calibration_.to_dict()
            state["calibration"] = calibration
            manifest["calibration"] = {
                "data": f"TemplateVerifier.fit on {calibration['people']} people",
                "thresholds": [calibration],
            }
        bundle: dict[str, Any] = {
            "version": BUNDLE_VERSION,
            "align": self.embedder.align,
            "verifier": state,
            "files": {},
        }
        extra: dict[str, bytes] = {}
        if self.gallery is not None and len(self.gallery):
            extra = _gallery_files(self.gallery, width)
            bundle["files"] = {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                for name, data in extra.items()
            }
        return write_artifact(
            path, artifact.model, {**manifest, "bundle": bundle}, overwrite=overwrite, extra=extra
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_jobs: int | None = None) -> VerificationBundle:
        """Read a bundle and check the sha256 of every file.

        Parameters
        ----------
        path : path
            Folder or zip file that :meth:`save` wrote.
        n_jobs : int, default=None
            Threads of embedder, verifier and gallery. None means one, -1 all
            processors.

        Returns
        -------
        VerificationBundle
            Its gallery is empty if none was saved.

        Raises
        ------
        FileNotFoundError
            If there is no such bundle.
        ValueError
            If it is none, a newer sfpose wrote it, or a file was changed or is missing.
        """
        artifact = read_artifact(path)
        bundle: Any = artifact.manifest.get("bundle")
        if not isinstance(bundle, dict):
            raise ValueError(f"{str(path)!r} must be a bundle; it holds weights alone")
        version = bundle.get("version")
        if version != BUNDLE_VERSION:
            raise ValueError(
                f"the bundle's version must be {BUNDLE_VERSION}; got {version!r}: "
                "a newer sfpose wrote this"
            )
        try:
            state = bundle["verifier"]
            embedder = FaceEmbedder(os.fspath(path), align=bundle["align"], n_jobs=n_jobs)
            embedder.artifact_ = artifact
            settings = {name: state[name] for name in _PARAMETERS}
            verifier = TemplateVerifier(weights=os.fspath(path), n_jobs=n_jobs, **settings)
            if "calibration" in state:
                stated = state["calibration"]
                interval = Interval(*stated["fmr_interval"])
                calibration = ThresholdCalibration(**{**stated, "fmr_interval": interval})
                verifier.calibration_ = calibration
                verifier.threshold_ = float(calibration.threshold)
                verifier.n_features_in_ = embedder.n_features_out
            files = {name: entry["sha256"] for name, entry in bundle["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{_MANIFEST} must describe a bundle; it does not: {error}") from error
        gallery = TemplateGallery(n_jobs=n_jobs)
        if files:
            _fill(gallery, Path(path), files, embedder.n_features_out)
        return cls(embedder, verifier, gallery)


def _gallery_files(gallery: TemplateGallery, width: int) -> dict[str, bytes]:
    ids = list(gallery)
    odd = [name for name in ids if type(name) not in (str, int)]
    if odd:
        raise ValueError(f"ids must be str or int to be saved; got {odd[0]!r}")
    if gallery.templates.shape[1] != width:
        raise ValueError(
            f"the gallery must hold descriptors of {width} values, as the embedder gives "
            f"them; got {gallery.templates.shape[1]}"
        )
    return {
        _TEMPLATES: tensor_file("templates", gallery.templates),
        _IDS: json.dumps(ids).encode(),
    }


def _fill(gallery: TemplateGallery, path: Path, files: dict[str, Any], width: int) -> None:
    if set(files) != {_TEMPLATES, _IDS}:
        raise ValueError(f"a bundle must list {_TEMPLATES} and {_IDS}; got {sorted(files)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = path
        if not path.is_dir():
            folder = Path(temporary)
            with zipfile.ZipFile(path) as archive:
                for name in files:
                    _unpack(archive, name, folder)
        for name, stated in files.items():
            if not (folder / name).is_file():
                raise ValueError(f"a bundle must hold {name}; there is none in {str(path)!r}")
            if _digest(folder / name) != stated:
                raise ValueError(f"{name} must have the sha256 that {_MANIFEST} states")
        ids = json.loads((folder / _IDS).read_bytes())
        templates = map_tensor(folder / _TEMPLATES, "templates")
        if not isinstance(ids, list) or templates.ndim != 2 or templates.shape[1] != width:
            raise ValueError(
                f"a bundle must hold one id a template of {width} values; "
                f"got templates of shape {templates.shape}"
            )
        gallery.add(ids, np.array(templates))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _unpack(archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"a bundle must hold {name}; the zip file does not") from None
    if entry.file_size > _LARGEST:
        raise ValueError(f"{name} must have at most {_LARGEST} bytes; got {entry.file_size}")
    with archive.open(entry) as source, open(folder / name, "wb") as target:
        shutil.copyfileobj(source, target)
