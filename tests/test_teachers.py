"""Teachers of any chain of operations answer as onnxruntime does."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.training.teachers import OnnxTeacher  # noqa: E402

SQUARE = {"kernel_shape": [3, 3], "group": 1, "pads": [2, 2, 2, 2], "dilations": [2, 2]}


def save_teacher(path, nodes, stored):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    image = helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [1, 3, 112, 112])
    answer = helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, [1, 4])
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()]
    made = [helper.make_node(name, ins, [out], **rest) for name, ins, out, rest in nodes]
    graph = helper.make_graph(made, "teacher", [image], [answer], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)


def _answers(path, crops):
    """What the teacher says of crops, and what onnxruntime does, one crop a call."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = [session.run(None, {"data": 255 * crop[None]})[0][0] for crop in crops]
    return OnnxTeacher(path)(torch.from_numpy(crops)).numpy(), np.stack(expected)


def _norm(rng, name, count):
    """Scale, shift, mean and a variance so small that an epsilon counts."""
    parts = rng.uniform(0.5, 1, (4, count)).astype(np.float32) * [[1], [1], [1], [0.01]]
    return {f"{name}.{part}": np.float32(values) for part, values in enumerate(parts)}


def _normalise(given, name, got, **settings):
    return ("BatchNormalization", [given, *(f"{name}.{part}" for part in range(4))], got, settings)


@pytest.mark.parametrize(("fast", "tolerance"), [(False, 1e-5), (True, 0.02)])
def test_a_teacher_answers_as_onnxruntime_does(fast, tolerance, tmp_path, monkeypatch):
    monkeypatch.setattr("sfpose.training.settings.has_fast_bfloat16", lambda _: fast)
    rng = np.random.default_rng(0)

    def some(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    stored = {
        "mean": np.float32([127.5]),
        "scale": np.float32([1 / 128]),
        "filters": some(6, 3, 3, 3),
        "uneven": some(6, 1, 3, 3),
        "slope": some(6, 1, 1),
        "weight": some(4, 6 * 28 * 28),
        "bias": some(4),
        **{f"norm{number}": np.abs(some(6)) + 0.1 for number in range(4)},
    }
    square = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1]}
    nodes = [
        ("Sub", ["data", "mean"], "a", {}),
        ("Mul", ["a", "scale"], "b", {}),
        ("Conv", ["b", "filters"], "c", {**square, "pads": [1, 1, 1, 1], "group": 1}),
        ("BatchNormalization", ["c", *(f"norm{n}" for n in range(4))], "d", {"epsilon": 1e-3}),
        ("PRelu", ["d", "slope"], "e", {}),
        ("Conv", ["e", "uneven"], "f", {**square, "pads": [0, 0, 1, 1], "group": 6}),
        ("Dropout", ["f"], "g", {}),
        ("Flatten", ["g"], "h", {}),
        ("Gemm", ["h", "weight", "bias"], "answer", {"transB": 1}),
    ]
    path = tmp_path / "teacher.onnx"
    save_teacher(path, nodes, stored)
    crops = rng.random((3, 3, 112, 112), dtype=np.float32)
    found, expected = _answers(path, crops)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)


def test_normalisations_with_and_without_a_convolution_before_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sfpose.training.settings.has_fast_bfloat16", lambda _: False)
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
    save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    crops = rng.random((2, 3, 112, 112), dtype=np.float32)
    found, expected = _answers(tmp_path / "teacher.onnx", crops)
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
    save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    message = "BatchNormalization of a teacher may state epsilon, momentum; .* has training_mode"
    with pytest.raises(ValueError, match=message):
        OnnxTeacher(tmp_path / "teacher.onnx")


def test_a_teacher_of_other_operations_is_refused(tmp_path):
    path = tmp_path / "teacher.onnx"
    save_teacher(path, [("Sigmoid", ["data"], "answer", {})], {})
    with pytest.raises(ValueError, match=r"must be made of BatchNormalization, .* holds Sigmoid"):
        OnnxTeacher(path)
    save_teacher(path, [("Mul", ["data", "data"], "answer", {})], {})
    with pytest.raises(ValueError, match=r"must be a chain of operations; .* branches"):
        OnnxTeacher(path)
    save_teacher(path, [], {"data": np.float32([1])})
    with pytest.raises(ValueError, match=r"must have one input; .* has 0"):
        OnnxTeacher(path)


def test_what_a_convolution_does_not_state_is_as_onnx_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sfpose.training.settings.has_fast_bfloat16", lambda _: False)
    rng = np.random.default_rng(0)
    stored = {
        "filters": rng.normal(0, 0.1, (2, 3, 5, 3)).astype(np.float32),
        "again": rng.normal(0, 0.1, (4, 2, 108, 110)).astype(np.float32),
    }
    nodes = [
        ("Conv", ["data", "filters"], "a", {}),
        ("Conv", ["a", "again"], "b", {}),
        ("Flatten", ["b"], "answer", {}),
    ]
    save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    crops = rng.random((1, 3, 112, 112), dtype=np.float32)
    found, expected = _answers(tmp_path / "teacher.onnx", crops)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_a_last_layer_and_a_dropout_may_state(tmp_path, monkeypatch):
    """No constant, factors turned over, rows cut by another axis, a ratio and a mode as inputs."""
    monkeypatch.setattr("sfpose.training.settings.has_fast_bfloat16", lambda _: False)
    rng = np.random.default_rng(0)
    stored = {
        "filters": rng.normal(0, 0.1, (8, 3, 3, 3)).astype(np.float32),
        "ratio": np.float32(0.5),
        "learning": np.bool_(False),
        "weight": rng.normal(0, 0.02, (4, 8 * 28 * 28)).astype(np.float32),
        "square": rng.normal(0, 0.5, (4, 4)).astype(np.float32),
    }
    around = {"kernel_shape": [3, 3], "strides": [4, 4], "pads": [0, 0, 0, 0]}
    nodes = [
        ("Conv", ["data", "filters"], "a", around),
        ("Dropout", ["a", "ratio", "learning"], "b", {}),
        ("Flatten", ["b"], "c", {"axis": -3}),
        ("Gemm", ["c", "weight"], "d", {"transB": 1, "alpha": 0.5}),
        ("Flatten", ["d"], "e", {"axis": 0}),
        ("Flatten", ["e"], "f", {}),
        ("Gemm", ["f", "square"], "answer", {}),
    ]
    save_teacher(tmp_path / "teacher.onnx", nodes, stored)
    crops = rng.random((1, 3, 112, 112), dtype=np.float32)
    found, expected = _answers(tmp_path / "teacher.onnx", crops)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_teacher_that_gives_what_lies_within_is_refused(tmp_path):
    nodes = [("Flatten", ["data"], "answer", {}), ("Flatten", ["answer"], "unread", {})]
    save_teacher(tmp_path / "teacher.onnx", nodes, {})
    with pytest.raises(ValueError, match="must give what its last operation does"):
        OnnxTeacher(tmp_path / "teacher.onnx")
