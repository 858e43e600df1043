"""VerificationBundle: network, threshold and enrolled people in one folder or zip file.

A bundle is an artifact with more in it, so ``FaceEmbedder(path)`` and ``sfpose verify
--weights path`` take it as it is. May import the estimators, the gallery and what these
import.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfpose._calibrated import Calibrated, from_conditions, to_conditions
from sfpose._checks import check_groups
from sfpose._cohort import Cohort
from sfpose._embedding import bundled, check_min_face_score, crop_kind
from sfpose._gallery_files import (
    MANIFEST,
    GalleryContents,
    check_digest,
    digest_of,
    gallery_files,
    read_gallery,
)
from sfpose.decision import DescriptorForm, manifest_of
from sfpose.embedder import FaceEmbedder
from sfpose.gallery import TemplateGallery
from sfpose.runtime.artifact import Artifact, artifact_files, read_artifact, unpack_entry
from sfpose.runtime.files import parse_json
from sfpose.runtime.folders import read_whole, write_folder, write_zip
from sfpose.runtime.tensors import map_tensor, tensor_file
from sfpose.verifier import TemplateVerifier

__all__ = ["BUNDLE_VERSION", "VerificationBundle"]

BUNDLE_VERSION = 2
"""1 knew no cohort, and is what a bundle without one still is."""

_COHORT, _GALLERY = "cohort.safetensors", "gallery.json"
_GALLERY_FILES = {
    _GALLERY: 2**20,
    "ids.json": 2**28,
    "counts.json": 2**27,
    "templates.safetensors": 8 * 2**30,
}
_COHORT_FILES = {_COHORT: 2**30}
"""Most bytes of each, since a zip file says what it likes."""
_KNOWN = ("model.onnx", MANIFEST, *_GALLERY_FILES, *_COHORT_FILES)
_PARAMETERS = ("target_fmr", "groups", "template_sizes", "max_pairs", "random_state")
_FITTED = {"threshold_", "calibration_", "calibrations_", "n_features_in_"}


@dataclass
class VerificationBundle:
    """What a verification service needs, kept together so that it fits together.

    Attributes
    ----------
    embedder : FaceEmbedder
    verifier : TemplateVerifier
        Fitted, or deciding by the calibration of its own weights, which must be the embedder's
        network.
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
        safetensors library (tensor ``templates``; ``ids.json`` and ``counts.json`` hold
        the rest in the same order; ``cohort`` of ``cohort.safetensors`` if the verifier was
        fitted with one), ``manifest.json`` says what they mean.

        Parameters
        ----------
        path : path
        overwrite : bool, default=False
            Replace a bundle that is already there, which keeps its permissions.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If there is something at ``path`` already and ``overwrite`` is false, it is no bundle,
            or holds what a bundle does not.
        OSError
            If it cannot be written; what was there is there still.
        ValueError
            If verifier or gallery are for descriptors of another width or normalization
            than the embedder's, or of other weights, as far as they know; an id is neither str
            nor int, a parameter is refused, there is no threshold for ``target_fmr``, the verifier
            has learned, or is told, what a bundle cannot keep, or people are too many for a zip.
        """
        files = self._files()
        if Path(path).suffix == ".zip":
            for name, most in {**_GALLERY_FILES, **_COHORT_FILES}.items():
                if (size := len(files.get(name, b""))) > most:
                    raise ValueError(
                        f"{name} of a zip file must have at most {most} bytes; got {size}: "
                        "save a folder"
                    )
            return write_zip(path, files, overwrite=overwrite, marker=MANIFEST, known=_KNOWN)
        return write_folder(path, files, overwrite=overwrite, marker=MANIFEST, known=_KNOWN)

    def _files(self) -> dict[str, bytes]:
        artifact = self.embedder.artifact
        form = DescriptorForm.of_artifact(artifact, "the embedder")
        _check_parameters(self.embedder, self.verifier, artifact)
        learned = {name for name in vars(self.verifier) if name[-1] == "_" and name[0] != "_"}
        if learned - _FITTED:
            raise ValueError(f"a bundle cannot keep {sorted(learned - _FITTED)} of a verifier")
        manifest: dict[str, Any] = dict(artifact.manifest)
        if learned:
            if self.verifier._form[:2] != form[:2]:
                raise ValueError(
                    f"the verifier must be fitted on descriptors of {form.size} values, "
                    f"normalization {form.normalization!r}, as the embedder gives them; got "
                    f"{self.verifier._form.size}, {self.verifier._form.normalization!r}"
                )
            # A verifier that was told no weights takes them to be "default", which may be wrong.
            if self.verifier.weights != TemplateVerifier().weights:
                form.check_network(self.verifier._form.digest, "the verifier", "the embedder")
            if {*check_groups(self.verifier.groups)} != {*self.verifier._calibrated_groups}:
                raise ValueError(
                    f"the verifier must be fitted for its groups, {self.verifier.groups!r}; "
                    f"it was for {self.verifier._calibrated_groups}"
                )
            _check_rates(self.verifier._calibrated.values(), self.verifier.target_fmr)
            manifest["calibration"] = {
                "data": f"TemplateVerifier.fit on {self.verifier.calibration_.people} people",
                "conditions": to_conditions(self.verifier._calibrated),
            }
        else:
            own = manifest_of(self.verifier._source())
            digest = DescriptorForm.of_weights(own).digest
            form.check_network(digest, "the verifier", "the embedder")
            if own.get("descriptor") != manifest.get("descriptor"):
                raise ValueError(
                    "the verifier must be for descriptors as the embedder makes them, "
                    f"{manifest.get('descriptor')}; its weights state {own.get('descriptor')}"
                )
            # Of the same network, each may have been given another calibration.
            manifest["calibration"] = own.get("calibration")
        extra: dict[str, bytes] = {}
        if self.gallery is not None and len(self.gallery):
            contents = self.gallery._contents()
            form.check(contents.templates, "templates of the gallery")
            form.check_network(contents.network, "the gallery", "the embedder")
            people = gallery_files(contents._replace(network=form.digest), _GALLERY)
            extra = {name: b"".join(parts) for name, parts in people.items()}
        stated: dict[str, Any] = {
            "version": 1,
            "align": self._as_cropped("align"),
            "min_face_score": self._as_cropped("min_face_score"),
            "verifier": {name: _plain(getattr(self.verifier, name), name) for name in _PARAMETERS},
            "fitted": bool(learned),
            "gallery": bool(extra),
        }
        if (cohort := self.verifier._cohort) is not None:
            extra[_COHORT] = file = tensor_file("cohort", cohort.descriptors)
            stated["version"] = BUNDLE_VERSION
            stated["cohort"] = {"sha256": digest_of([file]), "bytes": len(file)}
            # Not where thresholds of distances as they are would be looked for.
            stated["calibration"] = manifest.pop("calibration")
        manifest.pop("crops", None)
        manifest["bundle"] = stated
        files = artifact_files(artifact.model, manifest, extra)
        # What could not be loaded, or not decide, must not replace what can.
        written: Any = parse_json(files[MANIFEST], MANIFEST)
        strangers = None if cohort is None else cohort.descriptors
        again = Artifact(artifact.model, written)
        _estimators(again, strangers, "the bundle", None)
        return files

    def _as_cropped(self, name: str) -> Any:
        """A parameter of the embedder; in place of "auto" what its own weights make of it."""
        value = _plain(getattr(self.embedder, name), name)
        return bundled(self.embedder.artifact, name) if value == "auto" else value

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_jobs: int | None = None) -> VerificationBundle:
        """Read a bundle and check the sha256 of every file.

        Parameters
        ----------
        path : path
            Folder or zip file that ``save`` wrote.
        n_jobs : int, default=None
            Threads of embedder, verifier and gallery. None means one unless in a
            ``joblib.parallel_config``, -1 all processors.

        Returns
        -------
        VerificationBundle
            Its gallery is empty if none was saved.

        Raises
        ------
        FileNotFoundError
            If there is no such bundle, or a file of its gallery is not in the folder.
        ValueError
            If it is none, a newer sfpose wrote it, a file was changed, it is for another
            distance than this library computes, or it has no threshold to decide by.
        """
        artifact, contents, cohort = read_whole(path, _read)
        # Other weights may have this path later, and a folder may be called "default".
        weights = os.path.abspath(path)
        embedder, verifier = _estimators(artifact, cohort, weights, n_jobs)
        gallery = TemplateGallery(n_jobs=n_jobs)
        gallery._form = form = DescriptorForm.of_artifact(artifact, weights)
        gallery._network = form.digest
        if contents is not None:
            gallery.add(contents.ids, contents.templates, counts=contents.counts)
        return cls(embedder, verifier, gallery)


def _estimators(
    artifact: Artifact, cohort: NDArray[np.float32] | None, weights: str, n_jobs: int | None
) -> tuple[FaceEmbedder, TemplateVerifier]:
    """Embedder and verifier as the manifest of a bundle describes them."""
    form = DescriptorForm.of_artifact(artifact, weights)
    stated: Any = artifact.manifest["bundle"]
    embedder = FaceEmbedder(weights, n_jobs=n_jobs)
    embedder.artifact_ = artifact
    verifier = TemplateVerifier(weights=weights, n_jobs=n_jobs)
    verifier._loaded = weights, artifact.manifest
    try:
        # All is checked now, and not at the first photo; older bundles have no score.
        score = stated.get("min_face_score", "auto")
        embedder.set_params(align=stated["align"], min_face_score=score)
        settings = {name: stated["verifier"][name] for name in _PARAMETERS}
        if settings["template_sizes"] is not None:
            settings["template_sizes"] = [tuple(pair) for pair in settings["template_sizes"]]
        verifier.set_params(**settings)
        _check_parameters(embedder, verifier, artifact)
        if type(stated["fitted"]) is not bool:
            raise ValueError(f"fitted must be true or false; got {stated['fitted']!r}")
        if stated["fitted"]:
            if cohort is None:
                known, strangers = from_conditions(artifact.manifest), None
            else:
                known = from_conditions(stated, least=-math.inf)
                strangers = Cohort(cohort, form)
            _check_rates(known.values(), verifier.target_fmr)
            verifier._learned(known, form, strangers)
        verifier.decision_rule()
    except (KeyError, TypeError) as error:
        raise ValueError(f"the manifest must describe a bundle; it does not: {error}") from error
    return embedder, verifier


def _check_parameters(
    embedder: FaceEmbedder, verifier: TemplateVerifier, artifact: Artifact
) -> None:
    crop_kind(embedder.align, artifact)
    check_min_face_score(embedder.min_face_score)
    verifier._checked()


def _plain(value: Any, name: str) -> Any:
    """A parameter as JSON can hold it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each, name) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"a bundle keeps numbers, texts and lists of them; got {name}={value!r}")


