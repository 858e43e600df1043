"""FaceEmbedder and FaceAligner on the shipped weights."""

import contextlib
import copy
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose._embedding import Embedding
from sfpose.preprocessing import as_network_input, loose_crop
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact
from sfpose.runtime.session import OnnxModel
from sfpose.runtime.session import _session as session


@pytest.fixture(scope="module")
def embedder():
    return FaceEmbedder()


def test_descriptors_have_the_documented_form(embedder, photos):
    descriptors = embedder.transform(photos)
    assert descriptors.shape == (3, 256)
    assert descriptors.dtype == np.float32
    assert (descriptors >= 0).all()
    np.testing.assert_allclose(descriptors.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain", "default", "small"])
def test_transform_runs_the_shipped_file_as_onnxruntime_does(photos, name):
    artifact = read_artifact(name)
    session = onnxruntime.InferenceSession(artifact.model)
    mean, std = (artifact.manifest["input"][key] for key in ("mean", "std"))
    crop = loose_crop(photos[0], artifact.manifest["input"]["size"])
    images = as_network_input([crop], mean, std)
    in_float64 = (crop / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(images[0].transpose(1, 2, 0), in_float64, rtol=1e-5, atol=1e-6)
    # Not of the float64 input: its last bit may turn a rounding to eight bits.
    (expected,) = session.run(None, {"images": images})
    share = artifact.manifest["descriptor"].get("less_mean", 0)
    expected = np.maximum(expected - share * expected.mean(), 0)
    got = FaceEmbedder(name, align=False).transform(photos[:1])
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_and_threads_do_not_change_the_answer(embedder, photos, batch_size):
    expected = embedder.transform(photos)
    other = FaceEmbedder(batch_size=batch_size, n_jobs=2).transform(photos)
    np.testing.assert_allclose(other, expected, rtol=1e-4, atol=1e-7)


def test_all_forms_of_input_are_equal(embedder, photos, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    expected = embedder.transform([photos[0]])
    for images in ([path], [str(path)], [Image.fromarray(photos[0])], photos[0][None]):
        np.testing.assert_array_equal(embedder.transform(images), expected)


def test_bad_images_are_named_and_nothing_is_returned(embedder, photos):
    with pytest.raises(ValueError, match=r"image 1: images must be uint8 RGB"):
        embedder.transform([photos[0], photos[1].astype(float)])
    with pytest.raises(ValueError, match="at least one image"):
        embedder.transform([])
    with pytest.raises(ValueError, match="wrap a single image in a list"):
        embedder.transform(photos[0])
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1"):
        FaceEmbedder(batch_size=0).transform(photos)
    with pytest.raises(ValueError, match="align must be"):
        FaceEmbedder(align="yes").transform(photos)


def test_what_is_not_square_is_no_aligned_crop(photos, tmp_path):
    """Whole photos given with the setting for crops: all of them would match each other."""
    path = tmp_path / "whole.png"
    Image.fromarray(np.vstack([photos[0], photos[0]])).save(path)
    rule = (
        r"image 1 \('.*whole\.png'\): align='done' takes aligned square crops, as FaceAligner gives"
    )
    for work in (
        FaceEmbedder("small", align="done").transform,
        FaceEmbedder("small", align="done", verbose=True).transform,
    ):
        with pytest.raises(ValueError, match=rule + r" them; got shape \(320, 160\)"):
            work([photos[0], path])
    assert len(FaceEmbedder("small", align=False).transform([photos[0], path])) == 2


def test_it_is_a_scikit_learn_transformer(embedder, photos):
    pandas = pytest.importorskip("pandas")
    frame = clone(embedder).set_output(transform="pandas").transform(photos)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns[:2]) == ["faceembedder0", "faceembedder1"]
    assert embedder.n_features_out == 256
    size = read_manifest("default")["input"]["size"]
    pipeline = make_pipeline(FaceAligner(size=size), FaceEmbedder(align="done"))
    np.testing.assert_allclose(
        pipeline.transform(photos), embedder.transform(photos), rtol=1e-4, atol=1e-7
    )
    assert "FaceEmbedder" in repr(embedder)


def test_copies_pickles_and_threads_answer_alike(embedder, photos):
    expected = embedder.transform(photos)
    for other in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder), clone(embedder)):
        np.testing.assert_array_equal(other.transform(photos), expected)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: embedder.transform(photos), range(16)):
            np.testing.assert_array_equal(answer, expected)


def test_an_image_of_nothing_is_a_failure_to_acquire_and_never_a_match(embedder, photos, nothing):
    descriptors = embedder.transform([photos[0], nothing, photos[1], nothing])
    lost = np.isnan(descriptors).all(axis=1)
    assert lost.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(lost, np.isnan(descriptors).any(axis=1))
    np.testing.assert_allclose(descriptors[~lost].sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="no face was found"):
        TemplateVerifier().verify(descriptors[lost][0], descriptors[lost][0])


def test_rows_in_which_nothing_fires_are_failures_to_acquire(embedder, photos, monkeypatch):
    original = Embedding._describe

    def describe(self, crops):
        rows = original(self, crops)
        rows[1] = 0
        return rows

    monkeypatch.setattr(Embedding, "_describe", describe)
    assert np.isnan(embedder.transform(photos)).all(axis=1).tolist() == [False, True, False]


