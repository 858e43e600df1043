"""What a bundle keeps of how its parts are set, and what it could not decide by."""

import json

import numpy as np
import pytest
from test_bundle import descriptors_of

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.runtime.artifact import read_artifact, write_artifact


def test_without_a_fit_the_shipped_calibration_stays(tmp_path):
    bundle = VerificationBundle(FaceEmbedder(), TemplateVerifier(target_fmr=1e-3))
    again = VerificationBundle.load(bundle.save(tmp_path / "door"))
    assert not hasattr(again.verifier, "threshold_")
    assert len(again.gallery) == 0
    descriptors, _ = descriptors_of(2)
    expected = TemplateVerifier().verify(descriptors[0], descriptors[1])
    assert again.verifier.verify(descriptors[0], descriptors[1]) == expected


@pytest.mark.parametrize("score", [0, 0.5, "auto"])
def test_what_counts_as_a_face_stays_with_the_bundle(tmp_path, nothing, score):
    embedder = FaceEmbedder(min_face_score=score)
    path = VerificationBundle(embedder, TemplateVerifier()).save(tmp_path / "door")
    again = VerificationBundle.load(path).embedder
    assert again.min_face_score == score
    np.testing.assert_array_equal(again.transform([nothing]), embedder.transform([nothing]))
    manifest = json.loads((path / "manifest.json").read_text())
    for bad in (2, "high", [0.5]):
        manifest["bundle"]["min_face_score"] = bad
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"min_face_score must be|must describe a bundle"):
            VerificationBundle.load(path)


@pytest.mark.parametrize("calibration", [None, {"conditions": []}, {"conditions": "x"}, 5])
def test_a_bundle_that_cannot_decide_is_refused_when_it_is_loaded(tmp_path, calibration):
    path = VerificationBundle(FaceEmbedder(), TemplateVerifier()).save(tmp_path / "door")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["calibration"] = calibration
    if calibration is None:
        del manifest["calibration"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"calibrat|must describe a bundle"):
        VerificationBundle.load(path)


@pytest.mark.parametrize("name", ["door", "door.zip"])
@pytest.mark.parametrize(
    ("embedding", "verifying", "message"),
    [
        ({}, {"groups": "sizes"}, "groups must be of"),
        ({}, {"groups": 5}, "groups must be of"),
        ({}, {"groups": [["size"]]}, "groups must be of"),
        ({}, {"target_fmr": 0}, "target_fmr must be a rate, 0 < target_fmr < 1; got 0"),
        ({}, {"target_fmr": np.nan}, "target_fmr must be a rate, .*; got nan"),
        ({}, {"target_fmr": "0.1"}, "target_fmr must be a rate, .*; got '0.1'"),
        ({}, {"target_fmr": 0.5}, "before fit, target_fmr must be one that the weights were"),
        ({}, {"template_sizes": 5}, "template_sizes must be one or more pairs"),
        ({}, {"template_sizes": [1]}, "template_sizes must be one or more pairs"),
        ({}, {"max_pairs": 0}, "max_pairs must be a whole number, at least 1"),
        ({}, {"random_state": None}, "random_state must be a whole number, at least 0"),
        ({"align": "bogus"}, {}, "align must be True, False, 'auto' or 'done'; got 'bogus'"),
        ({"align": None}, {}, "align must be True, False, 'auto' or 'done'; got None"),
        ({"min_face_score": 7}, {}, "min_face_score must be 0 to 1 or 'auto'; got 7"),
        ({"min_face_score": np.nan}, {}, "min_face_score must be 0 to 1 or 'auto'; got nan"),
    ],
)
def test_what_could_not_be_loaded_or_decide_replaces_no_bundle(
    tmp_path, name, embedding, verifying, message
):
    path = VerificationBundle(FaceEmbedder(), TemplateVerifier(0.01)).save(tmp_path / name)
    embedder = FaceEmbedder(**embedding)
    bad = VerificationBundle(embedder, TemplateVerifier(0.01).set_params(**verifying))
    for place, overwrite in ((path, True), (tmp_path / f"new-{name}", False)):
        with pytest.raises(ValueError, match=message):
            bad.save(place, overwrite=overwrite)
    assert VerificationBundle.load(path).verifier.target_fmr == 0.01
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("sizes", "groups must be of"),
        ("pose", "must be fitted for its groups, 'pose'; it was for .'size'"),
        (None, "must be fitted for its groups, None; it was for .'size'"),
    ],
)
def test_a_fitted_verifier_of_other_groups_by_now_is_refused(tmp_path, groups, message):
    """It decides by those it was fitted for, which a bundle would forget."""
    verifier = TemplateVerifier(0.01).fit(*descriptors_of()).set_params(groups=groups)
    with pytest.raises(ValueError, match=message):
        VerificationBundle(FaceEmbedder(), verifier).save(tmp_path / "door")
    assert list(tmp_path.iterdir()) == []


def _weights(folder, add=0.0, **changes):
    """The shipped weights with other thresholds, as ``sfpose calibrate`` writes them."""
    shipped = read_artifact("default")
    manifest = json.loads(json.dumps({**shipped.manifest, **changes}))
    for entry in manifest["calibration"]["conditions"]:
        for stated in entry["thresholds"]:
            stated["threshold"] += add
    return write_artifact(folder, shipped.model, manifest)


