"""Networks of allowed operators that would kill the process, or cost far more than their size."""

import subprocess
import sys

import numpy as np
import pytest

from sfpose.runtime.inspection import check_network
from sfpose.runtime.session import OnnxModel

onnx = pytest.importorskip("onnx", reason="hostile networks are built with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WHOLE = "the network must be an ONNX file that onnxruntime can load; "


def _network(*nodes, tensors=None, opset=17):
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("images", "outputs")
    ]
    stored = tensors or {"ones": np.ones(8, np.float32)}
    graph = helper.make_graph(
        list(nodes),
        "hostile",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _one(operator, inputs, outputs=("outputs",), opset=17, **attributes):
    node = helper.make_node(operator, list(inputs), list(outputs), **attributes)
    return _network(node, opset=opset)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_one("LayerNormalization", ["images", ""]), "place 1 of LayerNormalization has none"),
        (_one("LayerNormalization", ["images", "ones", ""]), "place 2 of LayerNormalization"),
        (_one("Max", ["images", ""]), "place 1 of Max has none"),
        (_one("Min", ["images", ""]), "place 1 of Min has none"),
        (_one("Sum", ["", "images"]), "place 0 of Sum has none"),
        (_one("Concat", ["images", ""], axis=0), "place 1 of Concat has none"),
        (_one("Clip", ["", "ones"]), "place 0 of Clip has none"),
        (_one("Split", ["images"], ["", "outputs"], 12, axis=2), "one of Split has none"),
        (_one("Relu", ["images"], []), "one of Relu has none"),
        (
            _one("Split", ["images"], ["outputs", "more"], 18, axis=1, num_outputs=1),
            "num_outputs of Split must be the number of its results, 2; got 1",
        ),
        (
            _one("Split", ["images"], ["outputs"], 18, axis=1, num_outputs=2**40),
            "num_outputs of Split must be the number of its results, 1; got 1099511627776",
        ),
        (_one("Add", ["images", "nothing"]), "must be made before they are taken; Add .*'nothing'"),
        (_one("Add", ["images", "outputs"]), "must be made before they are taken; Add .*'outputs'"),
        (_one("Relu", ["images"], ["other"]), "its output must be the result of an operator"),
        (_one("Split", ["images"], ["outputs"] * 2, axis=0), "'outputs' comes twice"),
    ],
)
def test_names_that_are_missing_are_refused(model, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_network(model)
    assert str(raised.value).startswith(WHOLE)


def _divided(kind, divisor):
    """A network that divides the shape of its input, as numbers of a type, by another shape."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sides"], to=kind),
        helper.make_node("Neg", ["sides"], ["negative"]),
        helper.make_node("Div", ["negative", divisor], ["parts"]),
        helper.make_node("Cast", ["parts"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["values"], ["sum"]),
        helper.make_node("Add", ["images", "sum"], ["outputs"]),
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return _network(*nodes, tensors={divisor: np.array(_DIVISORS[divisor], dtype)})


_DIVISORS = {"two": 2, "zero": 0, "less": -1, "several": [3, 3, -1, 3]}


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("divisor", ["zero", "less", "several"])
def test_whole_numbers_are_divided_by_few(kind, divisor):
    """The least of them by -1 stops the process, and so did constants while they were read."""
    message = f"by others than 0 and -1 that stand in the file; got '{divisor}'"
    with pytest.raises(ValueError, match=message):
        check_network(_divided(kind, divisor))


def test_whole_numbers_are_divided_by_none_that_is_computed():
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Div", ["ones", "shape"], ["parts"]),
        helper.make_node("Cast", ["parts"], ["outputs"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ValueError, match="that stand in the file; got 'shape'"):
        check_network(_network(*nodes, tensors={"ones": np.ones(4, np.int64)}))


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32]
)
def test_all_numbers_are_divided_by_two(kind):
    answer = OnnxModel(_divided(kind, "two")).run(np.zeros((2, 4, 8, 8), np.float32))
    assert np.all(answer == -11)


@pytest.mark.parametrize("inputs", [[], ["images"], ["shape"], ["shape", "shape", "two"]])
def test_a_division_of_too_few_or_too_many_is_refused(inputs):
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Div", inputs, ["outputs"]),
    ]
    with pytest.raises(ValueError, match="onnxruntime"):
        OnnxModel(_network(*nodes, tensors={"two": np.int64(2)})).run(np.ones((1, 3, 8, 8), "f4"))


def test_a_network_that_normalises_each_image_alone_is_refused():
    """Of an image without pixels onnxruntime reads from nowhere."""
    network = _one("InstanceNormalization", ["images", "ones", "ones"])
    with pytest.raises(ValueError, match="those of image networks; got 'InstanceNormalization'"):
        check_network(network)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Clip", ["images", "", "top"], ["outputs"]),
        helper.make_node("Clip", ["images", "", ""], ["outputs"]),
        helper.make_node("Dropout", ["images", "", "no"], ["outputs"]),
        helper.make_node("Resize", ["images", "", "scales"], ["outputs"]),
        helper.make_node("Slice", ["images", "first", "last", "", "first"], ["outputs"]),
    ],
    ids=lambda node: " ".join([node.op_type, *node.input]),
)
def test_inputs_that_may_be_left_out_run(node):
    tensors = {
        "top": np.float32(9),
        "no": np.array(False),
        "scales": np.float32([1, 1, 0.5, 0.5]),
        "first": np.array([1, 1, 1, 1]),
        "last": np.array([9, 9, 9, 9]),
    }
    used = {name: tensors[name] for name in node.input if name in tensors}
    answer = OnnxModel(_network(node, tensors=used)).run(np.ones((2, 4, 8, 8), np.float32))
    assert np.all(answer == 1)


@pytest.mark.parametrize(
    ("scales", "fits"),
    [
        ([1, 1, 4, 4], True),
        ([0.25, 1, 4, 4], True),
        ([1, 16, 16, 16], False),
        ([1, 1, 4, 5], False),
        ([0.01, 1, 1, 17], False),
    ],
)
def test_an_enlargement_counts_all_sides(scales, fits):
    node = helper.make_node("Resize", ["images", "", "scales"], ["outputs"])
    model = _network(node, tensors={"scales": np.float32(scales)})
    if fits:
        check_network(model)
    else:
        with pytest.raises(ValueError, match="enlarge at most 16 times in all; got"):
            check_network(model)


def _varint(number):
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def _field(number, data):
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


OPSET_17 = _field(8, b"\x0a\x00\x10\x11")
MANY = 2 * 2**20


def _listed_whole_numbers():
    """An int64 tensor whose values are listed, each as a number of one byte."""
    count = _varint(2 * MANY)
    tensor = b"\x08" + count + b"\x10\x07" + _field(8, b"w") + _field(7, b"\x01" * 2 * MANY)
    return OPSET_17 + _field(7, b"\x0a\x00" + _field(5, tensor))


def _many_sides():
    tensor = _field(1, b"\x01" * MANY) + b"\x10\x07" + _field(8, b"w")
    return OPSET_17 + _field(7, b"\x0a\x00" + _field(5, tensor))


COSTLY = {
    "fields": lambda: b"\x0a\x00" * MANY,
    "nodes": lambda: OPSET_17 + _field(7, b"\x0a\x00" * MANY),
    "fields of many messages": lambda: OPSET_17 + _field(7, _field(1, b"\x0a\x00" * 5000) * 200),
    "listed whole numbers": _listed_whole_numbers,
    "sides": _many_sides,
}


@pytest.mark.skipif(sys.platform != "linux", reason="the largest memory is told in kilobytes there")
@pytest.mark.parametrize("kind", COSTLY)
def test_small_files_do_not_cost_much_memory(kind, tmp_path):
    """4 MB of fields of two bytes, none of which is more than a hundred times its size."""
    path = tmp_path / "costly.onnx"
    path.write_bytes(COSTLY[kind]())
    program = """
import resource, sys
from pathlib import Path
from sfpose.runtime.inspection import check_network
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_network(data)
except ValueError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    kilobytes, _, message = done.stdout.partition(" ")
    assert message.startswith(WHOLE)
    assert int(kilobytes) < 80_000