def test_artifacts_go_out_and_come_back(embedder, photos, tmp_path):
    expected = embedder.transform(photos)
    folder = embedder.save(tmp_path / "mine")
    np.testing.assert_array_equal(FaceEmbedder(folder).transform(photos), expected)
    with pytest.raises(FileExistsError, match="must not exist"):
        embedder.save(folder)
    embedder.save(folder, overwrite=True)
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", folder)
    np.testing.assert_array_equal(FaceEmbedder(archive).transform(photos), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "mine.zip"]


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_values_are_lessened_by_a_share_of_their_mean(photos, tmp_path, share):
    whole = read_artifact("plain")
    stated = {"size": 1000, "normalization": "none"}
    plain = write_artifact(
        tmp_path / "plain", whole.model, {**whole.manifest, "descriptor": stated}
    )
    values = FaceEmbedder(plain, align=False).transform(photos).astype(np.float64)
    stated = {"size": 1000, "normalization": "l1", "less_mean": share}
    less = write_artifact(tmp_path / "less", whole.model, {**whole.manifest, "descriptor": stated})
    expected = np.clip(values - share * values.mean(axis=1, keepdims=True), 0, None)
    expected = normalize(expected, norm="l1")
    found = FaceEmbedder(less, align=False).transform(photos)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-8)
    assert (found == 0).mean() >= (values == 0).mean()


def test_weights_of_another_format_are_refused(photos, tmp_path, embedder):
    with pytest.raises(FileNotFoundError, match=r"one of .*'default'.* or the path of an artifact"):
        FaceEmbedder("no-such-weights").transform(photos)
    text = tmp_path / "weights.pth"
    text.write_text("none")
    with pytest.raises(ValueError, match=r"folder or a zip file with model\.onnx"):
        FaceEmbedder(text).transform(photos)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(ValueError, match=r"must hold manifest\.json"):
        FaceEmbedder(tmp_path / "empty.zip").transform(photos)

    folder = embedder.save(tmp_path / "mine")
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in [
        ({"format": "other"}, "must state format"),
        ({"format_version": 99}, "newer sfpose"),
        ({"descriptor": {"size": 1000, "normalization": "l7"}}, "normalization must be one of"),
        ({"input": None}, "must have a table 'input'"),
    ]:
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=message):
            FaceEmbedder(folder).transform(photos)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        FaceEmbedder(folder).transform(photos)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(ValueError, match="changed or damaged"):
        FaceEmbedder(folder).transform(photos)


def test_a_network_that_is_no_onnx_is_refused(photos, tmp_path):
    manifest = {k: v for k, v in read_manifest("default").items() if not k.startswith("format")}
    folder = write_artifact(tmp_path / "odd", b"no network", manifest)
    with pytest.raises(ValueError, match="must be an ONNX file that onnxruntime can load"):
        FaceEmbedder(folder).transform(photos)