@pytest.mark.parametrize("embedding", ["default", "own"])
@pytest.mark.parametrize("verifying", ["default", "own"])
@pytest.mark.parametrize("name", ["door", "door.zip"])
def test_the_calibration_that_a_verifier_decides_by_stays(tmp_path, embedding, verifying, name):
    own = _weights(tmp_path / "own", add=0.25)
    embedder, verifier = (
        kind(weights=own if weights == "own" else weights)
        for kind, weights in ((FaceEmbedder, embedding), (TemplateVerifier, verifying))
    )
    rows, _ = descriptors_of(2)
    sides = [(rows[:count], rows[4]) for count in (1, 3)]
    before = [verifier.verify(*pair) for pair in sides]
    path = VerificationBundle(embedder, verifier).save(tmp_path / name)
    loaded = VerificationBundle.load(path)
    assert [loaded.verifier.verify(*pair) for pair in sides] == before
    assert TemplateVerifier(weights=path).verify(*sides[0]) == before[0]
    again = VerificationBundle.load(loaded.save(tmp_path / f"again-{name}"))
    assert [again.verifier.verify(*pair) for pair in sides] == before


def test_a_verifier_of_the_same_network_used_otherwise_is_refused(tmp_path):
    descriptor = {**read_artifact("default").manifest["descriptor"], "less_mean": 0.1}
    other = _weights(tmp_path / "other", descriptor=descriptor)
    bundle = VerificationBundle(FaceEmbedder(), TemplateVerifier(weights=other))
    with pytest.raises(ValueError, match="for descriptors as the embedder makes them"):
        bundle.save(tmp_path / "door")


@pytest.mark.parametrize("align", [False, "auto"])
def test_weights_of_a_bundle_are_used_as_its_embedder_used_them(align, photos, tmp_path):
    embedder = FaceEmbedder(align=align)
    path = VerificationBundle(embedder, TemplateVerifier()).save(tmp_path / "door")
    expected = embedder.transform(photos[:1])
    np.testing.assert_array_equal(FaceEmbedder(path).transform(photos[:1]), expected)
    own = FaceEmbedder(path, align=True).transform(photos[:1])
    assert np.array_equal(own, expected) == (align == "auto")


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    verifier = TemplateVerifier(np.float64(1e-3), random_state=np.int64(3), max_pairs=np.int32(9))
    sizes = np.array([[1, 1], [5, 1]])
    verifier.set_params(template_sizes=sizes)
    embedder = FaceEmbedder(min_face_score=np.float32(0.5))
    gallery = TemplateGallery()
    rows, _ = descriptors_of(1)
    gallery.add(np.array(["ann", "bo"]), rows[:2])
    gallery.add(list(np.array([7, 8])), rows[2:])
    bundle = VerificationBundle(embedder, verifier, gallery)
    again = VerificationBundle.load(bundle.save(tmp_path / "door"))
    assert (again.verifier.random_state, again.verifier.max_pairs) == (3, 9)
    assert again.verifier.template_sizes == [(1, 1), (5, 1)]
    assert again.embedder.min_face_score == 0.5
    assert list(again.gallery) == ["ann", "bo", 7, 8]


@pytest.mark.parametrize("settings", [{"align": False}, {"align": False, "min_face_score": 0}])
def test_how_a_bundle_crops_stays_with_its_weights(tmp_path, portrait, settings):
    made = VerificationBundle(FaceEmbedder(**settings), TemplateVerifier())
    path = made.save(tmp_path / "door")
    expected = FaceEmbedder(**settings).transform([portrait])
    bundled = FaceEmbedder(path)
    artifact = read_artifact(path)
    written = write_artifact(tmp_path / "mine", artifact.model, artifact.manifest)
    again = VerificationBundle(bundled, TemplateVerifier(weights=path)).save(tmp_path / "again")
    of_saved = VerificationBundle(FaceEmbedder(written), TemplateVerifier(weights=written))
    for place in (bundled.save(tmp_path / "saved"), written, again, of_saved.save(tmp_path / "b")):
        np.testing.assert_array_equal(FaceEmbedder(place).transform([portrait]), expected)
    for place in (again, tmp_path / "b"):
        assert VerificationBundle.load(place).embedder.align is False
        assert "crops" not in json.loads((place / "manifest.json").read_text())


def test_weights_of_a_bundle_that_crops_as_usual_state_nothing(tmp_path):
    path = VerificationBundle(FaceEmbedder(), TemplateVerifier()).save(tmp_path / "door")
    saved = FaceEmbedder(path).save(tmp_path / "saved")
    assert not {"crops", "bundle"} & set(json.loads((saved / "manifest.json").read_text()))


@pytest.mark.parametrize("crops", [{"align": "bogus"}, {"min_face_score": 7}])
def test_weights_that_state_crops_that_nobody_makes_are_refused(tmp_path, portrait, crops):
    shipped = read_artifact("small")
    path = write_artifact(tmp_path / "mine", shipped.model, {**shipped.manifest, "crops": crops})
    with pytest.raises(ValueError, match=r"(align|min_face_score) must be"):
        FaceEmbedder(path).transform([portrait])
