"""Networks that were made to harm: refused before onnxruntime sees them."""

import numpy as np
import pytest

from sfpose import FaceEmbedder
from sfpose.runtime.artifact import read_artifact, write_artifact
from sfpose.runtime.inspection import OPERATORS, check_network
from sfpose.runtime.protobuf import Message
from sfpose.runtime.session import OnnxModel

onnx = pytest.importorskip("onnx", reason="hostile networks are built with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGE = np.full((16, 16, 3), 200, np.uint8)
MANIFEST = {
    "name": "tiny",
    "kind": "descriptor",
    "network": "none",
    "input": {"size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "descriptor": {"size": 4, "normalization": "l1"},
}
WEIGHTS = np.random.default_rng(0).random((4, 3, 1, 1), dtype=np.float32)


def _network(nodes=None, tensors=None, opset=17, **graph):
    """A whole little descriptor network, or one with other nodes and tensors."""
    nodes = nodes or [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["outputs"], axes=[2, 3], keepdims=0),
    ]
    tensors = tensors or [numpy_helper.from_array(WEIGHTS, "weights")]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in [("images", ["n", 3, 8, 8]), ("outputs", ["n", 4])]
    ]
    made = helper.make_graph(nodes, "tiny", values[:1], values[1:], tensors, **graph)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _bytes(model):
    return model.SerializeToString()


def written(folder, model, **changes):
    return write_artifact(folder, model, {**MANIFEST, **changes})


def tiny(folder, **changes):
    """An artifact of the little network."""
    return written(folder, _bytes(_network()), **changes)


def test_the_little_network_itself_is_fine(tmp_path):
    folder = tiny(tmp_path / "tiny")
    (row,) = FaceEmbedder(folder).transform([IMAGE])
    expected = np.maximum((200 / 255 - 0.5) / 0.25 * WEIGHTS.sum((1, 2, 3)), 0)
    np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["default", "landmarks"])
def test_what_ships_passes_and_the_reader_agrees_with_onnx(name):
    data = read_artifact(name).model
    check_network(data)
    expected = onnx.load_from_string(data)
    graph = Message(data).message(7)
    nodes = list(graph.messages(1))
    assert [node.text(4) for node in nodes] == [node.op_type for node in expected.graph.node]
    assert [node.texts(1) for node in nodes] == [list(node.input) for node in expected.graph.node]
    tensors = {tensor.text(8): tensor for tensor in graph.messages(5)}
    for tensor in expected.graph.initializer:
        assert tensors[tensor.name].numbers(1) == list(tensor.dims)
        assert bytes(tensors[tensor.name].data(9)) == tensor.raw_data


def _external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _with(change):
    model = _network()
    change(model)
    return _bytes(model)


def _node(operator, *inputs, outputs=("outputs",), **attributes):
    return _bytes(_network([helper.make_node(operator, list(inputs), list(outputs), **attributes)]))


def _loop():
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("Loop", ["images"], ["outputs"], body=body)
    return _bytes(_network([node]))


def _hidden_graph():
    """A subgraph in an attribute of an operator that has none."""
    body = helper.make_graph([], "body", [], [])
    return _node("Relu", "images", body=body)


def _split_graph():
    """Protobuf merges a field that comes twice; whoever looks at one part is fooled."""
    return _bytes(_network()) + _bytes(_network(opset=17))


def _function():
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("Loop", ["x"], ["y"])], []
    )
    return _with(lambda model: model.functions.append(function))


def _tensor(**changes):
    def change(model):
        for name, value in changes.items():
            if name == "dims":
                del model.graph.initializer[0].dims[:]
                model.graph.initializer[0].dims.extend(value)
            else:
                setattr(model.graph.initializer[0], name, value)

    return _with(change)


def _typed(values):
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, (4, 3, 1, 1), values)
    return _bytes(_network(tensors=[tensor]))


def _resized(*scales):
    nodes, last = [], "images"
    tensors = [numpy_helper.from_array(np.array([1, 1, s, s], np.float32), f"s{s}") for s in scales]
    for number, scale in enumerate(scales):
        nodes.append(helper.make_node("Resize", [last, "", f"s{scale}"], [f"r{number}"]))
        last = f"r{number}"
    nodes.append(helper.make_node("ReduceMean", [last], ["outputs"], axes=[2, 3], keepdims=0))
    return _bytes(_network(nodes, tensors))


def _varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _field(number, data, beyond=0):
    """A field of bytes; protobuf keeps 32 bits of a tag, so 2**32 is what it does not see."""
    return _varint((number << 3 | 2) + beyond) + _varint(len(data)) + data


