"""What an ONNX file may hold, checked before onnxruntime sees it.

A network of this library is arithmetic on numbers that stand in the file: no external
data, no control flow, no functions, no operators of other domains, no values that are
not finite. The lists below say what is allowed; everything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sfpose.runtime.protobuf import Message

__all__ = ["LARGEST_NETWORK", "OPERATORS", "OPSETS", "check_network"]

LARGEST_NETWORK = 512 * 2**20
"""Bytes of the largest network that is taken."""

OPSETS = range(9, 25)
"""Versions of the standard operators that are taken."""

OPERATORS = frozenset(
    [
        "Abs",
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "ConvInteger",
        "DepthToSpace",
        "DequantizeLinear",
        "Div",
        "Dropout",
        "DynamicQuantizeLinear",
        "Elu",
        "Erf",
        "Exp",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "LogSoftmax",
        "LpNormalization",
        "MatMul",
        "MatMulInteger",
        "Max",
        "MaxPool",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "Reciprocal",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Resize",
        "Selu",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Softplus",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Standard operators that a network may use: those of image networks, none that loops,
branches, draws random numbers or makes a tensor of a size that only a number states."""

_MOST_NODES = 10_000
_LARGEST_STEP = 512
_STEPS = ("dilations", "kernel_shape", "pads", "strides")
_LARGEST_ENLARGEMENT = 16.0
_STANDARD = ("", "ai.onnx")

# Element types by their number in the format: dtype, and the field for values that are
# not raw bytes with the dtype of its packed form (None: varints).
_TYPES: dict[int, tuple[str, int, str | None]] = {
    1: ("<f4", 4, "<f4"),
    2: ("u1", 5, None),
    3: ("i1", 5, None),
    6: ("<i4", 5, None),
    7: ("<i8", 7, None),
    9: ("?", 5, None),
    10: ("<f2", 0, None),
    11: ("<f8", 10, "<f8"),
}
_VALUE_FIELDS = (4, 5, 6, 7, 10, 11)


def check_network(model: bytes) -> None:
    """Refuse an ONNX file that holds more than an image network needs.

    Parameters
    ----------
    model : bytes
        The ONNX file.

    Raises
    ------
    ValueError
        If it is larger than ``LARGEST_NETWORK`` or no ONNX file; if its opset is not in
        ``OPSETS`` or an operator not in ``OPERATORS``; if it refers to external data,
        holds functions, subgraphs or sparse tensors; if a tensor lies about its size or
        has a value that is not finite; if two tensors or results have one name; if it
        has not one input and one output; or if a stride, padding, kernel or enlargement
        is out of all proportion.

    Notes
    -----
    What is bounded is the file, not the arithmetic: a network of allowed operators may
    still ask for much time and memory. Load artifacts of people whom you trust.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> from sfpose.runtime.inspection import check_network
    >>> check_network(read_artifact("default").model)
    """
    if len(model) > LARGEST_NETWORK:
        raise ValueError(f"a network must have at most {LARGEST_NETWORK} bytes; got {len(model)}")
    try:
        file = Message(model)
        graph = file.message(7)
        _check_opset(file)
        if 7 not in file or 1 not in graph:
            raise ValueError("it holds no graph")
        _check_graph(graph)
    except UnicodeDecodeError as error:
        raise ValueError(f"the network must be an ONNX file; a name is no text: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"the network must be an ONNX file that onnxruntime can load; {error}"
        ) from error


def _check_opset(file: Message) -> None:
    if 25 in file or 20 in file:
        raise ValueError("it must hold no functions and no training information; it does")
    versions = {entry.text(1): entry.number(2) for entry in file.messages(8)}
    others = sorted(set(versions) - set(_STANDARD))
    # Exporters declare domains that no node uses: what counts is the nodes' own.
    standard = [version for domain, version in versions.items() if domain not in others]
    if len(standard) != 1 or standard[0] not in OPSETS:
        raise ValueError(f"its opset must be {OPSETS[0]} to {OPSETS[-1]}; got {standard or 'none'}")


