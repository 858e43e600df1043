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

__all__ = ["LARGEST_NETWORK", "OPERATORS", "OPSETS", "STANDARD", "check_network"]

LARGEST_NETWORK = 512 * 2**20
"""Bytes of the largest network that is taken."""

OPSETS = range(9, 25)
"""Versions of the standard operators that are taken."""

STANDARD = ("", "ai.onnx")
"""Names of the domain of the standard operators."""

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

_FLOATS = (1, 10, 11)
_WHOLE = (6, 7)
"""Element types of numbers with a fraction, and of those that count, by their number in the
format."""

# Of whole numbers is what these make; most others' results are of the type of their first input.
_MADE_WHOLE = frozenset(
    [
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "Shape",
    ]
)

_MOST_NODES = 10_000
_LARGEST_STEP = 512
_STEPS = ("dilations", "kernel_shape", "pads", "strides")
_LARGEST_ENLARGEMENT = 16.0
_MOST_SCALES = 4

# Inputs that may be left out by an empty name, by their places. Elsewhere onnxruntime takes
# one as given and reads from nowhere.
_MAY_BE_EMPTY = {"Clip": (1, 2), "Dropout": (1,), "Resize": (1, 2), "Slice": (3,)}

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
        has a value that is not finite; if two tensors or results have one name, a result has
        none, or an operator takes what nothing before it makes; if whole numbers are divided by
        others than stand in the file; if it has not one input and one output; if it has far more
        fields than networks have; or if a stride, padding, kernel or enlargement is out of all
        proportion.

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
    # Exporters declare domains that no node uses: what counts is the nodes' own.
    standard = [entry.number(2) for entry in file.messages(8) if entry.text(1) in STANDARD]
    if len(standard) != 1 or standard[0] not in OPSETS:
        raise ValueError(f"its opset must be {OPSETS[0]} to {OPSETS[-1]}; got {standard or 'none'}")


def _check_graph(graph: Message) -> None:
    if 15 in graph:
        raise ValueError("it must hold no sparse tensors; it does")
    nodes = graph.each(1)
    if len(nodes) > _MOST_NODES:
        raise ValueError(f"it must have at most {_MOST_NODES} nodes; got {len(nodes)}")
    stored: dict[str, NDArray[np.generic] | None] = {}
    floats: set[str] = set()
    divisors: set[str] = set()
    for tensor in graph.messages(5):
        name = tensor.text(8)
        if name in stored:
            raise ValueError(f"tensors must have different names; {name!r} comes twice")
        stored[name] = _few_values(tensor, name)
        if tensor.number(2) in _FLOATS:
            floats.add(name)
        elif _may_divide(tensor):
            divisors.add(name)
    inputs = []
    for entry in graph.messages(11):
        inputs.append(entry.text(1))
        if entry.message(2).message(1).number(1) in _FLOATS:
            floats.add(inputs[-1])
    outputs = [entry.text(1) for entry in graph.messages(12)]
    free = [name for name in inputs if name not in stored]
    if len(free) != 1 or len(outputs) != 1:
        raise ValueError(
            f"it must have one input and one output; got {len(free)} and {len(outputs)}"
        )
    made = {*stored, *free}
    enlargement = 1.0
    for node in graph.messages(1):
        operator = node.text(4)
        if node.text(7) not in STANDARD or operator not in OPERATORS:
            domain = node.text(7)
            whole = f"{domain}.{operator}" if domain else operator
            raise ValueError(f"its operators must be those of image networks; got {whole!r}")
        attributes = dict(_attributes(node, operator))
        _check_names(node, operator, made)
        made.update(node.texts(2))
        if _makes_floats(node, operator, attributes, floats):
            floats.update(node.texts(2))
        elif operator == "Div" and not divisors.issuperset(node.texts(1)[1:2]):
            # A processor stops a program that divides by 0, or the least whole number by -1.
            raise ValueError(
                "Div must divide whole numbers by others than 0 and -1 that stand in the file; "
                f"got {node.texts(1)[1]!r}"
            )
        if "num_outputs" in attributes:
            _check_parts(attributes["num_outputs"].number(3), len(node.texts(2)), operator)
        if operator == "Constant" and "value" in attributes:
            (name,) = node.texts(2)
            tensor = attributes["value"].message(5)
            stored[name] = _few_values(tensor, name)
            if _may_divide(tensor):
                divisors.add(name)
        if operator == "Resize":
            enlargement *= _enlargement(node.texts(1), stored)
    if outputs[0] not in made:
        raise ValueError(f"its output must be the result of an operator; {outputs[0]!r} is not")
    if enlargement > _LARGEST_ENLARGEMENT:
        raise ValueError(
            f"it must enlarge at most {_LARGEST_ENLARGEMENT:g} times in all; got {enlargement:g}"
        )


