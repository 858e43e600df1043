"""Teachers of any chain of operations answer as onnxruntime does."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from test_training_mixing import _save_teacher  # noqa: E402

from sfpose.training.teachers import OnnxTeacher  # noqa: E402

SQUARE = {"kernel_shape": [3, 3], "group": 1, "pads": [2, 2, 2, 2], "dilations": [2, 2]}


def _norm(rng, name, count):
    """Scale, shift, mean and a variance so small that an epsilon counts."""
    parts = rng.uniform(0.5, 1, (4, count)).astype(np.float32) * [[1], [1], [1], [0.01]]
    return {f"{name}.{part}": np.float32(values) for part, values in enumerate(parts)}


def _normalise(given, name, got, **settings):
    return ("BatchNormalization", [given, *(f"{name}.{part}" for part in range(4))], got, settings)


def test_normalisations_with_and_without_a_convolution_before_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sfpose.training.settings.has_fast_bfloat16", lambda _: False)
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    stored = {
        **_norm(rng, "pixels", 3),
        **_norm(rng, "biased", 5),
        **_norm(rng, "again", 5),
        **_norm(rng, "plain", 4),
        "filters": rng.normal(0, 0.1, (5, 3, 3, 3)).astype(np.float32),
        "biases": rng.normal(0, 90, 5).astype(np.float32),
        "narrow": rng.normal(0, 0.3, (4, 5, 3, 3)).astype(np.float32),
        "weight": rng.normal(0, 0.02, (4 * 28 * 28, 4)).astype(np.float32),
        "bias": rng.normal(0, 3e3, 4).astype(np.float32),
    }
    nodes = [
        _normalise("data", "pixels", "a"),
        ("Conv", ["a", "filters", "biases"], "b", {**SQUARE, "strides": [2, 2]}),
        _normalise("b", "biased", "c"),
        # A second one behind the first is folded too.
        _normalise("c", "again", "d", epsilon=0.02, momentum=0.5),
        ("Conv", ["d", "narrow"], "e", {**SQUARE, "strides": [2, 2]}),
        ("Mul", ["e", "half"], "f", {}),
        _normalise("f", "plain", "g", epsilon=0.003),
        ("Flatten", ["g"], "h", {"axis": 1}),
        ("Gemm", ["h", "weight", "bias"], "answer", {"alpha": 0.5, "beta": 2.0}),
    ]
    stored["half"] = np.float32([0.5])
    _save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    crops = rng.random((2, 3, 112, 112), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "teacher.onnx"))
    expected = [session.run(None, {"data": 255 * crop[None]})[0][0] for crop in crops]
    found = OnnxTeacher(tmp_path / "teacher.onnx")(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # The bias of a convolution is no small part of the answer.
    assert np.abs(np.ptp(expected, axis=1)).min() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("before", ["filters", "nothing"])
def test_a_normalisation_of_another_kind_is_refused(before, tmp_path):
    """One that would learn from what it sees, behind a convolution as elsewhere."""
    rng = np.random.default_rng(0)
    stored = {**_norm(rng, "norm", 3), "filters": np.ones((3, 3, 3, 3), np.float32)}
    convolution = ("Conv", ["data", "filters"], "a", {**SQUARE, "strides": [1, 1]})
    nodes = [convolution] if before == "filters" else []
    nodes += [_normalise("a" if nodes else "data", "norm", "b", training_mode=1)]
    nodes += [("Flatten", ["b"], "answer", {})]
    _save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    with pytest.raises(TypeError, match="unexpected keyword argument 'training_mode'"):
        OnnxTeacher(tmp_path / "teacher.onnx")(torch.zeros(1, 3, 112, 112))
