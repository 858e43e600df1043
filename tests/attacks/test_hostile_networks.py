"""What an ONNX file hides where a first look does not go: refused before onnxruntime sees it."""

import numpy as np
import pytest

from sfpose.runtime.inspection import check_network
from sfpose.runtime.protobuf import Message

onnx = pytest.importorskip("onnx", reason="hostile networks are built with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def _network(nodes=None, tensors=(), opset=17):
    nodes = nodes or [helper.make_node("Relu", ["images"], ["outputs"])]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8])
        for name in ("images", "outputs")
    ]
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _changed(change):
    model = _network(tensors=[numpy_helper.from_array(np.ones(4, np.float32), "weights")])
    change(model)
    return model


def _resized(*scales):
    nodes, tensors, last = [], [], "images"
    for number, scale in enumerate(scales):
        tensors.append(numpy_helper.from_array(np.float32(scale), f"s{number}"))
        nodes.append(helper.make_node("Resize", [last, "", f"s{number}"], [f"r{number}"]))
        last = f"r{number}"
    return _network([*nodes, helper.make_node("Relu", [last], ["outputs"])], tensors)


def _with_attribute(operator="Relu", **attributes):
    node = helper.make_node(operator, ["images"], ["outputs"])
    node.attribute.extend(helper.make_attribute(*each) for each in attributes.items())
    return _network([node])


def _listed(values, count):
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[count])
    tensor.float_data.extend(values)
    return _network(tensors=[tensor])


def _outside(model):
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _two_opsets(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 999))


def _bodies():
    return [helper.make_graph([], "body", [], [])]


def _sparse():
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, places, [3])


NAN = numpy_helper.from_array(np.float32([np.nan]), "hidden")
HOSTILE = {
    "a second opset": (lambda: _changed(_two_opsets), r"opset must be .*; got \[17, 999\]"),
    "one opset twice": (
        lambda: _changed(lambda m: m.opset_import.insert(0, helper.make_opsetid("", 7))),
        r"opset must be .*; got \[7, 17\]",
    ),
    "the opset after the last": (lambda: _network(opset=25), r"opset must be .*; got \[25\]"),
    "the opset before the first": (lambda: _network(opset=8), r"opset must be .*; got \[8\]"),
    "training": (lambda: _changed(lambda m: m.training_info.add()), "no training information"),
    "several subgraphs": (lambda: _with_attribute(bodies=_bodies()), "must hold no graph"),
    "a sparse tensor": (lambda: _with_attribute(value=_sparse()), "no sparse tensor"),
    "several sparse tensors": (lambda: _with_attribute(values=[_sparse()]), "no sparse tensor"),
    "NaN among several tensors": (lambda: _with_attribute(values=[NAN, NAN]), "must be finite"),
    "a negative padding": (
        lambda: _with_attribute("MaxPool", kernel_shape=[2, 2], pads=[0, 0, -9, 0]),
        r"pads of MaxPool must be 0 to 512; got \[0, 0, -9, 0\]",
    ),
    "an enlargement after the opposite": (
        lambda: _resized([0.01, 0.01], [100, 100]),  # of the axes that Resize names
        "at most 16 times in all; got",
    ),
    "an enlargement of one side": (lambda: _resized([1, 1, 99, 1]), "16 times in all; got 99"),
    "external data beside its own": (lambda: _changed(_outside), "lies in another file"),
    "more bytes than its shape has": (
        lambda: _changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 3)),
        r"'weights' of shape \[3\] must not have 16 bytes",
    ),
    "more values than its shape has": (
        lambda: _listed([1, 2, 3], 2),
        r"'weights' of shape \[2\] must not have 3 values",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_first_look_misses_is_refused(kind):
    make, message = HOSTILE[kind]
    with pytest.raises(ValueError, match=message):
        check_network(make().SerializeToString())


def test_what_is_like_it_and_harmless_passes():
    for model in (
        *(_network(opset=opset) for opset in (9, 24)),
        _listed([1, 2], 2),
        _resized([1, 1, 0.01, 0.01], [1, 1, 4, 4]),
        _resized([1, 1, 4, 2], [1, 1, 2, 1]),
        _with_attribute("MaxPool", kernel_shape=[512, 1], pads=[0, 0, 0, 512]),
        _changed(lambda m: m.opset_import.append(helper.make_opsetid("com.unused", 1))),
    ):
        check_network(model.SerializeToString())


def test_a_network_may_be_as_large_as_is_said(monkeypatch):
    data = _network().SerializeToString()
    monkeypatch.setattr("sfpose.runtime.inspection.LARGEST_NETWORK", len(data))
    check_network(data)
    with pytest.raises(ValueError, match=f"at most {len(data)} bytes; got {len(data) + 1}"):
        check_network(data + b"\0")


def test_whole_numbers_of_64_bits_come_back_as_protobuf_wrote_them():
    numbers = [0, 1, -1, 127, 128, 2**62, 2**63 - 1, -(2**63), 1 - 2**63]
    attribute = helper.make_attribute("pads", numbers)
    assert Message(attribute.SerializeToString()).numbers(8) == numbers
    for number in numbers:
        single = helper.make_attribute("axis", number).SerializeToString()
        assert Message(single).number(3) == number


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08" + b"\x80" * 10 + b"\x01", "a number at byte 1 does not end"),
        (b"\x08" + b"\x80" * 9, "a number at byte 1 does not end"),
        (b"\x00\x01", "field 0 of wire type 0"),
        (b"\x0b\x0c", "field 1 of wire type 3"),
        (b"\x0e", "field 1 of wire type 6"),
        (b"\x0a\x05hi", "field 1 of 5 bytes where 2 are"),
        (b"\x09\0\0\0\0", "field 1 of 8 bytes where 4 are"),
    ],
)
def test_what_is_no_message_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Message(data)


def test_ten_bytes_of_a_number_are_64_bits():
    """What stands above them is dropped, as protobuf does."""
    assert Message(b"\x08" + b"\xff" * 9 + b"\x7f").number(1) == -1
    assert Message(b"\x08" + b"\x80" * 9 + b"\x01").number(1) == -(2**63)


def test_bytes_and_numbers_are_not_taken_for_each_other():
    message = Message(b"\x08\x01\x08\x02\x12\x01x")
    assert message.numbers(1) == [1, 2]
    assert message.texts(2) == ["x"]
    for call in (lambda: message.each(1), lambda: message.texts(1)):
        with pytest.raises(ValueError, match="field 1 must be bytes; got a number"):
            call()
    with pytest.raises(ValueError, match="field 2 must be a number; got bytes"):
        message.number(2)
    with pytest.raises(ValueError, match="field 1 must stand once; it comes 2 times"):
        message.number(1)
