"""Numbers of images that lie: each decides which threshold a template has."""

import hashlib
import json

import numpy as np
import pytest

from sfpose import TemplateGallery


@pytest.fixture
def folder(tmp_path):
    gallery = TemplateGallery()
    templates = np.random.default_rng(0).random((2, 6), dtype=np.float32)
    gallery.add(["ann", "bo"], templates, counts=[5, 1])
    return gallery.save(tmp_path / "people")


def _restate(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_counts_that_were_changed_are_refused(folder):
    (folder / "counts.json").write_text("[1, 1]")
    with pytest.raises(ValueError, match=r"counts\.json must have the sha256"):
        TemplateGallery.load(folder)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "counts",
    [[5], [5, 1, 1], [], [5, 0], [5, -1], [5, 2**62], [5, 1.0], [5, True], [5, "1"], {"ann": 5}, 5],
)
def test_counts_that_do_not_fit_are_refused(folder, counts, verify):
    """Changed by someone who knows to change the digest too."""
    data = json.dumps(counts).encode()
    (folder / "counts.json").write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["counts.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _restate(folder, files=files)
    with pytest.raises(ValueError, match=r"counts\.json must (hold|be)"):
        TemplateGallery.load(folder, verify=verify)


@pytest.mark.parametrize("version", [True, 1.0, "2", 0, -1, 3, None, [2]])
def test_formats_that_are_none_are_refused(folder, version):
    _restate(folder, format_version=version)
    with pytest.raises(ValueError, match="format_version must be 1 to 2; got"):
        TemplateGallery.load(folder)