def test_a_failed_save_leaves_nothing(embedder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        embedder.save(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_child_process_after_fork_answers_alike(tmp_path):
    program = """
import os, sys
import numpy as np
from sfpose import FaceEmbedder
photos = [np.random.default_rng(0).integers(0, 256, (80, 64, 3), dtype=np.uint8)]
embedder = FaceEmbedder(n_jobs=2)
expected = embedder.transform(photos)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(embedder.transform(photos), expected, equal_nan=True) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    if not hasattr(__import__("os"), "fork"):
        pytest.skip("this system cannot fork")
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == 0


def test_random_start_needs_a_fit(photos):
    with pytest.raises(ValueError, match="call fit before transform"):
        FaceEmbedder(weights=None).transform(photos)


def test_fit_without_torch_says_which_extra(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "sfpose\[train\]"'):
        FaceEmbedder().fit(photos, [0, 1, 1])


@pytest.mark.parametrize("kind", ["list", "array"])
def test_a_bar_counts_the_images_where_it_is_wanted(photos, monkeypatch, kind):
    images = photos if kind == "list" else np.stack([photos[0], photos[1]])
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, *, total, disable, **_):
            super().__init__(self)
            self.total, self.taken, self.disable = total, 0, disable
            bars.append(self)

        def update(self):
            self.taken += 1

    monkeypatch.setattr("tqdm.tqdm", Bar)
    expected = FaceEmbedder().transform(images)
    assert not bars
    np.testing.assert_array_equal(FaceEmbedder(verbose=True).transform(images), expected)
    assert [(bar.total, bar.taken, bar.disable) for bar in bars] == [(len(images),) * 2 + (None,)]
    with pytest.raises(ValueError, match="wrap a single image in a list"):
        FaceEmbedder(verbose=True).transform(photos[0])


def test_an_embedder_stays_with_the_weights_that_it_runs(photos, tmp_path):
    small, default = read_artifact("small"), read_artifact("default")
    path = write_artifact(tmp_path / "weights", small.model, small.manifest)
    embedder = FaceEmbedder(path)
    expected = FaceEmbedder("small").transform(photos)
    np.testing.assert_array_equal(embedder.transform(photos), expected)
    write_artifact(path, default.model, default.manifest, overwrite=True)
    np.testing.assert_array_equal(embedder.transform(photos), expected)
    assert embedder.artifact.digest == small.digest
    assert read_artifact(embedder.save(tmp_path / "saved")).digest == small.digest
    embedder.set_params(batch_size=2)
    np.testing.assert_allclose(embedder.transform(photos), expected, rtol=1e-4, atol=1e-7)
    assert clone(embedder).artifact.digest == default.digest


def test_threads_that_come_at_once_make_one_network(photos, monkeypatch):
    made = []
    monkeypatch.setattr(
        "sfpose.runtime.session._session",
        lambda *given: made.append(given) or session(*given),
    )
    embedder = FaceEmbedder("small", align="done")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(embedder.transform, [photos[:1]] * 8))
    assert len(made) == 1
    assert all((answer == answers[0]).all() for answer in answers)


def test_what_was_made_at_a_call_is_no_part_of_an_estimator(photos):
    for estimator in (FaceEmbedder("small"), FaceAligner(policy="skip")):
        before = pickle.dumps(estimator)
        estimator.transform(photos)
        assert pickle.dumps(estimator) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FaceEmbedder(n_jobs=1.5), "n_jobs must be None or a whole number other"),
        (lambda: FaceEmbedder(n_jobs=0), "n_jobs must be None or a whole number other"),
        (lambda: FaceAligner(n_jobs="2"), "n_jobs must be None or a whole number other"),
        (lambda: FaceEmbedder(align=False, min_face_score="bogus"), "min_face_score must be"),
        (lambda: FaceEmbedder(min_face_score=True), "min_face_score must be 0 to 1"),
        (lambda: FaceAligner(margin=np.inf), "margin must be a finite number above 0; got inf"),
        (lambda: FaceAligner(margin=0), "margin must be a finite number above 0; got 0"),
        (lambda: FaceAligner(min_face="20"), "min_face must be a finite number; got '20'"),
        (lambda: FaceAligner(detector=np.zeros((2, 4))), "detector must be 'crop' or a callable"),
        (lambda: FaceEmbedder(weights=["default"]), "weights must be a shipped name or a"),
    ],
)
def test_parameters_that_are_none_of_their_values_are_told(photos, make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make().transform(photos)


def test_booleans_of_numpy_are_booleans(photos):
    for value in (True, False):
        expected = FaceEmbedder("small", align=value).transform(photos[:1])
        found = FaceEmbedder("small", align=np.bool_(value)).transform(photos[:1])
        np.testing.assert_array_equal(found, expected)


def test_an_embedder_without_weights_is_not_fitted(photos):
    with pytest.raises(NotFittedError):
        FaceEmbedder(weights=None).transform(photos)


def test_a_second_fit_is_what_runs_then(portrait):
    """As a fit leaves it: with another network of the same settings."""
    embedder = FaceEmbedder("plain", align=True)
    for name in ("small", "default", "small"):
        embedder.artifact_ = read_artifact(name)
        expected = FaceEmbedder(name, align=True).transform([portrait])
        np.testing.assert_array_equal(embedder.transform([portrait]), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_goes_through_the_network_an_image_a_thread_at_a_time(photos, threads, monkeypatch):
    crops = FaceAligner(size=100).transform([*photos, *photos[:2]])
    artifact = read_artifact("default")
    settings = artifact.network_input
    whole = OnnxModel(artifact.model).run(as_network_input(crops, settings.mean, settings.std))
    seen, run = [], OnnxModel.run
    monkeypatch.setattr(OnnxModel, "run", lambda self, x: seen.append(len(x)) or run(self, x))
    rows = FaceEmbedder(align="done", n_jobs=threads).transform(crops)
    assert seen == {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2]}[threads]
    np.testing.assert_allclose(rows, whole / whole.sum(1, keepdims=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full((1, 11), np.inf, np.float32), "must give finite values"),
        (np.zeros((1, 10), np.float32), r"must give 11 values an image; got shape \(1, 10\)"),
    ],
)
def test_a_landmark_network_that_answers_otherwise_is_refused(photos, answer, message, monkeypatch):
    monkeypatch.setattr(OnnxModel, "run", lambda self, x: answer)
    with pytest.raises(ValueError, match=message):
        FaceAligner().find_landmarks(photos)


def test_an_image_does_not_change_with_its_neighbour(tmp_path, portrait):
    quantization = pytest.importorskip("onnxruntime.quantization")
    pytest.importorskip("onnx")
    shipped = read_artifact("plain")
    (tmp_path / "plain.onnx").write_bytes(shipped.model)
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "dynamic.onnx")
    model = (tmp_path / "dynamic.onnx").read_bytes()
    path = write_artifact(tmp_path / "mine", model, shipped.manifest)
    embedder = FaceEmbedder(path, n_jobs=2, align=False)
    rows = embedder.transform([portrait, portrait // 2])
    np.testing.assert_array_equal(rows[0], embedder.transform([portrait, portrait])[1])
    assert (rows[0] != rows[1]).any()
