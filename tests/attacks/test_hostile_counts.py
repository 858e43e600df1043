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
    [
        [5],
        [5, 1, 1],
        [],
        [5, 0],
        [5, -1],
        [5, 10**12 + 1],
        [5, 2**62],
        [5, 1.0],
        [5, True],
        [5, "1"],
        {"ann": 5},
        5,
    ],
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


@pytest.mark.parametrize(
    "counts",
    [[5, 10**12 + 1], [2**62, 1], np.array([2**63 + 5, 1], np.uint64), [-1, 1], [2**64, 1]],
    ids=str,
)
def test_counts_that_could_not_be_loaded_are_not_taken(counts):
    """Those of uint64 would wrap around, and sums of large ones too."""
    gallery = TemplateGallery()
    with pytest.raises(ValueError, match="counts must be whole numbers above 0"):
        gallery.add(["ann", "bo"], np.ones((2, 6)), counts=counts)
    assert len(gallery) == 0


def test_the_largest_counts_are_saved_and_loaded(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], np.ones((2, 6)), counts=[10**12, 1])
    again = TemplateGallery.load(gallery.save(tmp_path / "people"))
    assert again.counts.tolist() == [10**12, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (["ann"], "ids must be str or int"),
        ({}, "ids must be str or int"),
        (10**100, "ids must have at most 100 digits"),
        (-(10**5000), "ids must have at most 100 digits"),
        ("a" * 4097, "ids must have at most 4096 characters; got 4097 that begin with 'aaa"),
    ],
    ids=["list", "dict", "101 digits", "5001 digits", "long text"],
)
def test_ids_that_could_not_be_loaded_are_not_taken(name, message):
    with pytest.raises(ValueError, match=message):
        TemplateGallery().add([name], np.ones((1, 6)))


def test_the_longest_ids_are_saved_and_loaded(tmp_path):
    ids = [10**100 - 1, -(10**100) + 1, "\U0001f600" * 4096, "\0" + "a" * 4095]
    gallery = TemplateGallery()
    gallery.add(ids, np.ones((4, 6)))
    assert list(TemplateGallery.load(gallery.save(tmp_path / "people"))) == ids