def _beyond_32_bits(part):
    """External data, or another operator, in fields that seem to be unknown ones."""
    graph = _network().graph
    node, tensor = graph.node.pop(), graph.initializer.pop()
    node, tensor = node.SerializeToString(), tensor.SerializeToString()
    if part == "operator":
        node += _field(4, b"RandomNormalLike", 2**32)
    else:
        entry = _field(1, b"location") + _field(2, b"/etc/passwd")
        tensor += _field(13, entry, 2**32) + _varint((14 << 3) + 2**32) + b"\1"
    whole = graph.SerializeToString() + _field(1, node) + _field(5, tensor)
    model = _network()
    model.ClearField("graph")
    return model.SerializeToString() + _field(7, whole)


HOSTILE = {
    "external data beyond 32 bits": (lambda: _beyond_32_bits("data"), "tag of more than 32 bits"),
    "an operator beyond 32 bits": (
        lambda: _beyond_32_bits("operator"),
        "tag of more than 32 bits",
    ),
    "an attribute given twice": (
        lambda: _with(
            lambda m: m.graph.node[2].attribute.append(helper.make_attribute("axes", [1]))
        ),
        "attributes must have different names; 'axes' of ReduceMean comes twice",
    ),
    "external data": (lambda: _with(_external), "lies in another file"),
    "external place, own data": (lambda: _tensor(data_location=1), "lies in another file"),
    "another domain": (
        lambda: _node("Relu", "images", domain="com.evil"),
        r"image networks; got 'com\.evil\.Relu'",
    ),
    "another operator": (lambda: _node("NonZero", "images"), "image networks; got 'NonZero'"),
    "random numbers": (lambda: _node("RandomNormal", shape=[10**6] * 3), "got 'RandomNormal'"),
    "a size from a number": (lambda: _node("ConstantOfShape", "x"), "got 'ConstantOfShape'"),
    "a loop": (_loop, "got 'Loop'"),
    "a hidden subgraph": (_hidden_graph, "must hold no graph"),
    "a function": (_function, "no functions"),
    "two graphs in one": (_split_graph, "field 7 must stand once"),
    "an old opset": (lambda: _bytes(_network(opset=6)), "opset must be 9 to 24; got"),
    "a future opset": (lambda: _bytes(_network(opset=999)), "opset must be 9 to 24; got"),
    "no opset": (lambda: _with(lambda m: m.ClearField("opset_import")), "got none"),
    "a tensor larger than its data": (lambda: _tensor(dims=[2**31, 2**31]), "must not have"),
    "a tensor whose size overflows": (lambda: _tensor(dims=[2**62, 4]), "must not have"),
    "a tensor of negative size": (lambda: _tensor(dims=[-4, -3]), "must not be negative"),
    "a tensor of text": (lambda: _tensor(data_type=TensorProto.STRING), "plain numbers"),
    "values given twice": (
        lambda: _with(lambda m: m.graph.initializer[0].float_data.append(1)),
        "state its values once",
    ),
    "too few listed values": (
        lambda: _tensor(raw_data=b"", dims=[4, 3, 1, 1]),
        "must not have",
    ),
    "NaN": (lambda: _tensor(raw_data=b"\xff" * 48), "weights must be finite; 'weights' holds"),
    "infinity in listed values": (lambda: _typed([np.inf] + [1] * 11), "must be finite"),
    "NaN in a constant": (
        lambda: _bytes(
            _network(
                [
                    helper.make_node(
                        "Constant",
                        [],
                        ["outputs"],
                        value=numpy_helper.from_array(np.array([np.nan], np.float32)),
                    )
                ]
            )
        ),
        "must be finite",
    ),
    "one name for two tensors": (
        lambda: _with(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "'weights' comes twice",
    ),
    "one name for two results": (
        lambda: _with(lambda m: m.graph.node.append(m.graph.node[0])),
        "'maps' comes twice",
    ),
    "a result that replaces a tensor": (
        lambda: _with(lambda m: m.graph.node[0].output.__setitem__(0, "weights")),
        "'weights' comes twice",
    ),
    "sparse tensors": (
        lambda: _with(lambda m: m.graph.sparse_initializer.add()),
        "no sparse tensors",
    ),
    "two inputs": (
        lambda: _with(
            lambda m: m.graph.input.append(
                helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
            )
        ),
        "one input and one output; got 2 and 1",
    ),
    "two outputs": (
        lambda: _with(lambda m: m.graph.output.append(m.graph.output[0])),
        "one input and one output; got 1 and 2",
    ),
    "enormous padding": (
        lambda: _node("Conv", "images", "weights", pads=[2**31] * 4),
        "pads of Conv must be 0 to 512",
    ),
    "enormous kernels": (
        lambda: _node("MaxPool", "images", kernel_shape=[10**9, 10**9]),
        "kernel_shape of MaxPool must be 0 to 512",
    ),
    "an enormous enlargement": (lambda: _resized(1000), "enlarge at most 16 times"),
    "many enlargements": (lambda: _resized(4, 3, 2), "enlarge at most 16 times"),
    "an enlargement from elsewhere": (
        lambda: _node("Resize", "images", "", "images"),
        "scales that stand in the file",
    ),
    "too many nodes": (
        lambda: _bytes(
            _network([helper.make_node("Relu", ["images"], [f"r{n}"]) for n in range(10_001)])
        ),
        "at most 10000 nodes",
    ),
    "no graph": (lambda: b"\x08\x08", "got none|no graph"),
    "nothing": (lambda: b"", "got none|no graph"),
    "half a file": (lambda: _bytes(_network())[:-20], "where .* are"),
    "onnxruntime's own format": (lambda: b"\x28\0\0\0ORTM" + b"\0" * 99, "must be an ONNX file"),
    "text": (lambda: b"#!/bin/sh\nrm -rf /\n", "must be an ONNX file"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", "must be an ONNX file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_networks_are_refused_before_a_session_is_made(kind, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("onnxruntime was given a hostile network")

    make, message = HOSTILE[kind]
    data = make()
    folder = written(tmp_path / "hostile", data)
    monkeypatch.setattr("onnxruntime.InferenceSession", never)
    with pytest.raises(ValueError, match=message) as raised:
        FaceEmbedder(folder).transform([IMAGE])
    assert "the network must be an ONNX file that onnxruntime can load" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile"]


def test_damage_where_the_check_does_not_look_is_refused_by_onnxruntime():
    """Found by the fuzzer: the metadata of a node, which no other check reads, is no message."""
    model = _network()
    node = model.graph.node[0].SerializeToString() + _field(9, b"\xff")
    del model.graph.node[0]
    model.graph.ClearField("name")
    graph = _field(1, node) + model.graph.SerializeToString()
    model.ClearField("graph")
    data = model.SerializeToString() + _field(7, graph)
    check_network(data)
    with pytest.raises(ValueError, match="an ONNX file that onnxruntime can load"):
        OnnxModel(data).run(np.zeros((1, 3, 8, 8), np.float32))


def test_operators_of_all_networks_of_the_library_are_allowed():
    """Exported here only where torch is; the list itself is of standard operators."""
    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert schemas >= OPERATORS
    looping = {"If", "Loop", "Scan", "SequenceMap", "Bernoulli", "Expand", "Tile", "Pad"}
    assert not OPERATORS & looping


def test_networks_that_answer_otherwise_than_their_manifest_are_refused(tmp_path):
    for name, changes, message in [
        ("wide", {"descriptor": {"size": 5, "normalization": "l1"}}, "must give 5 values an image"),
        ("large", {"input": {**MANIFEST["input"], "size": 9}}, "must answer a batch of shape"),
    ]:
        folder = tiny(tmp_path / name, **changes)
        with pytest.raises(ValueError, match=message):
            FaceEmbedder(folder).transform([IMAGE])
    negative = [numpy_helper.from_array(-WEIGHTS, "weights")]
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("ReduceMean", ["maps"], ["outputs"], axes=[2, 3], keepdims=0),
    ]
    folder = written(tmp_path / "negative", _bytes(_network(nodes, negative)))
    with pytest.raises(ValueError, match="must give finite values >= 0"):
        FaceEmbedder(folder).transform([IMAGE])
    overflowing = [numpy_helper.from_array(np.full_like(WEIGHTS, 3e38), "weights")]
    folder = written(tmp_path / "infinite", _bytes(_network(tensors=overflowing)))
    with pytest.raises(ValueError, match="must give finite values >= 0"):
        FaceEmbedder(folder).transform([IMAGE])


def test_a_session_is_never_made_of_another_format(monkeypatch):
    """The checks read ONNX; onnxruntime must not take the bytes for something else."""
    import onnxruntime

    seen = []
    whole = onnxruntime.InferenceSession

    def spy(model, options, **more):
        seen.append(options.get_session_config_entry("session.load_model_format"))
        return whole(model, options, **more)

    monkeypatch.setattr("onnxruntime.InferenceSession", spy)
    OnnxModel(_bytes(_network())).run(np.zeros((1, 3, 8, 8), np.float32))
    assert seen == ["ONNX"]