def _may_divide(tensor: Message) -> bool:
    """Whether a tensor is of whole numbers by which all others can be divided."""
    if tensor.number(2) not in _WHOLE or 9 not in tensor:
        return False
    return not np.isin(np.frombuffer(tensor.data(9), _TYPES[tensor.number(2)][0]), (0, -1)).any()


def _makes_floats(
    node: Message, operator: str, attributes: dict[str, Message], floats: set[str]
) -> bool:
    """Whether the results of a node are numbers with a fraction."""
    if operator == "Cast":
        return "to" in attributes and attributes["to"].number(3) in _FLOATS
    if operator == "Constant":
        if "value" in attributes:
            return attributes["value"].message(5).number(2) in _FLOATS
        return "value_float" in attributes or "value_floats" in attributes
    if operator == "DequantizeLinear":
        return True
    return operator not in _MADE_WHOLE and not floats.isdisjoint(node.texts(1)[:1])


def _check_names(node: Message, operator: str, made: set[str]) -> None:
    """Refuse a node that takes what nobody made, or makes what has no name or is there."""
    for place, name in enumerate(node.texts(1)):
        if not name and place not in _MAY_BE_EMPTY.get(operator, ()):
            raise ValueError(
                f"inputs must have names; that at place {place} of {operator} has none"
            )
        if name and name not in made:
            raise ValueError(
                f"inputs must be made before they are taken; {operator} takes {name!r}"
            )
    results = node.texts(2)
    if not results or "" in results:
        raise ValueError(f"results must have names; one of {operator} has none")
    for number, name in enumerate(results):
        if name in made or name in results[:number]:
            raise ValueError(f"results must have different names; {name!r} comes twice")


def _check_parts(stated: int, results: int, operator: str) -> None:
    """Refuse to let onnxruntime write parts to more results than it has made room for."""
    if stated != results:
        raise ValueError(
            f"num_outputs of {operator} must be the number of its results, {results}; got {stated}"
        )


def _attributes(node: Message, operator: str) -> Iterator[tuple[str, Message]]:
    names: set[str] = set()
    for attribute in node.messages(5):
        name = attribute.text(1)
        if name in names:
            raise ValueError(
                f"attributes must have different names; {name!r} of {operator} comes twice"
            )
        names.add(name)
        if any(field in attribute for field in (6, 11, 21, 22, 23)):
            raise ValueError(f"{operator} must hold no graph and no sparse tensor; {name!r} does")
        for tensor in attribute.messages(10):
            _few_values(tensor, name)
        if 5 in attribute:
            _few_values(attribute.message(5), name)
        if name in _STEPS and not all(0 <= n <= _LARGEST_STEP for n in attribute.numbers(8)):
            raise ValueError(
                f"{name} of {operator} must be 0 to {_LARGEST_STEP}; got {attribute.numbers(8)}"
            )
        yield name, attribute


def _enlargement(inputs: list[str], stored: dict[str, NDArray[np.generic] | None]) -> float:
    """How many times as many values come out of a Resize as go in, sides made smaller aside."""
    scales = stored.get(inputs[2]) if len(inputs) == 3 else None
    if scales is None or scales.dtype.kind != "f" or not scales.size:
        raise ValueError("Resize must have scales that stand in the file; it has others")
    return float(np.prod(np.maximum(scales.astype(np.float64), 1)))


def _few_values(tensor: Message, name: str) -> NDArray[np.generic] | None:
    """Check a tensor that stands in the file; its values if they are at most four and no integers.

    Of integers nothing but their number matters here.
    """
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
        values = tensor.data(9)
        if any(other in tensor for other in _VALUE_FIELDS):
            raise ValueError(f"a tensor must state its values once; {name!r} does so twice")
        if len(values) != count * np.dtype(dtype).itemsize:
            raise ValueError(f"{name!r} of shape {sides} must not have {len(values)} bytes")
    else:
        if any(other in tensor for other in _VALUE_FIELDS if other != field):
            raise ValueError(f"{name!r} must have values of its type; it has others")
        values = memoryview(b"" if packed is None else b"".join(tensor.each(field)))
        found = tensor.count(field) if packed is None else len(values) / np.dtype(packed).itemsize
        if found != count:
            raise ValueError(f"{name!r} of shape {sides} must not have {found:g} values")
    if np.dtype(dtype).kind != "f":
        return None
    numbers = np.frombuffer(values, dtype)
    if not np.isfinite(numbers).all():
        raise ValueError(f"weights must be finite; {name!r} holds NaN or infinity")
    return numbers if numbers.size <= _MOST_SCALES else None
