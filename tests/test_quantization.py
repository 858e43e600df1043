"""Eight-bit networks answer nearly as their float32 originals."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx", reason="quantisation needs the [train] extra")

from sfpose import FaceAligner, FaceEmbedder  # noqa: E402
from sfpose._scoring import chi2_matrix  # noqa: E402
from sfpose.cli import main  # noqa: E402
from sfpose.preprocessing import as_network_input  # noqa: E402
from sfpose.runtime.artifact import Artifact, read_artifact, write_artifact  # noqa: E402
from sfpose.runtime.session import OnnxModel  # noqa: E402
from sfpose.training.export import CHANNEL_SCALE, network_from_artifact  # noqa: E402
from sfpose.training.mirroring import mirrored  # noqa: E402
from sfpose.training.quantization import (  # noqa: E402
    _inputs,
    _pooled_before_relu,
    _with_small_matrices,
    quantize,
)


@pytest.fixture(scope="module")
def faces(shared_data):
    from sfpose.protocols import ImageFiles, LazyImages

    files = ImageFiles(shared_data / "fairface_128_4.zip")
    names = [name for name in files.images() if name.startswith("val/")]
    return LazyImages(files, names[:80])


@pytest.fixture(scope="module")
def small(faces):
    logging.disable(logging.WARNING)
    try:
        return quantize(read_artifact("plain"), faces[:48])
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
def test_descriptors_of_other_photos_hardly_change(small, faces, tmp_path):
    path = write_artifact(tmp_path / "small", small.model, small.manifest)
    assert len(small.model) < 0.3 * len(read_artifact("plain").model)
    others = list(faces[48:])
    whole = FaceEmbedder("plain", min_face_score=0).transform(others)
    eight = FaceEmbedder(path, min_face_score=0).transform(others)
    # Beside the distance of strangers, which does not depend on how many values are zero.
    distances = chi2_matrix(whole, eight)
    strangers = distances[~np.eye(len(others), dtype=bool)]
    assert np.median(np.diag(distances)) < 0.025 * np.median(strangers)
    # A value that fires once in thousands of photos lies outside of the calibrated range.
    same = [np.corrcoef(a, b)[0, 1] for a, b in zip(whole, eight, strict=True)]
    assert np.quantile(same, 0.1) > 0.95
    kinds = {node.op_type for node in onnx.load_from_string(small.model).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.fixture(
    scope="module",
    params=[
        "squeezefaceposenet+deeper7+places+map",
        "squeezefaceposenet+centre+coarse+places+map",
    ],
)
def mapped(request, random_mapped):
    """A network that ends in a map and places, as the random numbers made it."""
    return random_mapped(request.param)


def test_a_matrix_in_eight_bits_answers_as_in_float32(mapped):
    whole = onnx.load_from_string(mapped.model)
    small = onnx.load_from_string(mapped.model)
    assert _with_small_matrices(small) is small
    onnx.checker.check_model(small)
    size = mapped.network_input.size
    images = np.random.default_rng(0).normal(size=(4, 3, size, size)).astype(np.float32)
    expected, found = (OnnxModel(m.SerializeToString()).run(images) for m in (whole, small))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.filterwarnings("ignore")
def test_matrices_are_stored_in_eight_bits_and_come_back(mapped):
    from sfpose.training.export import network_from_artifact, stored_parameters

    photos = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    small = quantize(mapped, list(photos))
    assert len(small.model) < 0.28 * len(mapped.model)
    kinds = {tensor.name: tensor for tensor in onnx.load_from_string(small.model).graph.initializer}
    assert "map.weight" not in kinds
    for name in ("map.weight_quantized", "placed.weight_quantized"):
        assert kinds[name].data_type == onnx.TensorProto.INT8
    before, after = (stored_parameters(each) for each in (mapped, small))
    matrix = before["map.weight"]
    assert kinds["map.weight_quantized"].dims == [matrix.shape[1], 128]
    step = matrix.abs().amax(0) / 127
    assert float(((after["map.weight"] - matrix) / step).abs().max()) <= 0.5001
    assert network_from_artifact(small).placed.weight.any()


def _check_concatenated_at_one_scale(model, count):
    graph = onnx.load_from_string(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = 0
    for rounds in graph.node:
        joined = makers.get(rounds.input[0]) if rounds.op_type == "QuantizeLinear" else None
        if joined is None or joined.op_type != "Concat":
            continue
        found += 1
        halves = [makers[name] for name in joined.input]
        assert all(half.op_type == "DequantizeLinear" for half in halves)
        for half in (*halves, *(makers[half.input[0]] for half in halves)):
            for own, of_all in zip(half.input[1:], rounds.input[1:], strict=True):
                assert values[own] == values[of_all]
    assert found == count
    # Nothing stays behind that is not used.
    assert set(values) <= {name for node in graph.node for name in node.input}


@pytest.mark.filterwarnings("ignore")
def test_halves_of_a_fire_module_are_rounded_at_one_scale(small, mapped):
    _check_concatenated_at_one_scale(small.model, 8)
    photos = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    eight = quantize(mapped, list(photos)).model
    several = "coarse" in mapped.manifest["network"]
    _check_concatenated_at_one_scale(eight, 25 if several else 15)


def test_ranges_are_those_of_all_images(small, faces):
    """Of a whole fire module the mean of the maxima of batches, of a value's map the highest."""
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    network, settings = network_from_artifact(read_artifact("plain")).eval(), small.network_input
    modules = [f"fire{number}" for number in range(2, 10)]
    seen = {name: [] for name in (*modules, "conv10")}
    for name in seen:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _given, result, name=name: seen[name].append(result.numpy())
        )
    crops = list(FaceAligner(size=settings.size, min_face_score=0).transform(faces[:48]))
    with torch.inference_mode():
        for first in (0, 16, 32):
            batch = crops[first : first + 16]
            network(torch.from_numpy(as_network_input(batch, settings.mean, settings.std)))
    graph = onnx.load_from_string(small.model).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    joined = [node.output[0] for node in graph.node if node.op_type == "Concat"]
    rounds = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    scales = [stored[rounds[name].input[1]] for name in joined]
    highest = [[batch.max() for batch in seen[name]] for name in modules]
    assert np.ptp(highest, axis=1).min() > 0
    np.testing.assert_allclose(255 * np.array(scales), np.mean(highest, axis=1), rtol=1e-3)
    tops = np.concatenate(seen["conv10"]).max((0, 2, 3))
    expected = np.maximum(tops, 1e-3 * tops.max())
    np.testing.assert_allclose(stored[CHANNEL_SCALE], expected, rtol=1e-3)


