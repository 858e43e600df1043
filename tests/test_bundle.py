"""A bundle goes out whole and comes back the same; others can read it."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact, write_artifact

STORED = Path(__file__).parent / "data"


def _descriptors(people=40, width=256):
    rng = np.random.default_rng(0)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (people, width)), 4, axis=0) * 5 + 0.1)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(people), 4)


@pytest.fixture(scope="module")
def bundle():
    descriptors, subjects = _descriptors()
    gallery = TemplateGallery()
    gallery.add(["ann", 7], descriptors[:2], counts=[4, 1])
    verifier = TemplateVerifier(target_fmr=0.01).fit(descriptors, subjects)
    return VerificationBundle(FaceEmbedder(), verifier, gallery)


@pytest.mark.filterwarnings("ignore:distances must be smaller")
def test_a_fit_of_other_rows_labels_comes_back_too(tmp_path):
    """Its ratios rise with the distance: what fit warns of and saves must load."""
    rows, subjects = _descriptors()
    shuffled = np.random.default_rng(0).permutation(subjects)
    noise = np.random.default_rng(4).permuted(rows, axis=1)
    verifier = TemplateVerifier(target_fmr=0.05).fit(noise, shuffled)
    assert verifier.decision_rule().slope > 0
    path = VerificationBundle(FaceEmbedder(), verifier).save(tmp_path / "door")
    assert VerificationBundle.load(path).verifier.decision_rule() == verifier.decision_rule()


@pytest.mark.parametrize("name", ["door", "door.zip"])
def test_a_bundle_comes_back_as_it_went(bundle, photos, tmp_path, name):
    path = bundle.save(tmp_path / name)
    again = VerificationBundle.load(path)
    np.testing.assert_array_equal(
        again.embedder.transform(photos), bundle.embedder.transform(photos)
    )
    assert again.verifier.threshold_ == bundle.verifier.threshold_
    assert again.verifier.calibration_ == bundle.verifier.calibration_
    assert again.verifier.calibrations_ == bundle.verifier.calibrations_
    assert len(again.verifier.calibrations_) > 1
    ours, theirs = bundle.verifier.get_params(), again.verifier.get_params()
    assert {**ours, "weights": 0} == {**theirs, "weights": 0}
    rows, _ = _descriptors()
    for template in (rows[0], rows[:3]):
        expected = bundle.verifier.verify(template, rows[3])
        assert again.verifier.verify(template, rows[3]) == expected
    assert list(again.gallery) == ["ann", 7]
    np.testing.assert_array_equal(again.gallery.templates, bundle.gallery.templates)
    assert again.gallery.counts.tolist() == [4, 1]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with pytest.raises(FileExistsError, match="must not exist"):
        bundle.save(path)
    bundle.save(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_others_can_read_it(bundle, photos, tmp_path):
    """Plain onnxruntime, plain safetensors, and the rest of the library."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="comes with the [train] extra")
    path = bundle.save(tmp_path / "door")
    session = onnxruntime.InferenceSession(path / "model.onnx")
    size = json.loads((path / "manifest.json").read_text())["input"]["size"]
    (rows,) = session.run(None, {"images": np.zeros((1, 3, size, size), np.float32)})
    assert rows.shape == (1, 256)
    tensors = safetensors.load_file(path / "templates.safetensors")
    np.testing.assert_array_equal(tensors["templates"], bundle.gallery.templates)
    assert json.loads((path / "ids.json").read_text()) == ["ann", 7]

    np.testing.assert_array_equal(
        FaceEmbedder(path).transform(photos), bundle.embedder.transform(photos)
    )
    descriptors, _ = _descriptors()
    result = TemplateVerifier(0.01, weights=path).verify(descriptors[0], descriptors[1])
    assert result.threshold == bundle.verifier.threshold_


