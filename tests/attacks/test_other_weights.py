"""A threshold refuses what it was not calibrated for, instead of answering wrongly."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.decision import DescriptorForm
from sfpose.runtime.artifact import DISTANCE, read_artifact, write_artifact


def _people(normalised=True, width=256, people=40, images=5):
    rng = np.random.default_rng(0)
    shapes = np.repeat(rng.gamma(1.0, 1.0, (people, width)), images, axis=0)
    rows = rng.gamma(shapes * 9)
    if normalised:
        rows /= rows.sum(axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(people), images)


@pytest.fixture
def own(tmp_path):
    """The shipped artifact under a path of its own, which the tests may change."""
    artifact = read_artifact("default")
    return write_artifact(tmp_path / "weights", artifact.model, artifact.manifest)


def _retrained(folder):
    """Other weights under the same path, as after an upgrade."""
    artifact = read_artifact(folder)
    write_artifact(folder, artifact.model + b"\0", artifact.manifest, overwrite=True)


def _decisions(verifier, a, b):
    return [
        lambda: verifier.verify(a[0], b[0]),
        lambda: verifier.predict(a, b),
        lambda: verifier.decision_function(a, b),
        lambda: verifier.log_likelihood_ratio(a, b),
    ]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("factor", "width", "message"),
    [
        (2.0, 256, "must sum to 1 in each row"),
        (1.01, 256, "must sum to 1 in each row"),
        (1.0, 255, "must have 256 values a row"),
        (1.0, 128, "must have 256 values a row"),
    ],
)
def test_another_normalization_or_width_is_refused_on_either_side(fitted, factor, width, message):
    rows, subjects = _people()
    verifier = TemplateVerifier(0.01)
    if fitted:
        verifier.fit(rows, subjects)
    other = rows[:, :width] * np.float32(factor)
    for decide in _decisions(verifier, rows[:3], rows[3:6]):
        decide()
    for sides in ((rows[:3], other[:3]), (other[:3], rows[:3]), (other[:3], other[:3])):
        for decide in _decisions(verifier, *sides):
            with pytest.raises(ValueError, match=message):
                decide()


def test_a_fit_on_raw_descriptors_refuses_normalised_ones():
    raw, subjects = _people(normalised=False)
    verifier = TemplateVerifier(0.01).fit(raw, subjects)
    verifier.verify(raw[0], raw[1])
    unit = raw / raw.sum(axis=1, keepdims=True)
    with pytest.raises(ValueError, match="template must not be normalised"):
        verifier.verify(unit[0], unit[1])


def test_templates_of_normalised_descriptors_are_normalised_still():
    rows, _ = _people()
    assert TemplateVerifier(0.01).verify(rows[:5], rows[5:10]).distance >= 0


@pytest.mark.parametrize("target", [0.1, 0.01, 0.001, 0.0001])
@pytest.mark.parametrize("times", [2, 3, 5, 10])
def test_an_image_given_several_times_is_taken_no_more_easily(target, times):
    """Thresholds of several images are for means, which it is not: they must be stricter."""
    rows, _ = _people()
    verifier = TemplateVerifier(target)
    once = verifier.verify(rows[0], rows[1])
    again = verifier.verify(np.repeat(rows[:1], times, axis=0), rows[1])
    assert again.distance == pytest.approx(once.distance, rel=1e-6)
    assert again.threshold < once.threshold
    try:
        both = verifier.verify(*(np.repeat(row[None], times, axis=0) for row in rows[:2]))
    except ValueError as error:
        assert "calibrated for" in str(error)  # noqa: PT017
    else:
        assert both.threshold < again.threshold


@pytest.mark.parametrize(
    "distance",
    [{**DISTANCE, "factor": 0.5}, {**DISTANCE, "factor": 2.0}, {"name": "cosine"}, None],
)
def test_weights_for_another_distance_are_refused(own, distance):
    manifest = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps({**manifest, "distance": distance}))
    rows, subjects = _people()
    for decide in (
        lambda: TemplateVerifier(0.01, weights=own).verify(rows[0], rows[1]),
        lambda: TemplateVerifier(0.01, weights=own).fit(rows, subjects),
        lambda: TemplateGallery(weights=own),
    ):
        with pytest.raises(ValueError, match=r"with factor 1\.0"):
            decide()


def test_a_fit_does_not_outlive_its_weights(own):
    rows, subjects = _people()
    verifier = TemplateVerifier(0.01, weights=own).fit(rows, subjects)
    stored = pickle.dumps(verifier)
    assert pickle.loads(stored).verify(rows[0], rows[1]).distance >= 0
    _retrained(own)
    for decide in _decisions(pickle.loads(stored), rows[:2], rows[2:4]):
        with pytest.raises(ValueError, match="the threshold must be of the network of weights"):
            decide()
    assert verifier.fit(rows, subjects).verify(rows[0], rows[1]).distance >= 0


def test_a_fit_on_what_these_weights_cannot_have_made_is_bound_to_its_form_alone(own):
    rows, subjects = _people(normalised=False, width=60)
    verifier = TemplateVerifier(0.01, weights=own).fit(rows, subjects)
    _retrained(own)
    assert verifier.verify(rows[0], rows[1]).distance >= 0


def _in_a_bundle(own, path, fitted):
    rows, subjects = _people()
    verifier = TemplateVerifier(0.01, weights=own)
    if fitted:
        verifier.fit(rows, subjects)
    return VerificationBundle(FaceEmbedder(own), verifier).save(path)


@pytest.mark.parametrize("name", ["door", "door.zip"])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_verifier_out_of_a_bundle_refuses_what_it_is_not_for(own, tmp_path, fitted, name):
    path = _in_a_bundle(own, tmp_path / name, fitted)
    verifier = VerificationBundle.load(path).verifier
    rows, _ = _people()
    for decide in _decisions(verifier, rows[:3], rows[3:6]):
        decide()
    for other, message in (
        (rows * np.float32(2), "must sum to 1 in each row"),
        (rows[:, :255], "must have 256 values a row"),
    ):
        for sides in ((rows[:3], other[:3]), (other[:3], rows[:3]), (other[:3], other[:3])):
            for decide in _decisions(verifier, *sides):
                with pytest.raises(ValueError, match=message):
                    decide()


def _calibrated(folder, add):
    """The weights of a folder with thresholds that are larger by so much."""
    artifact = read_artifact(folder)
    manifest = json.loads(json.dumps(dict(artifact.manifest)))
    for entry in manifest["calibration"]["conditions"]:
        for stated in entry["thresholds"]:
            stated["threshold"] += add
    write_artifact(folder, artifact.model, manifest, overwrite=True)


@pytest.mark.parametrize("change", ["removed", "replaced", "gone elsewhere", "pickled"])
@pytest.mark.parametrize("name", ["door", "door.zip", "default"])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_bundle_that_was_loaded_decides_as_it_was_loaded(
    own, tmp_path, monkeypatch, fitted, name, change
):
    """It is one thing in memory, whatever becomes of its folder."""
    monkeypatch.chdir(tmp_path)
    _calibrated(own, 1.0)
    path = _in_a_bundle(own, name, fitted)
    verifier = VerificationBundle.load(name).verifier
    rows, _ = _people()
    expected = [decide() for decide in _decisions(verifier, rows[:2], rows[2:4])]
    shipped = TemplateVerifier(0.01).verify(rows[0], rows[2]).threshold
    if not fitted:
        assert expected[0].threshold == pytest.approx(shipped + 1)
    if change == "removed":
        (shutil.rmtree if path.is_dir() else os.remove)(path)
    elif change == "replaced":
        _calibrated(own, 1.0)
        VerificationBundle(FaceEmbedder(own), TemplateVerifier(0.1, weights=own)).save(
            path, overwrite=True
        )
    elif change == "gone elsewhere":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
    else:
        (shutil.rmtree if path.is_dir() else os.remove)(path)
        verifier = pickle.loads(pickle.dumps(verifier))
    again = [decide() for decide in _decisions(verifier, rows[:2], rows[2:4])]
    for one, other in zip(again, expected, strict=True):
        np.testing.assert_equal(one, other)
    rows, subjects = _people()
    assert verifier.fit(rows, subjects).verify(rows[0], rows[1]).distance >= 0


def test_other_weights_for_a_verifier_out_of_a_bundle_are_read(own, tmp_path):
    path = _in_a_bundle(own, tmp_path / "door", False)
    verifier = VerificationBundle.load(path).verifier
    rows, _ = _people()
    before = verifier.verify(rows[0], rows[1]).threshold
    _calibrated(own, 1.0)
    assert verifier.verify(rows[0], rows[1]).threshold == before
    verifier.set_params(weights=own)
    assert verifier.verify(rows[0], rows[1]).threshold == pytest.approx(before + 1)


def test_a_bundle_for_another_distance_is_not_loaded(own, tmp_path):
    path = _in_a_bundle(own, tmp_path / "door", True)
    manifest = json.loads((path / "manifest.json").read_text())
    changed = {**manifest, "distance": {**DISTANCE, "factor": 0.5}}
    (path / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"with factor 1\.0"):
        VerificationBundle.load(path)


def test_a_gallery_does_not_outlive_its_weights(own, tmp_path):
    rows, _ = _people()
    gallery = TemplateGallery(weights=own)
    gallery.add(range(3), rows[:3])
    folder = gallery.save(tmp_path / "people")
    digest = read_artifact(own).digest
    assert json.loads((folder / "manifest.json").read_text())["network"] == digest
    assert TemplateGallery.load(folder, weights=own).search(rows[:1]).ids[0, 0] == 0
    # What a gallery says of its network stays when it is loaded and saved again.
    TemplateGallery.load(folder).save(folder, overwrite=True)
    _retrained(own)
    with pytest.raises(ValueError, match=r"the gallery .* must be of the network of weights"):
        TemplateGallery.load(folder, weights=own)
    assert TemplateGallery.load(folder, weights="default").weights == "default"


def test_a_gallery_with_weights_refuses_what_they_do_not_make(tmp_path):
    rows, _ = _people()
    gallery = TemplateGallery(weights="default")
    gallery.add([0, 1], rows[:2])
    for change in (
        lambda: gallery.add([2], rows[2:3] * 2),
        lambda: gallery.update([1], rows[2:3] * 2),
        lambda: gallery.search(rows[:1] * 2),
        lambda: gallery.search_within(rows[:1] * 2, 0.5),
    ):
        with pytest.raises(ValueError, match="must sum to 1 in each row"):
            change()
    assert list(gallery) == [0, 1]
    loose = TemplateGallery()
    loose.add([0], rows[:1] * 2)
    folder = loose.save(tmp_path / "loose")
    with pytest.raises(ValueError, match="templates must sum to 1"):
        TemplateGallery.load(folder, weights="default")
    assert len(TemplateGallery.load(folder)) == 1


def test_the_form_of_what_ships_is_that_of_its_descriptors(photos):
    form = DescriptorForm.of_weights("default")
    assert form == (256, "l1", read_artifact("default").digest)
    form.check(FaceEmbedder().transform(photos), "descriptors")


@pytest.mark.parametrize("weights", ["default", "small", "plain", "plain-int8"])
def test_pictures_of_no_face_are_failures_to_acquire(photos, weights):
    """Thousands of pictures of more kinds: benchmarks/non_faces.py."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 90, 90, 3), dtype=np.uint8)
    grey = np.clip(rng.normal(128, 25, (20, 90, 90, 1)), 0, 255).astype(np.uint8).repeat(3, 3)
    blank = [np.full((90, 90, 3), value, np.uint8) for value in range(0, 256, 25)]
    upside_down = [photo[::-1] for photo in photos]
    embedder = FaceEmbedder(weights)
    assert np.isnan(embedder.transform([*noise, *grey, *blank, *upside_down])).all()
    assert np.isfinite(embedder.transform(photos)).all()
