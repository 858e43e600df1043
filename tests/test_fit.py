"""FaceEmbedder.fit: what it learns, what it refuses, what stays as it was."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

import torch

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose._scoring import chi2_pairs
from sfpose.bundle import VerificationBundle
from sfpose.decision import shipped_rule
from sfpose.networks.registry import IMAGENET_MEAN, IMAGENET_STD, VGGFACE2_MEAN, VGGFACE2_STD
from sfpose.runtime.artifact import read_artifact, write_artifact
from sfpose.runtime.session import OnnxModel
from sfpose.training.export import network_from_artifact, to_manifest, to_onnx
from sfpose.training.starts import start_network


def test_fit_learns_people_and_transform_runs_what_was_trained(photos, tmp_path):
    rng = np.random.default_rng(0)
    stripes = np.tile(np.arange(40) // 4 % 2, (40, 1))
    looks = 60 + 130 * np.stack([stripes, stripes.T, np.full((40, 40), 0.5)])[..., None]
    people = np.repeat(["ann", "bo", "cy"], 12)
    images = [
        np.clip(looks[k // 12] + rng.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        for k in range(36)
    ]
    embedder = FaceEmbedder(
        "plain", align=False, epochs=6, batch_size=12, train_size=32, learning_rate=0.02
    )
    before = embedder.transform(images[:2])
    embedder.fit(images, people)
    assert embedder.classes_.tolist() == ["ann", "bo", "cy"]
    assert [entry["epoch"] for entry in embedder.history_] == [1, 2, 3, 4, 5, 6]
    # Under dropout and augmentation; a third by chance.
    assert max(entry["accuracy"] for entry in embedder.history_) > 0.6
    after = embedder.transform(images[:2])
    assert not np.allclose(before, after)
    assert embedder.artifact.section("descriptor") == read_artifact("plain").section("descriptor")
    folder = embedder.save(tmp_path / "mine")
    # "auto" follows the artifact: trained without alignment, run without.
    np.testing.assert_array_equal(FaceEmbedder(folder).transform(images[:2]), after)


def test_fit_from_a_mirrored_network_gives_a_mirrored_one(portrait):
    embedder = FaceEmbedder("small", epochs=1, batch_size=4, learning_rate=1e-4)
    people = [portrait, portrait[6:], portrait[:, 6:], portrait[:, :-6]]
    before = embedder.transform(people[:1])
    embedder.fit(people, [0, 0, 1, 1])
    assert embedder.artifact.manifest["name"] == "fitted"
    one, other = embedder.transform([portrait, portrait[:, ::-1]])
    assert not np.array_equal(one, before[0])
    # The landmarks of both differ a little.
    assert chi2_pairs([one], [other])[0] < 0.1 * shipped_rule("small", 1e-3).threshold
    artifact = embedder.artifact
    images = np.random.default_rng(0).normal(size=(1, 3, 76, 76)).astype(np.float32)
    model = OnnxModel(artifact.model)
    flipped = np.ascontiguousarray(images[..., ::-1])
    np.testing.assert_allclose(model.run(flipped), model.run(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([0, 1], r"one person for each image, shape \(3,\); got \(2,\)"),
        ([0, 0, 0], "at least two people; got 1"),
        ([0, np.nan, 1], "one person for each image; that of row 1 is missing"),
        (["ann", "bo", None], "that of row 2 is missing"),
    ],
)
def test_fit_refuses_labels_that_teach_nothing(photos, people, message):
    embedder = FaceEmbedder()
    with pytest.raises(ValueError, match=message):
        embedder.fit(photos, people)
    assert not hasattr(embedder, "artifact_")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number, at least 1; got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, at least 1; got 1.5"),
        ({"batch_size": 1}, "batch_size must be a whole number, at least 2; got 1"),
        ({"batch_size": True}, "batch_size must be a whole number, at least 2; got True"),
        ({"learning_rate": np.nan}, "learning_rate must be a finite number above 0; got nan"),
        ({"learning_rate": np.inf}, "learning_rate must be a finite number above 0; got inf"),
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0; got 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number above 0; got 'fast'"),
        ({"train_size": 20}, "train_size must be a whole number, at least 31; got 20"),
        ({"train_size": 40}, "train_size must be None or 100, because .* one size only; got 40"),
        ({"random_state": None}, "random_state must be a whole number, at least 0; got None"),
    ],
)
def test_fit_refuses_settings_that_train_nothing(photos, setting, message):
    """Before an image is read, of which there may be many."""
    with pytest.raises(ValueError, match=message):
        FaceEmbedder(align="done", **setting).fit(["missing.jpg"] * 3, [0, 1, 1])
    with pytest.raises(FileNotFoundError):
        FaceEmbedder(align="done").fit(["missing.jpg"] * 3, [0, 1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "those of kind 'landmarks'"),
        ({"network": "mynet"}, "network must be one of .*; got 'mynet'"),
        ({"network": None}, "network must be one of"),
        ({"input": {"size": 10**7, "mean": [0.5] * 3, "std": [0.25] * 3}}, "input size must be 1"),
    ],
)
def test_weights_that_nothing_can_learn_on_from_are_refused(photos, tmp_path, changes, message):
    weights = "landmarks"
    if changes is not None:
        shipped = read_artifact("small")
        weights = write_artifact(tmp_path / "odd", shipped.model, {**shipped.manifest, **changes})
        with pytest.raises(ValueError, match=message):
            start_network(weights)
    with pytest.raises(ValueError, match=message):
        FaceEmbedder(weights, align="done", epochs=1, batch_size=2).fit(photos, [0, 1, 1])


@pytest.mark.parametrize(("weights", "rate"), [("plain", 1e-4), (None, 0.01)])
def test_the_rate_of_fit_goes_by_what_it_begins_with(photos, weights, rate):
    settings = {"align": "done", "epochs": 1, "batch_size": 2, "train_size": 32}
    auto, stated = (
        FaceEmbedder(weights, **settings, **more).fit(photos, [0, 1, 1])
        for more in ({}, {"learning_rate": rate})
    )
    assert auto.artifact.digest == stated.artifact.digest


@pytest.mark.parametrize(("network", "side"), [("squeezefaceposenet", 147), ("resnet50", 291)])
def test_no_network_learns_from_crops_that_are_magnified(portrait, network, side, monkeypatch):
    class Seen(Exception):
        pass

    def look(crops, *_given, **_settings):
        raise Seen(crops.shape)

    monkeypatch.setattr("sfpose.training.identification.train_identification", look)
    with pytest.raises(Seen, match=rf"\(2, {side}, {side}, 3\)"):
        FaceEmbedder(None, network=network, align="done").fit([portrait] * 2, [0, 1])


def test_labels_of_pandas_are_taken_and_missing_ones_refused(photos):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="that of row 1 is missing"):
        FaceEmbedder().fit(photos, pandas.Series([1, pandas.NA, 2], dtype="Int64"))
    with pytest.raises(ValueError, match="that of row 0 is missing"):
        FaceEmbedder().fit(photos, pandas.Series(pandas.to_datetime([None, "2020", "2021"])))


def test_settings_from_numpy_train_the_same(photos):
    settings = {"epochs": 1, "batch_size": 2, "train_size": 32, "random_state": 3}
    plain, numpy = (
        FaceEmbedder("plain", align="done", **{name: kind(n) for name, n in settings.items()}).fit(
            photos, [0, 1, 1]
        )
        for kind in (int, np.int64)
    )
    assert plain.artifact.digest == numpy.artifact.digest


def test_after_fit_a_bundles_weights_see_images_as_they_did(photos, tmp_path):
    """Its images are crops already; landmarks would be looked for in them otherwise."""
    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    given = FaceEmbedder("plain", align="done")
    path = VerificationBundle(given, TemplateVerifier(weights="plain")).save(tmp_path / "door")
    settings = {"epochs": 1, "batch_size": 2, "train_size": 32}
    found = FaceEmbedder(path, **settings).fit(crops, [0, 0, 1, 1])
    expected = FaceEmbedder("plain", align="done", **settings).fit(crops, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.transform(crops), expected.transform(crops))
    assert not np.isnan(found.transform(crops)).any()


@pytest.mark.parametrize(
    ("given", "count"),
    [({"align": "done"}, 4), ({"align": False}, 4), ({"align": True, "min_face_score": 0}, 5)],
)
def test_the_embedder_of_a_bundle_saves_how_it_crops(portrait, nothing, tmp_path, given, count):
    embedder = FaceEmbedder("plain", **given)
    bundle = VerificationBundle(embedder, TemplateVerifier(weights="plain"))
    loaded = VerificationBundle.load(bundle.save(tmp_path / "door")).embedder
    settings = {"epochs": 1, "batch_size": 2, "train_size": 32, "learning_rate": 1e-6}
    images = [portrait, portrait[:, ::-1], portrait[8:, 4:-4], portrait[4:-4, 8:], nothing][:count]
    images = [image[:150, :150] for image in images]
    loaded.set_params(**settings).fit(images, [0, 0, 1, 1, 1][:count])
    saved = FaceEmbedder(loaded.save(tmp_path / "saved"))
    expected = loaded.transform(images)
    assert not np.isnan(expected).any()
    np.testing.assert_array_equal(saved.transform(images), expected)


def _as_vggface2(folder):
    """The weights ``plain``, for images less VGGFace2's mean: to the eye of the same function."""
    shipped = read_artifact("plain")
    network = network_from_artifact(shipped)
    mean, std, own_mean, own_std = (
        torch.tensor(each, dtype=torch.float64)[None, :, None, None]
        for each in (IMAGENET_MEAN, IMAGENET_STD, VGGFACE2_MEAN, VGGFACE2_STD)
    )
    with torch.no_grad():
        first = network.conv1[0]
        first.bias += (first.weight * (own_mean - mean) / std).sum((1, 2, 3))
        first.weight *= own_std / std
    size = shipped.network_input.size
    manifest = to_manifest(
        name="vggface2",
        kind="descriptor",
        network="squeezefaceposenet",
        size=size,
        mean=VGGFACE2_MEAN,
        std=VGGFACE2_STD,
        alignment="five-landmarks",
        descriptor=shipped.section("descriptor"),
    )
    return write_artifact(folder, to_onnx(network, size), manifest)


