"""Galleries as they are used: limits to the last digit, copies, and out of a bundle."""

import json
import shutil

import numpy as np
import pytest

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