def test_training_can_go_on_from_eight_bits(small, faces):
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    from sfpose.training.export import network_from_artifact, stored_parameters

    whole = stored_parameters(read_artifact("plain"))
    network = network_from_artifact(small).eval()
    for name, kept in network.named_parameters():
        if name.endswith("weight"):
            largest = whole[name].abs().amax((1, 2, 3), keepdim=True)
            rounding = (kept.detach() - whole[name]).abs() / (largest / 127)
            assert float(rounding.max()) < 0.51, name
    settings = small.network_input
    crops = FaceAligner(size=settings.size, min_face_score=0).transform(faces[48:])
    images = as_network_input(list(crops), settings.mean, settings.std)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    eight = OnnxModel(small.model).run(images)
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(found, eight, strict=True)]) > 0.99


@pytest.mark.parametrize("weights", ["default", "small", "plain-int8"])
def test_the_first_maxima_are_taken_before_relu(weights):
    """Else onnxruntime takes them in eight bits, by code that is twenty times slower."""
    graph = onnx.load_from_string(read_artifact(weights).model).graph
    after = {name: node.op_type for node in graph.node for name in node.input}
    makers = {name: node.op_type for node in graph.node for name in node.output}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    first = [pool for pool in pools if makers[pool.input[0]] == "Conv"]
    assert len(first) == len(pools) // 3
    assert {after[pool.output[0]] for pool in first} == {"Relu"}


def test_maxima_before_relu_say_the_same():
    whole = onnx.load_from_string(read_artifact("plain").model)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    expected = OnnxModel(whole.SerializeToString()).run(images)
    changed = _pooled_before_relu(whole)
    onnx.checker.check_model(changed, full_check=True)
    kinds = [node.op_type for node in changed.graph.node]
    assert kinds[:3] == ["Conv", "MaxPool", "Relu"]
    np.testing.assert_array_equal(OnnxModel(changed.SerializeToString()).run(images), expected)


