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
from sfpose import bundle as bundles
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact

STORED = Path(__file__).parent / "data"


def descriptors_of(people=40, width=256):
    rng = np.random.default_rng(0)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (people, width)), 4, axis=0) * 5 + 0.1)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(people), 4)


@pytest.fixture(scope="module")
def bundle():
    descriptors, subjects = descriptors_of()
    gallery = TemplateGallery()
    gallery.add(["ann", 7], descriptors[:2], counts=[4, 1])
    verifier = TemplateVerifier(target_fmr=0.01).fit(descriptors, subjects)
    return VerificationBundle(FaceEmbedder(), verifier, gallery)


@pytest.mark.filterwarnings("ignore:distances must be smaller")
def test_a_fit_of_other_rows_labels_comes_back_too(tmp_path):
    """Its ratios rise with the distance: what fit warns of and saves must load."""
    rows, subjects = descriptors_of()
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
    rows, _ = descriptors_of()
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
    descriptors, _ = descriptors_of()
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


def test_parts_that_do_not_fit_together_are_refused_and_nothing_is_left(bundle, tmp_path):
    narrow, subjects = descriptors_of(width=30)
    verifier = TemplateVerifier(target_fmr=0.01).fit(narrow, subjects)
    gallery = TemplateGallery()
    gallery.add(["ann"], narrow[:1])
    unsure = TemplateVerifier(target_fmr=0.01)
    unsure.margin_ = "learned"
    rows, people = descriptors_of()
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


def test_a_zip_that_could_not_be_loaded_is_not_saved(tmp_path, monkeypatch):
    gallery = TemplateGallery(weights="default")
    gallery.add(["a person"], np.full((1, 256), 1 / 256))
    bundle = VerificationBundle(FaceEmbedder(), TemplateVerifier(), gallery)
    monkeypatch.setitem(bundles._GALLERY_FILES, "ids.json", 9)
    with pytest.raises(
        ValueError, match=r"ids\.json of a zip file must have at most 9 bytes; got 12"
    ):
        bundle.save(tmp_path / "door.zip")
    assert not list(tmp_path.iterdir())
    assert list(VerificationBundle.load(bundle.save(tmp_path / "door")).gallery) == ["a person"]