def _check_rates(known: Iterable[Calibrated], target: float) -> None:
    """Refuse thresholds for other rates than the verifier states."""
    for calibrated in known:
        rates = [threshold.target_fmr for threshold in calibrated.thresholds]
        if rates != [target]:
            raise ValueError(
                f"thresholds of a bundle must be for its verifier's target_fmr, {target}; "
                f"got some for {rates}"
            )


def _read(path: Path) -> tuple[Artifact, GalleryContents | None, NDArray[np.float32] | None]:
    """The artifact, the gallery and the cohort of a bundle, as far as it has them."""
    artifact = read_artifact(path)
    stated: Any = artifact.manifest.get("bundle")
    if not isinstance(stated, dict):
        raise ValueError(f"{str(path)!r} must be a bundle; it holds weights alone")
    version = stated.get("version")
    if type(version) is not int or not 1 <= version <= BUNDLE_VERSION:
        raise ValueError(
            f"the bundle's version must be 1 to {BUNDLE_VERSION}; got {version!r}: "
            "a newer sfpose wrote this"
        )
    gallery, cohort = stated.get("gallery"), stated.get("cohort")
    if type(gallery) is not bool or not isinstance(cohort, dict | None):
        raise ValueError(
            "a bundle must say of its gallery whether there is one, and of its cohort the file; "
            f"got {gallery!r} and {cohort!r}"
        )
    wanted = {**(_GALLERY_FILES if gallery else {}), **(_COHORT_FILES if cohort else {})}
    with contextlib.ExitStack() as stack:
        folder = path
        if wanted and not path.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name, most in wanted.items():
                unpack_entry(path, name, folder / name, most)
        contents = strangers = None
        # Memory maps must not outlive the folder.
        if gallery:
            contents = read_gallery(folder, True, _GALLERY)
            form = DescriptorForm.of_artifact(artifact, str(path))
            form.check_network(contents.network, "the gallery", "the embedder")
            contents = contents._replace(templates=np.array(contents.templates))
        if cohort:
            check_digest(folder / _COHORT, {_COHORT: cohort})
            strangers = np.array(map_tensor(folder / _COHORT, "cohort"))
    return artifact, contents, strangers
