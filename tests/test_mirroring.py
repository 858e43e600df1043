"""Mirrored networks give the mean of what the network says of an image and its mirror image."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="exporting needs the [train] extra")

from sfpose import FaceEmbedder
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact, write_artifact
from sfpose.runtime.session import OnnxModel
from sfpose.training.mirroring import mirrored, without_mirror


@pytest.mark.parametrize("weights", ["plain", "plain-int8"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_answer_is_the_mean_of_both(weights, count):
    whole = read_artifact(weights)
    images = np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)
    flipped = np.ascontiguousarray(images[..., ::-1])
    alone = OnnxModel(whole.model)
    once, again = (alone.run(rows).astype(np.float64) for rows in (images, flipped))
    model = OnnxModel(mirrored(whole).model)
    got = model.run(images)
    assert got.shape == (count, 1000)
    np.testing.assert_allclose(got, (once + again) / 2, rtol=1e-4, atol=1e-4 * once.max())
    np.testing.assert_allclose(model.run(flipped), got, rtol=1e-5, atol=1e-6 * once.max())
    # Two different halves: the network alone does not give this.
    assert np.abs(once - again).max() > 0.01 * once.max()


@pytest.mark.parametrize("weights", ["plain", "plain-int8"])
def test_a_mirror_is_taken_off_as_it_was_put_on(weights):
    whole = read_artifact(weights)
    back = without_mirror(mirrored(whole, name="both"))
    assert back.model == whole.model
    left = {
        key: value for key, value in whole.manifest.items() if key not in ("calibration", "files")
    }
    assert back.manifest == {**left, "name": "both"}


@pytest.mark.parametrize("weights", ["default", "small"])
def test_the_mirror_of_shipped_weights_is_taken_off(weights):
    shipped = read_artifact(weights)
    alone, both = OnnxModel(without_mirror(shipped).model), OnnxModel(shipped.model)
    side = shipped.network_input.size
    images = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    flipped = np.ascontiguousarray(images[..., ::-1])
    halves = [alone.run(rows) for rows in (images, flipped)]
    assert not np.array_equal(*halves)
    np.testing.assert_allclose(np.mean(halves, axis=0), both.run(images), rtol=1e-4, atol=1e-5)


def test_a_mirror_that_is_not_there_is_not_taken_off():
    with pytest.raises(ValueError, match="network that sfpose mirrored; this one begins and ends"):
        without_mirror(read_artifact("plain"))


def test_a_mirrored_artifact_embeds_and_can_be_trained_on(tmp_path, portrait):
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    from sfpose.training.export import network_from_artifact

    whole = read_artifact("plain")
    made = mirrored(whole)
    assert made.manifest["name"] == "plain-mirrored"
    assert "calibration" not in made.manifest
    path = write_artifact(tmp_path / "mirrored", made.model, made.manifest)
    rows = FaceEmbedder(path).transform([portrait, portrait[:, ::-1]])
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    mine, theirs = (network_from_artifact(a).state_dict() for a in (read_artifact(path), whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_what_cannot_be_mirrored_is_refused():
    with pytest.raises(ValueError, match="got kind 'landmarks'"):
        mirrored(read_artifact("landmarks"))
    with pytest.raises(ValueError, match="can be mirrored once"):
        mirrored(mirrored(read_artifact("plain-int8")))


def test_the_command_writes_a_mirrored_artifact(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["export", "--target", "mirrored", "--weights", "plain-int8", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == len(read_artifact(out).model) > told["bytes_before"]