def test_fit_feeds_weights_as_they_were_fed_before(photos, tmp_path):
    """A fit that learns nothing changes nothing."""
    given = _as_vggface2(tmp_path / "vggface2")
    settings = {"align": "done", "epochs": 1, "batch_size": 3, "learning_rate": 1e-9}
    crops = np.stack([photo[:112, :112] for photo in photos])
    before = FaceEmbedder("plain", align="done").transform(crops)
    embedder = FaceEmbedder(given, **settings).fit(crops, [0, 1, 1])
    taken = embedder.artifact.network_input
    np.testing.assert_allclose((taken.mean, taken.std), (VGGFACE2_MEAN, VGGFACE2_STD), rtol=1e-6)
    assert chi2_pairs(before, embedder.transform(crops)).max() < 1e-3
    with pytest.raises(ValueError, match=r"mean .*0.485.* as this training feeds them .*; got"):
        start_network(given)


@pytest.mark.parametrize("align", ["auto", True])
def test_what_was_fitted_and_saved_crops_as_it_learned(portrait, tmp_path, align):
    given = FaceEmbedder("plain", align=False)
    path = VerificationBundle(given, TemplateVerifier(weights="plain")).save(tmp_path / "door")
    images = [portrait, portrait[:, ::-1], portrait[4:], portrait[:, 6:]]
    settings = {"epochs": 1, "batch_size": 4, "train_size": 32, "learning_rate": 1e-4}
    embedder = FaceEmbedder(path, align=align, **settings).fit(images, [0, 0, 1, 1])
    saved = FaceEmbedder(embedder.save(tmp_path / "saved"))
    np.testing.assert_array_equal(saved.transform(images), embedder.transform(images))