def test_the_command_line_takes_a_bundle_as_weights(bundle, photos, tmp_path, capsys):
    from PIL import Image

    path = bundle.save(tmp_path / "door.zip")
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    photo = str(tmp_path / "a.png")
    arguments = ["verify", photo, photo, "--weights", str(path), "--target-fmr", "0.01", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == bundle.verifier.threshold_


def test_without_a_fit_the_shipped_calibration_stays(tmp_path):
    bundle = VerificationBundle(FaceEmbedder(), TemplateVerifier(target_fmr=1e-3))
    again = VerificationBundle.load(bundle.save(tmp_path / "door"))
    assert not hasattr(again.verifier, "threshold_")
    assert len(again.gallery) == 0
    descriptors, _ = _descriptors(2)
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


def test_parts_that_do_not_fit_together_are_refused_and_nothing_is_left(bundle, tmp_path):
    narrow, subjects = _descriptors(width=30)
    verifier = TemplateVerifier(target_fmr=0.01).fit(narrow, subjects)
    gallery = TemplateGallery()
    gallery.add(["ann"], narrow[:1])
    unsure = TemplateVerifier(target_fmr=0.01)
    unsure.margin_ = "learned"
    rows, people = _descriptors()
    raw = TemplateVerifier(target_fmr=0.01).fit(rows * 2, people)
    doubled = TemplateGallery()
    doubled.add(["ann"], rows[:1] * 2)
    small = TemplateVerifier(target_fmr=0.01, weights="small").fit(rows, people)
    other = TemplateGallery(weights="small")
    other.add(["ann"], rows[:1])
    changed = TemplateVerifier(target_fmr=0.01).fit(rows, people).set_params(target_fmr=0.5)
    drawing = TemplateVerifier(target_fmr=0.01, random_state=np.random.default_rng(0))
    elsewhere = TemplateVerifier(target_fmr=0.01, weights="small")
    for parts, message in [
        ((bundle.embedder, verifier), "fitted on descriptors of 256 values, .*got 30"),
        ((bundle.embedder, raw), "normalization 'l1', .*got 256, 'none'"),
        ((bundle.embedder, bundle.verifier, gallery), "gallery must have 256 values .*got 30"),
        ((bundle.embedder, bundle.verifier, doubled), "gallery must sum to 1 in each row"),
        ((bundle.embedder, unsure), r"cannot keep \['margin_'\]"),
        ((bundle.embedder, small), "verifier must be of the network of the embedder"),
        ((bundle.embedder, bundle.verifier, other), "gallery must be of the network of the"),
        ((bundle.embedder, changed), "for its verifier's target_fmr, 0.5; got some for .0.01."),
        ((bundle.embedder, drawing), "random_state must be a whole number, at least 0; got Gen"),
        ((bundle.embedder, elsewhere), "verifier must be of the network of the embedder"),
        ((FaceEmbedder("small"), TemplateVerifier(0.01)), "verifier must be of the network of"),
    ]:
        for name in ("door", "door.zip"):
            with pytest.raises(ValueError, match=message):
                VerificationBundle(*parts).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


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
    verifier = TemplateVerifier(0.01).fit(*_descriptors()).set_params(groups=groups)
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
    rows, _ = _descriptors(2)
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


def test_a_bundle_may_go_on_without_anybody_enrolled(bundle, tmp_path):
    path = bundle.save(tmp_path / "door")
    loaded = VerificationBundle.load(path)
    loaded.gallery.remove(list(loaded.gallery))
    loaded.save(path, overwrite=True)
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "model.onnx"]
    assert len(VerificationBundle.load(path).gallery) == 0


def test_a_folder_is_loaded_where_nothing_may_be_written(bundle, tmp_path, monkeypatch):
    paths = [bundle.save(tmp_path / name) for name in ("door", "door.zip")]

    def full(*_, **__):
        raise OSError("no space for temporary files")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert list(VerificationBundle.load(paths[0]).gallery) == ["ann", 7]
    with pytest.raises(OSError, match="no space for temporary files"):
        VerificationBundle.load(paths[1])


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
    rows, _ = _descriptors(1)
    gallery.add(np.array(["ann", "bo"]), rows[:2])
    gallery.add(list(np.array([7, 8])), rows[2:])
    bundle = VerificationBundle(embedder, verifier, gallery)
    again = VerificationBundle.load(bundle.save(tmp_path / "door"))
    assert (again.verifier.random_state, again.verifier.max_pairs) == (3, 9)
    assert again.verifier.template_sizes == [(1, 1), (5, 1)]
    assert again.embedder.min_face_score == 0.5
    assert list(again.gallery) == ["ann", "bo", 7, 8]


def test_what_is_made_of_a_bundle_alone_is_no_bundle(bundle, people, tmp_path):
    """Neither its thresholds nor its people are in an artifact of its weights."""
    path = bundle.save(tmp_path / "door")
    saved = VerificationBundle.load(path).embedder.save(tmp_path / "saved")
    out = tmp_path / "calibrated"
    command = ["calibrate", str(people), "--weights", str(path), "--out", str(out)]
    assert main([*command, "--target-fmr", "0.5"]) == 0
    for made in (saved, out):
        with pytest.raises(ValueError, match="must be a bundle; it holds weights alone"):
            VerificationBundle.load(made)
        assert read_artifact(made).digest == bundle.embedder.artifact.digest


