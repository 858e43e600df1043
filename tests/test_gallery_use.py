"""Galleries as they are used: limits to the last digit, copies, and out of a bundle."""

import json
import shutil

import numpy as np
import pytest

import sfpose.gallery
from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle


@pytest.mark.parametrize("copies", [1, 40])
def test_a_radius_counts_to_the_last_digit_of_float64(copies):
    """Distances are float32; a radius just below one would be rounded onto it."""
    distance = np.float32(0.125)
    gallery = TemplateGallery()
    gallery.add(["ann"], [[0.0, 0.0]])
    probes = np.tile(np.array([[distance, 0]], np.float32), (copies, 1))
    for radius, found in [(np.nextafter(0.125, 0), []), (0.125, ["ann"])]:
        results = gallery.search_within(probes, radius)
        assert [result.ids.tolist() for result in results] == [found] * copies


def test_counts_that_are_changed_outside_stay_as_they_were_inside():
    gallery = TemplateGallery()
    gallery.add(["ann"], [[1.0, 2.0]], counts=[3])
    gallery.counts[0] = 9
    assert gallery.counts.tolist() == [3]


@pytest.mark.parametrize("search", ["search", "search_within"])
def test_who_is_found_is_right_though_others_are_removed_meanwhile(search, monkeypatch):
    templates = np.eye(5, dtype=np.float32)
    gallery = TemplateGallery()
    gallery.add(range(5), templates)
    for name in ("nearest", "within"):
        found = getattr(sfpose.gallery, name)

        def later(*given, found=found):
            gallery.remove([0, 2])
            return found(*given)

        monkeypatch.setattr(sfpose.gallery, name, later)
    told = gallery.search(templates[3:4]) if search == "search" else None
    (told,) = gallery.search_within(templates[3:4], 0.1) if told is None else [told]
    assert told.ids.ravel().tolist() == [3]
    assert list(gallery) == [1, 3, 4]


def test_templates_of_an_unknown_network_stay_so(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann"], np.full((1, 256), 1 / 256))
    path = gallery.save(tmp_path / "door")
    with TemplateGallery.changing(path, weights="default") as opened:
        opened.add(["bo"], np.full((1, 256), 1 / 256))
    assert json.loads((path / "manifest.json").read_text())["network"] is None
    assert len(TemplateGallery.load(path, weights="small")) == 2
    with TemplateGallery.changing(tmp_path / "new", weights="default"):
        pass
    stated = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert stated["network"] == FaceEmbedder().artifact.digest


@pytest.fixture
def bundle():
    gallery = TemplateGallery()
    gallery.add(["ann"], np.full((1, 256), 1 / 256))
    return VerificationBundle(FaceEmbedder("small"), TemplateVerifier(weights="small"), gallery)


@pytest.mark.parametrize("people", [0, 1])
def test_people_out_of_a_bundle_stay_with_its_network(bundle, tmp_path, people):
    if not people:
        bundle.gallery = None
    loaded = VerificationBundle.load(bundle.save(tmp_path / "door"))
    assert len(loaded.gallery) == people
    loaded.gallery.add(["bo"], np.full((1, 256), 1 / 256))
    folder = loaded.gallery.save(tmp_path / "people")
    stated = json.loads((folder / "manifest.json").read_text())
    assert stated["network"] == bundle.embedder.artifact.digest
    # The default network gives 256 values that sum to 1 as well.
    with pytest.raises(ValueError, match="the gallery must be of the network of the embedder"):
        VerificationBundle(FaceEmbedder(), TemplateVerifier(), loaded.gallery).save(tmp_path / "x")


def test_a_loaded_bundle_needs_its_folder_no_more(bundle, portrait, tmp_path):
    loaded = VerificationBundle.load(bundle.save(tmp_path / "door"))
    shutil.rmtree(tmp_path / "door")
    row = loaded.embedder.transform([portrait])
    np.testing.assert_array_equal(row, bundle.embedder.transform([portrait]))
    assert loaded.verifier.verify(row, row) == bundle.verifier.verify(row, row)
    assert loaded.gallery.search(row).ids.tolist() == [["ann"]]