def _check_graph(graph: Message) -> None:
    if 15 in graph:
        raise ValueError("it must hold no sparse tensors; it does")
    nodes = graph.each(1)
    if len(nodes) > _MOST_NODES:
        raise ValueError(f"it must have at most {_MOST_NODES} nodes; got {len(nodes)}")
    stored: dict[str, NDArray[np.generic]] = {}
    for tensor in graph.messages(5):
        name = tensor.text(8)
        if name in stored:
            raise ValueError(f"tensors must have different names; {name!r} comes twice")
        stored[name] = _values(tensor, name)
    inputs = [entry.text(1) for entry in graph.messages(11)]
    outputs = [entry.text(1) for entry in graph.messages(12)]
    free = [name for name in inputs if name not in stored]
    if len(free) != 1 or len(outputs) != 1:
        raise ValueError(
            f"it must have one input and one output; got {len(free)} and {len(outputs)}"
        )
    made = {*stored, *free}
    enlargement = 1.0
    for node in map(Message, nodes):
        operator = node.text(4)
        if node.text(7) not in _STANDARD or operator not in OPERATORS:
            domain = node.text(7)
            whole = f"{domain}.{operator}" if domain else operator
            raise ValueError(f"its operators must be those of image networks; got {whole!r}")
        attributes = dict(_attributes(node, operator))
        for name in node.texts(2):
            if name in made and name:
                raise ValueError(f"results must have different names; {name!r} comes twice")
            made.add(name)
        if operator == "Constant" and "value" in attributes:
            (name,) = node.texts(2)
            stored[name] = _values(attributes["value"].message(5), name)
        if operator == "Resize":
            enlargement *= _enlargement(node.texts(1), stored)
    if enlargement > _LARGEST_ENLARGEMENT:
        raise ValueError(
            f"it must enlarge at most {_LARGEST_ENLARGEMENT:g} times in all; got {enlargement:g}"
        )


def _attributes(node: Message, operator: str) -> Iterator[tuple[str, Message]]:
    for attribute in node.messages(5):
        name = attribute.text(1)
        if any(field in attribute for field in (6, 11, 21, 22, 23)):
            raise ValueError(f"{operator} must hold no graph and no sparse tensor; {name!r} does")
        for tensor in attribute.messages(10):
            _values(tensor, name)
        if 5 in attribute:
            _values(attribute.message(5), name)
        if name in _STEPS and not all(0 <= n <= _LARGEST_STEP for n in attribute.numbers(8)):
            raise ValueError(
                f"{name} of {operator} must be 0 to {_LARGEST_STEP}; got {attribute.numbers(8)}"
            )
        yield name, attribute


def _enlargement(inputs: list[str], stored: dict[str, NDArray[np.generic]]) -> float:
    scales = stored.get(inputs[2]) if len(inputs) == 3 else None
    if scales is None or scales.dtype.kind != "f" or not 0 < scales.size <= 4:
        raise ValueError("Resize must have scales that stand in the file; it has others")
    return max(1.0, float(scales.max()))


def _values(tensor: Message, name: str) -> NDArray[np.generic]:
    """Values of a tensor that stand in the file, in one dimension."""
    if 13 in tensor or tensor.number(14) != 0:
        raise ValueError(f"it must hold its own data; {name!r} lies in another file")
    kind = tensor.number(2)
    if kind not in _TYPES:
        raise ValueError(f"tensors must be plain numbers; {name!r} is of type {kind}")
    sides = tensor.numbers(1)
    if any(side < 0 for side in sides):
        raise ValueError(f"the sides of a tensor must not be negative; {name!r} has {sides}")
    dtype, field, packed = _TYPES[kind]
    count = math.prod(sides)
    if 9 in tensor:
        raw = tensor.data(9)
        if any(other in tensor for other in _VALUE_FIELDS):
            raise ValueError(f"a tensor must state its values once; {name!r} does so twice")
        if len(raw) != count * np.dtype(dtype).itemsize:
            raise ValueError(f"{name!r} of shape {sides} must not have {len(raw)} bytes")
        values = np.frombuffer(raw, dtype)
    else:
        if any(other in tensor for other in _VALUE_FIELDS if other != field):
            raise ValueError(f"{name!r} must have values of its type; it has others")
        values = _listed(tensor, field, packed)
        if len(values) != count:
            raise ValueError(f"{name!r} of shape {sides} must not have {len(values)} values")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"weights must be finite; {name!r} holds NaN or infinity")
    return values


def _listed(tensor: Message, field: int, packed: str | None) -> NDArray[np.generic]:
    if packed is None:
        return np.array(tensor.numbers(field), dtype=np.int64)
    return np.frombuffer(b"".join(tensor.each(field)), packed)
