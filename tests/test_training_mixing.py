"""Blends of two faces, and pictures of no face."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.geometry import CANONICAL_LANDMARKS  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.mixing import mix_faces, onnx_teacher  # noqa: E402
from sfpose.training.non_faces import turn_into_non_faces  # noqa: E402

SIDE = 112


def _grey(levels, held_out=()):
    """Photos of one grey level each, faces all in the canonical place."""
    count = len(levels)
    photos = np.repeat(np.uint8(levels), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)
    return TaughtFaces(
        photos=photos,
        landmarks=np.repeat(SIDE * CANONICAL_LANDMARKS[None], count, 0).astype(np.float32),
        scores=np.ones(count, np.float32),
        embeddings=np.ones((count, 2), np.float32),
        mirror_embeddings=np.ones((count, 2), np.float32),
        held_out=np.isin(np.arange(count), held_out),
    )


class MeanColour:
    """A teacher that tells the mean of the crop, and how many crops it was asked about."""

    def __init__(self):
        self.asked = 0

    def __call__(self, crops):
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (112, 112, 3)
        self.asked += len(crops)
        means = crops.reshape(len(crops), -1).mean(1)
        return np.c_[means, 255 - means].astype(np.float32)


def test_a_blend_lies_between_its_two_faces_and_the_teacher_saw_it(tmp_path):
    faces = _grey([0, 200])
    mixed = mix_faces(faces, MeanColour(), 70, tmp_path)
    assert len(mixed.photos) == 72
    np.testing.assert_array_equal(mixed.photos[:2], faces.photos)
    levels = mixed.photos[2:].reshape(70, -1)
    np.testing.assert_array_equal(levels.min(1), levels.max(1))
    # A face's neighbour may be itself, at the end of the row.
    both = levels[(levels[:, 0] > 0) & (levels[:, 0] < 200), 0]
    assert len(both) > 20
    assert both.min() >= 0.35 * 200 - 1
    assert both.max() <= 0.65 * 200 + 1
    np.testing.assert_allclose(mixed.embeddings[2:, 0], levels[:, 0], atol=0.5)
    assert not mixed.held_out[2:].any()


def test_a_blend_of_the_same_face_is_that_face(tmp_path):
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
    photo = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bicubic").clamp(0, 255)
    photo = photo[0].permute(1, 2, 0).numpy().astype(np.uint8)
    faces = replace(_grey([0, 0]), photos=np.stack([photo, photo]))
    crops = []

    def teacher(given):
        crops.extend(given)
        return np.ones((len(given), 2), np.float32)

    mixed = mix_faces(faces, teacher, 3, tmp_path)
    expected = CANONICAL_LANDMARKS / 1.3 + 0.5 - 0.5 / 1.3
    np.testing.assert_allclose(mixed.landmarks[2:] / SIDE, expected[None].repeat(3, 0), atol=1e-5)
    for crop in crops:
        # Drawn at 112 over 1.3 and enlarged again: close to the photo, not equal to it.
        assert np.abs(crop.astype(float) - photo)[4:-4, 4:-4].mean() < 2


def test_blends_use_nobody_who_is_held_out(tmp_path):
    mixed = mix_faces(_grey([10, 10, 250], held_out=[2]), MeanColour(), 40, tmp_path)
    assert mixed.photos[3:].max() == 10


def test_blends_that_are_there_are_not_made_again(tmp_path):
    faces, teacher = _grey([0, 100, 200]), MeanColour()
    first = mix_faces(faces, teacher, 80, tmp_path)
    assert teacher.asked == 80
    rows = np.lib.format.open_memmap(tmp_path / "mixed_embeddings_0.npy", mode="r+")
    rows[64:] = 0  # as if it had been stopped after the first part
    again = mix_faces(faces, teacher, 80, tmp_path)
    assert teacher.asked == 96
    np.testing.assert_array_equal(again.photos, first.photos)
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    with pytest.raises(ValueError, match=r"must hold blends of shape \(81, 112, 112, 3\)"):
        mix_faces(faces, teacher, 81, tmp_path)


def test_a_teacher_from_an_onnx_file_gets_planes_of_rgb(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    image = helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [1, 3, 112, 112])
    answer = helper.make_tensor_value_info("means", onnx.TensorProto.FLOAT, [1, 3])
    node = helper.make_node("ReduceMean", ["data"], ["means"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "teacher", [image], [answer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "teacher.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    rows = onnx_teacher(tmp_path / "teacher.onnx")(crops)
    np.testing.assert_allclose(rows, crops.mean((1, 2)), rtol=1e-5)


def test_non_faces_are_pictures_and_differ_from_the_faces():
    crops = torch.rand(200, 3, 64, 64)
    torch.manual_seed(0)
    pictures = turn_into_non_faces(crops)
    assert pictures.shape == crops.shape
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert ((pictures - crops).abs().amax((1, 2, 3)) > 0.05).all()
    torch.manual_seed(0)
    torch.testing.assert_close(turn_into_non_faces(crops), pictures)
