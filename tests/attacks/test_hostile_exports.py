"""Hostile networks where they are changed or written for other runtimes: refused as elsewhere."""

import json

import numpy as np
import pytest

from sfpose.cli import main
from sfpose.runtime.artifact import Artifact, read_artifact, write_artifact

onnx = pytest.importorskip("onnx", reason="hostile networks are built with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SECRET = b"SECRET of the working folder ...SECRET of the wo"


def _external(place):
    """The shipped network of landmarks whose first tensor lies in a file of somebody else."""
    model = onnx.load_from_string(read_artifact("landmarks").model)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.ClearField("dims")
    tensor.dims.extend([len(SECRET) // 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": place, "length": str(len(SECRET))}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def _written(folder, model):
    manifest = {**read_artifact("plain").manifest, "calibration": None}
    return write_artifact(folder, model, manifest)


HOSTILE = {
    "external data": (lambda: _external("private.bin"), "lies in another file"),
    "external data elsewhere": (lambda: _external("../private.bin"), "lies in another file"),
    "no ONNX file": (lambda: b"garbage", "must be an ONNX file"),
    "nothing": (lambda: b"", "must be an ONNX file"),
    "onnxruntime's own format": (lambda: b"\x28\0\0\0ORTM" + b"\0" * 99, "must be an ONNX file"),
}


@pytest.mark.parametrize("target", ["onnx", "ort", "mirrored", "mean"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_hostile_is_exported(tmp_path, monkeypatch, capsys, kind, target):
    if target in ("mirrored", "mean"):
        pytest.importorskip("torch")
    make, message = HOSTILE[kind]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for place in (tmp_path, tmp_path / "work"):
        (place / "private.bin").write_bytes(SECRET)
    _written(tmp_path / "hostile", make())
    names = ["../hostile"] * (2 if target == "mean" else 1)
    assert main(["export", "--target", target, "--out", "out", "--weights", *names]) == 2
    assert message in (said := capsys.readouterr().err)
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["private.bin"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_hostile_is_changed(monkeypatch, tmp_path, kind):
    pytest.importorskip("torch")
    from sfpose.training.export import stored_parameters
    from sfpose.training.mirroring import mirrored, without_mirror
    from sfpose.training.quantization import quantize

    make, message = HOSTILE[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.bin").write_bytes(SECRET)
    artifact = Artifact(make(), read_artifact("plain").manifest)
    photos = [np.full((64, 64, 3), 99, np.uint8)]
    for change in (stored_parameters, mirrored, without_mirror, lambda a: quantize(a, photos)):
        with pytest.raises(ValueError, match=message):
            change(artifact)


@pytest.mark.parametrize("place", ["private.bin", "../private.bin", "/etc/hostname"])
def test_a_teacher_reads_no_other_file(tmp_path, monkeypatch, place):
    pytest.importorskip("torch")
    from sfpose.training.teachers import OnnxTeacher

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for folder in (tmp_path, tmp_path / "work"):
        (folder / "private.bin").write_bytes(SECRET)
    path = tmp_path / "work" / "teacher.onnx"
    path.write_bytes(_external(place))
    with pytest.raises(ValueError, match=r"must hold its own data; .* lies in another file"):
        OnnxTeacher(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="must be an ONNX file that onnx can load"):
        OnnxTeacher(path)


def test_weights_of_eight_bits_without_a_scale_are_told():
    pytest.importorskip("torch")
    from sfpose.training.export import stored_parameters

    node = helper.make_node("DequantizeLinear", ["weights", "images"], ["outputs"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("images", "outputs")
    ]
    stored = [numpy_helper.from_array(np.ones(3, np.uint8), "weights")]
    graph = helper.make_graph([node], "odd", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(ValueError, match=r"must have scale and zero point .*'weights'"):
        stored_parameters(Artifact(model, {}))


@pytest.mark.parametrize(
    ("axis", "scale", "zero", "fits"),
    [(-2, 4, 4, True), (0, 4, 4, True), (1, 3, 3, True), (-2, 5, 4, False), (0, 4, 3, False)],
)
def test_weights_of_eight_bits_have_a_scale_for_each_row_or_column(axis, scale, zero, fits):
    pytest.importorskip("torch")
    from sfpose.training.export import stored_parameters

    values = np.arange(12, dtype=np.int8).reshape(4, 3)
    scales = np.linspace(0.5, 1, scale).astype(np.float32)
    zeros = np.arange(zero, dtype=np.int8)
    tensors = {"w_quantized": values, "w_scale": scales, "w_zero": zeros}
    node = helper.make_node("DequantizeLinear", list(tensors), ["w"], axis=axis)
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "iw"]
    graph = helper.make_graph([node], "weights", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = Artifact(model.SerializeToString(), {})
    if not fits:
        with pytest.raises(ValueError, match="a scale and zero point, or one for each"):
            stored_parameters(artifact)
        return
    shape = (-1, 1) if axis in (0, -2) else (1, -1)
    expected = (values.astype(float) - zeros.reshape(shape)) * scales.reshape(shape)
    np.testing.assert_allclose(stored_parameters(artifact)["w"].numpy(), expected, rtol=1e-6)


def test_what_cannot_be_fed_is_not_exported(tmp_path, capsys):
    """Before, the file was replaced and an error followed."""
    shipped = read_artifact("landmarks")
    for number, settings in enumerate([{}, {"size": "x"}, {"size": 64, "mean": [0], "std": [1]}]):
        folder = write_artifact(
            tmp_path / str(number), shipped.model, {**shipped.manifest, "input": settings}
        )
        out = tmp_path / "mine.onnx"
        out.write_bytes(b"mine")
        for target in ("onnx", "ort"):
            command = ["export", "--target", target, "--out", str(out), "--overwrite"]
            assert main([*command, "--weights", str(folder)]) == 2
            assert "must be" in (said := capsys.readouterr().err)
            assert "Traceback" not in said
            assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": None, "network": None}, "weights not stated: not stated"),
        ({"name": "\x1b[2Jmine"}, r"weights \x1b[2Jmine: "),
        ({"calibration": None}, "licence"),
        ({"calibration": {}}, "licence"),
        ({"calibration": {"conditions": []}}, "licence"),
        ({"calibration": {"data": None, "conditions": []}}, "licence"),
        ({"input": {}}, "licence"),
        ({"calibration": True}, None),
        ({"calibration": [1]}, None),
        ({"calibration": {"conditions": None}}, None),
    ],
)
def test_info_tells_what_a_manifest_states(tmp_path, capsys, changes, told):
    shipped = read_artifact("plain")
    manifest = {**shipped.manifest, **changes}
    kept = {name: value for name, value in manifest.items() if value is not None}
    folder = write_artifact(tmp_path / "odd", shipped.model, kept)
    done = main(["info", "--weights", str(folder)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if told is None:
        assert done == 2
        assert "calibration" in said.err
    else:
        assert done == 0
        assert told in said.out


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("fnmr", None, "(not stated)"),
        ("fnmr", "x", "(not stated)"),
        ("impostor_pairs", None, None),
        ("impostor_pairs", "x", None),
        ("threshold", True, None),
    ],
)
def test_info_tells_thresholds_as_far_as_they_are_stated(tmp_path, capsys, name, value, told):
    shipped = read_artifact("plain")
    manifest = json.loads(json.dumps(dict(shipped.manifest)))
    manifest["calibration"]["conditions"][0]["thresholds"][0][name] = value
    folder = write_artifact(tmp_path / "odd", shipped.model, manifest)
    assert main(["info", "--weights", str(folder)]) == (2 if told is None else 0)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "of another form" in said.err if told is None else told in said.out


def test_what_has_no_name_is_not_mirrored(tmp_path, capsys):
    pytest.importorskip("torch")
    shipped = read_artifact("plain")
    manifest = {name: value for name, value in shipped.manifest.items() if name != "name"}
    folder = write_artifact(tmp_path / "odd", shipped.model, manifest)
    command = ["export", "--target", "mirrored", "--out", str(tmp_path / "out")]
    assert main([*command, "--weights", str(folder)]) == 2
    assert "a manifest must state a name where none is given" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("aside", [True, False])
def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch, capsys, aside):
    pytest.importorskip("torch")
    shipped = read_artifact("plain")
    here = write_artifact(tmp_path / "here", shipped.model, shipped.manifest)
    monkeypatch.chdir(tmp_path if aside else here)
    monkeypatch.setattr("sfpose.training.mirroring.mirrored", None)
    if aside:
        (tmp_path / ".here.previous").mkdir()
    command = ["export", "--target", "mirrored", "--weights", "plain", "--overwrite"]
    assert main([*command, "--out", str(here)]) == 2
    said = capsys.readouterr().err
    assert ("it has no manifest.json: move it away" if aside else "working directory") in said
    assert main(["train", "paper", "--stage1", "nowhere", "--overwrite", "--out", str(here)]) == 2
    assert said.partition(": ")[2] == capsys.readouterr().err.partition(": ")[2]


@pytest.mark.parametrize("out", ["x/" * 2000, "x" * 300, "/"])
def test_places_that_lead_nowhere_are_told(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    for target in ("onnx", "mirrored"):
        assert main(["export", "--target", target, "--out", out]) == 2
        assert "a path must lead to a name of 1 to 232 bytes" in (said := capsys.readouterr().err)
        assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