def test_thresholds_for_another_rate_than_is_stated_are_refused(bundle, tmp_path):
    path = bundle.save(tmp_path / "door")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["calibration"]["conditions"][0]["thresholds"][0]["target_fmr"] = 0.1
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"target_fmr, 0.01; got some for \[0.1\]"):
        VerificationBundle.load(path)


def test_people_of_another_network_are_refused(bundle, tmp_path):
    path = bundle.save(tmp_path / "door")
    stated = json.loads((path / "gallery.json").read_text())
    assert stated["network"] == bundle.embedder.artifact.digest
    stated["network"] = "0" * 64
    (path / "gallery.json").write_text(json.dumps(stated))
    with pytest.raises(ValueError, match="gallery must be of the network of the embedder"):
        VerificationBundle.load(path)


def test_what_is_no_bundle_or_was_changed_is_refused(bundle, tmp_path):
    alone = bundle.embedder.save(tmp_path / "alone")
    with pytest.raises(ValueError, match="must be a bundle; it holds weights alone"):
        VerificationBundle.load(alone)
    path = bundle.save(tmp_path / "door")
    manifest = json.loads((path / "manifest.json").read_text())

    def with_bundle(**changes):
        changed = {**manifest, "bundle": {**manifest["bundle"], **changes}}
        (path / "manifest.json").write_text(json.dumps(changed))

    for changes, message in [
        ({"version": 3}, "version must be 1 to 2; got 3: a newer sfpose"),
        ({"version": True}, "version must be 1 to 2; got True"),
        ({"verifier": None}, "must describe a bundle"),
        ({"verifier": {"target_fmr": 0.1}}, "must describe a bundle"),
    ]:
        with_bundle(**changes)
        with pytest.raises(ValueError, match=message):
            VerificationBundle.load(path)
    with_bundle()
    (path / "ids.json").write_text('["ann", 8]')
    with pytest.raises(ValueError, match=r"ids.json must have the sha256"):
        VerificationBundle.load(path)
    (path / "ids.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold ids.json"):
        VerificationBundle.load(path)
    shutil.rmtree(path)
    path = bundle.save(tmp_path / "door")
    manifest["calibration"]["conditions"][0]["thresholds"] = [{"target_fmr": 0.01}]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="calibration is of another form"):
        VerificationBundle.load(path)


def test_a_stored_bundle_of_version_1_is_read(tmp_path):
    """Written when version 1 was new; every later version must still read it so."""
    expected = np.load(STORED / "bundle-v1.npz")
    packed = STORED / "bundle-v1.zip"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "folder")
    photo = (np.arange(16 * 16 * 3).reshape(16, 16, 3) % 251).astype(np.uint8)
    for path in (packed, tmp_path / "folder"):
        bundle = VerificationBundle.load(path)
        np.testing.assert_allclose(
            bundle.embedder.transform([photo]), expected["descriptor"], rtol=1e-5
        )
        assert bundle.verifier.threshold_ == expected["threshold"]
        assert bundle.verifier.max_pairs == 1000
        assert bundle.verifier.calibration_.people == 12
        assert list(bundle.gallery) == ["ann", "bo", 3]
        np.testing.assert_array_equal(bundle.gallery.templates, expected["templates"])


def test_saving_version_1_again_changes_nothing_of_it(tmp_path):
    bundle = VerificationBundle.load(STORED / "bundle-v1.zip")
    path = bundle.save(tmp_path / "again")
    with zipfile.ZipFile(STORED / "bundle-v1.zip") as archive:
        stored = json.loads(archive.read("manifest.json"))
        templates = archive.read("templates.safetensors")
    stored["bundle"]["min_face_score"] = "auto"  # has a place of its own since
    assert json.loads((path / "manifest.json").read_text()) == stored
    assert (path / "templates.safetensors").read_bytes() == templates


def test_a_full_disk_leaves_the_old_bundle(bundle, tmp_path, monkeypatch):
    path = bundle.save(tmp_path / "door.zip")
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        bundle.save(path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["door.zip"]


def test_a_zip_without_a_listed_file_is_refused(bundle, tmp_path):
    whole = bundle.save(tmp_path / "door.zip")
    part = io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(part, "w") as target:
        for name in ("model.onnx", "manifest.json", "ids.json"):
            target.writestr(name, source.read(name))
    (tmp_path / "part.zip").write_bytes(part.getvalue())
    with pytest.raises(ValueError, match=r"must hold gallery.json"):
        VerificationBundle.load(tmp_path / "part.zip")
    assert read_artifact(tmp_path / "part.zip").digest == read_artifact("default").digest