def _convolutions_of_pixels(model):
    """Nodes that take the image, its parts and copies, whatever rounds these, up to the first."""
    graph = onnx.load_from_string(model).graph
    rounds = {"QuantizeLinear", "DequantizeLinear"}
    pixels = {graph.input[0].name}
    for node in graph.node:
        if node.op_type in {"Slice", "Resize", "Concat", *rounds} and pixels & set(node.input):
            assert node.op_type not in rounds, "pixels are rounded"
            pixels.update(node.output)
    return [node for node in graph.node if node.op_type == "Conv" and node.input[0] in pixels]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("network", "looks"),
    [
        ("plain", 1),
        ("squeezefaceposenet+tight+places+map", 1),
        ("squeezefaceposenet+centre+places+map", 2),
    ],
)
def test_eight_bits_of_a_mirrored_network_are_those_of_the_network_alone(
    network, looks, random_mapped, portrait
):
    whole = read_artifact("plain") if network == "plain" else random_mapped(network)
    faces = [np.roll(portrait[number:], 3 * number, 1) for number in range(0, 12, 3)]
    found = quantize(mirrored(whole), faces)
    expected = mirrored(quantize(whole, faces))
    name = whole.manifest["name"]
    assert found.manifest == {**expected.manifest, "name": f"{name}-mirrored-int8"}
    side = whole.network_input.size
    images = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
    rows = OnnxModel(found.model).run(images)
    np.testing.assert_array_equal(rows, OnnxModel(expected.model).run(images))
    np.testing.assert_array_equal(
        rows, OnnxModel(found.model).run(np.ascontiguousarray(images[..., ::-1]))
    )
    convolutions = _convolutions_of_pixels(found.model)
    assert len(convolutions) == looks
    graph = onnx.load_from_string(found.model).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {kinds[node.input[1]] for node in convolutions} == {onnx.TensorProto.FLOAT}


def test_images_are_cropped_as_the_embedder_crops_them():
    """Of a bundle of crops that were made elsewhere, the whole; else seven eighths."""
    plain = read_artifact("plain")
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)

    def inputs(align):
        manifest = {**plain.manifest, "bundle": {"align": align}}
        return next(_inputs(replace(plain, manifest=manifest), crops, 1))

    settings = plain.network_input
    expected = ((crops / 255 - settings.mean) / settings.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(inputs("done"), expected, atol=1e-5)
    assert np.abs(inputs(False) - expected).max() > 0.1


def test_what_was_calibrated_for_float32_is_not_kept(small):
    assert "calibration" not in small.manifest
    assert small.manifest["name"] == "plain-int8"
    with pytest.raises(ValueError, match="can be quantised once"):
        quantize(small, [np.zeros((64, 64, 3), np.uint8)])


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match="got kind 'landmarks'"):
        quantize(read_artifact("landmarks"), [np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="got none"):
        quantize(read_artifact("plain"), [])
    whole = read_artifact("plain")
    graph = onnx.load_from_string(whole.model)
    assert graph.graph.node[-1].op_type == "ReduceMean"
    graph.graph.node[-1].op_type = "ReduceMax"
    other = Artifact(graph.SerializeToString(), whole.manifest)
    with pytest.raises(ValueError, match="must end in Conv, Relu and ReduceMean"):
        quantize(other, ["not read before it is refused"])
    graph.graph.node[-1].op_type = "ReduceMean"
    graph.opset_import[0].version = 18
    other = Artifact(graph.SerializeToString(), whole.manifest)
    for change in (mirrored, lambda artifact: quantize(artifact, ["not read"])):
        with pytest.raises(ValueError, match="must be of opset 10 to 17; got 18"):
            change(other)


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_an_artifact(tmp_path, portrait, capsys):
    for number in range(3):
        Image.fromarray(portrait[number * 4 :]).save(tmp_path / f"{number}.png")
    arguments = ["export", "--weights", "plain", "--target", "int8", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "int8 needs --images" in capsys.readouterr().err
    assert main([*arguments, "--images", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bytes"] == len(read_artifact(tmp_path / "out").model)


@pytest.mark.filterwarnings("ignore")
def test_the_command_takes_what_it_mirrored(tmp_path, portrait):
    Image.fromarray(portrait).save(tmp_path / "0.png")
    both, small = (str(tmp_path / name) for name in ("both", "small"))
    assert main(["export", "--target", "mirrored", "--weights", "plain", "--out", both]) == 0
    arguments = ["export", "--target", "int8", "--weights", both, "--out", small]
    assert main([*arguments, "--images", str(tmp_path)]) == 0
    made = read_artifact(small)
    assert made.manifest["mirrored"]
    assert made.manifest["quantization"]["images"] == 1
    rows = FaceEmbedder(small, min_face_score=0).transform([portrait, portrait[:, ::-1]])
    whole = FaceEmbedder(both, min_face_score=0).transform([portrait, portrait[:, ::-1]])
    assert np.corrcoef(rows[0], whole[0])[0, 1] > 0.9
