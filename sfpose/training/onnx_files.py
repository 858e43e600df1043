"""ONNX files as the onnx package holds them, to be changed: checked before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfpose.runtime.inspection import STANDARD, check_network

if TYPE_CHECKING:
    import onnx

__all__ = ["load_network", "network_bytes", "parse_network"]

# Slices with inputs, means with axes as an attribute.
_CHANGED = range(10, 18)


def load_network(model: bytes) -> onnx.ModelProto:
    """An ONNX file as the onnx package holds it, checked: what changes a network begins here.

    Raises
    ------
    ValueError
        If ``sfpose.runtime.inspection.check_network`` refuses it, onnx cannot read it, or it is of
        an opset in which operators that are put in have another form.
    """
    check_network(model)
    network = parse_network(model)
    (opset,) = (entry.version for entry in network.opset_import if entry.domain in STANDARD)
    if opset not in _CHANGED:
        raise ValueError(
            f"a network that is changed must be of opset {_CHANGED[0]} to {_CHANGED[-1]}; "
            f"got {opset}"
        )
    return network


def parse_network(model: bytes) -> onnx.ModelProto:
    """The same of a file that ``check_network`` need not allow; onnxruntime is not to have it.

    Raises
    ------
    ValueError
        If onnx cannot read it, or a tensor's data lie in another file, which would be read.
    """
    import onnx

    try:
        network = onnx.load_from_string(model)
    except Exception as error:  # of protobuf's own class
        raise ValueError(f"the network must be an ONNX file that onnx can load; {error}") from error
    for tensor in network.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"it must hold its own data; {tensor.name!r} lies in another file")
    return network


def network_bytes(model: onnx.ModelProto) -> bytes:
    """The ONNX file of a network that was changed.

    Raises
    ------
    ValueError
        If it is none that ONNX allows any more.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"a changed network must be as ONNX allows; {error}") from error
    return model.SerializeToString()
