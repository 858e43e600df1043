"""From torch to ONNX and back: what ships is what was trained."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sfpose.networks.registry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_network,
    check_non_negative,
)
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.runtime.artifact import DISTANCE, Artifact, Json
from sfpose.runtime.session import OnnxModel
from sfpose.training.onnx_files import load_network, network_bytes

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CHANNEL_SCALE",
    "OPSET",
    "changed_manifest",
    "check_parity",
    "fold_batch_norm",
    "network_from_artifact",
    "scale_descriptor",
    "scale_filters",
    "stored_parameters",
    "take_common_layers",
    "to_manifest",
    "to_onnx",
    "to_random_length",
]

CHANNEL_SCALE = "channel_scale"
"""Initialiser by which a quantised network multiplies what it has pooled."""
OPSET = 17
PARITY = 1e-4
"""Largest difference of ONNX and torch, relative to the largest value."""


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Copy of a network with each batch normalisation folded into its convolution."""
    network = copy.deepcopy(network).eval()
    for parent in list(network.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.children())
        merged: list[nn.Module] = []
        for child in children:
            if isinstance(child, nn.BatchNorm2d) and merged and isinstance(merged[-1], nn.Conv2d):
                merged[-1] = fuse_conv_bn_eval(merged[-1], child)
            else:
                merged.append(child)
        if len(merged) != len(children):
            for name in list(parent._modules):
                del parent._modules[name]
            for number, child in enumerate(merged):
                parent.add_module(str(number), child)
    return network


def scale_descriptor(network: nn.Module, scale: ArrayLike) -> None:
    """Multiply each value of the descriptor by a positive number, inside its last layer.

    ReLU and averaging commute with a positive factor, so the layers stay the same.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet, a variant or SeveralLooks, without batch normalisation; changed in
        place.
    scale : array of shape (d,)
        Of the values that are averaged, those of all looks.
    """
    factor = torch.as_tensor(np.asarray(scale), dtype=torch.float32)
    if not bool((factor > 0).all()):
        raise ValueError("the scale of a descriptor must be positive; got zero or less")
    assert isinstance(network, SqueezeFacePoseNet | SeveralLooks)
    scale_filters(network.value_layers, factor)


def to_random_length(convolution: nn.Module) -> Tensor:
    """What brings each of a convolution's n filters to the length that it has at random: (n,).

    In float64, as folding may leave filters of 1e-12; 1 for one of zeros.
    """
    assert isinstance(convolution, nn.Conv2d)
    length = convolution.weight.detach().double().flatten(1).norm(dim=1)
    return torch.where(length > 0, 2**0.5 / length, 1.0)


def scale_filters(layers: Sequence[nn.Sequential], factor: Tensor) -> None:
    """Multiply each of n filters, those of all layers, and its bias by its own of ``factor`` (n,).

    Each layer begins with a convolution that has a bias.
    """
    parameters = [
        (layer.get_parameter("0.weight"), layer.get_parameter("0.bias")) for layer in layers
    ]
    parts = torch.split(factor, [len(bias) for _, bias in parameters])
    with torch.no_grad():
        for (weight, bias), part in zip(parameters, parts, strict=True):
            weight.mul_(part[:, None, None, None])
            bias.mul_(part)


def to_onnx(network: nn.Module, size: int) -> bytes:
    """Export a network with one image input of a fixed size and a free batch size.

    Parameters
    ----------
    network : nn.Module
        Batch normalisation is folded away.
    size : int
        Side of the images.

    Returns
    -------
    bytes
        The ONNX file; initialisers carry the names of the torch parameters.

    Raises
    ------
    ValueError
        If onnxruntime's answers differ from torch's by more than 1e-4 relative.
    """
    import onnx

    folded = fold_batch_norm(network.cpu()).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            folded,
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["outputs"],
            dynamic_axes={"images": {0: "batch"}, "outputs": {0: "batch"}},
        )
        model = onnx.load(path)
    _name_every_parameter(model, dict(folded.named_parameters()))
    data = network_bytes(model)
    check_parity(folded, data, size)
    return data


def _name_every_parameter(model: onnx.ModelProto, parameters: Mapping[str, Tensor]) -> None:
    """Undo the exporter's merging of equal tensors, so that the way back finds each one.

    Nor does it keep the name of a matrix that it transposes.
    """
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Identity" and node.input[0] in stored:
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(stored[node.input[0]])
            tensor.name = node.output[0]
            model.graph.node.remove(node)
        elif node.op_type == "MatMul" and node.input[1] in stored:
            tensor = stored[node.input[1]]
            turned = torch.from_numpy(numpy_helper.to_array(tensor).T.copy())
            name = next(key for key, value in parameters.items() if torch.equal(value, turned))
            tensor.CopyFrom(numpy_helper.from_array(turned.numpy(), name))
            node.op_type, node.input[1] = "Gemm", name
            node.attribute.append(helper.make_attribute("transB", 1))


def check_parity(network: nn.Module, model: bytes, size: int) -> float:
    """Largest difference of ONNX and torch over the largest value, on random images.

    Raises
    ------
    ValueError
        If it is above 1e-4.
    """
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images).numpy()
    got = OnnxModel(model).run(images.numpy())
    error = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not error <= PARITY:
        raise ValueError(
            f"the exported network must answer as torch within {PARITY}; differs by {error:.1e}"
        )
    return error


def to_manifest(
    *,
    name: str,
    kind: str,
    network: str,
    size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **more: Json,
) -> dict[str, Json]:
    """Manifest of an artifact, without what ``write_artifact`` adds.

    Raises
    ------
    ValueError
        If ``kind`` is ``"descriptor"`` and the values of ``network`` have signs: the
        chi-square distance, which is written into every such manifest, needs values >= 0.
    """
    if kind == "descriptor":
        check_non_negative(network)
    manifest: dict[str, Json] = {
        "name": name,
        "kind": kind,
        "network": network,
        "input": {"size": size, "channels": "RGB", "mean": list(mean), "std": list(std)},
    }
    if kind == "descriptor":
        manifest["distance"] = dict(DISTANCE)
    manifest.update(more)
    return manifest


def changed_manifest(
    artifact: Artifact,
    suffix: str,
    name: str | None,
    *,
    without: Collection[str] = (),
    **changes: Json,
) -> dict[str, Json]:
    """Manifest of a network made from an artifact's, ``without`` some entries, with ``changes``.

    It is named after the artifact's with ``suffix`` unless ``name`` is given. Thresholds were
    calibrated for other distances, so it has none.

    Raises
    ------
    ValueError
        If the artifact has no name to be named after.
    """
    left = ("calibration", "files", *without)
    kept = {key: value for key, value in artifact.manifest.items() if key not in left}
    named = kept.get("name")
    if name is None and not isinstance(named, str):
        raise ValueError(f"a manifest must state a name where none is given; got {named!r}")
    new = f"{named}-{suffix}" if name is None else name
    return {**kept, "name": new, **changes}


def stored_parameters(artifact: Artifact) -> dict[str, Tensor]:
    """Parameters of an artifact's network by their torch names.

    Those of eight bits come as the float32 values that they stand for.

    Raises
    ------
    ValueError
        If the network is refused, or scale or zero point of eight bits do not stand in it.
    """
    from onnx import numpy_helper

    model = load_network(artifact.model)
    stored = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    turned = {
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Gemm" and all(each.name != "transB" for each in node.attribute)
    }
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            if len(node.input) != 3 or not stored.keys() >= {*node.input}:
                raise ValueError(
                    "weights of eight bits must have scale and zero point in the file; "
                    f"those of {node.input[0]!r} do not"
                )
            values, scale, zero = (stored[name] for name in node.input)
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            axis %= max(values.ndim, 1)
            sizes = {scale.shape, zero.shape}
            if len(sizes) > 1 or not sizes <= {(), values.shape[axis : axis + 1]}:
                raise ValueError(
                    f"weights of eight bits must have a scale and zero point, or one for each of "
                    f"{tuple(values.shape)[axis : axis + 1]}; {node.input[0]!r} has "
                    f"{tuple(scale.shape)} and {tuple(zero.shape)}"
                )
            shape = [-1 if at == axis and scale.ndim else 1 for at in range(values.ndim)]
            name = node.input[0].removesuffix("_quantized")
            found = (values.int() - zero.int().view(shape)) * scale.view(shape)
            stored[name] = found.T.contiguous() if node.output[0] in turned else found
    return stored


def take_common_layers(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the layers that a state has under the same names and shapes.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    state : mapping of str to Tensor
        A layer is taken whole or not at all; a tensor outside of any layer by itself.

    Returns
    -------
    list of str
        Parameters of the network that were left as they were.
    """
    own = network.state_dict()
    layers = {name: name.rpartition(".")[0] or name for name in own}
    unlike = {
        layers[name]
        for name, value in own.items()
        if name not in state or state[name].shape != value.shape
    }
    fitting = {name: state[name] for name in own if layers[name] not in unlike}
    network.load_state_dict(fitting, strict=False)
    return [name for name, _ in network.named_parameters() if name not in fitting]


def network_from_artifact(artifact: Artifact, *, dropout: float = 0.0) -> nn.Module:
    """Build the torch network of an artifact with its weights, to train on.

    Of an artifact of eight bits it is the float32 network whose weights those are.

    Raises
    ------
    ValueError
        If the manifest names no known network or the weights do not fit it.
    """
    network = build_network(
        str(artifact.manifest.get("network")),
        batch_norm=False,
        dropout=dropout,
        input_size=artifact.network_input.size if "input" in artifact.manifest else None,
    )
    stored = stored_parameters(artifact)
    state: dict[str, Tensor] = {}
    for name, parameter in network.state_dict().items():
        if name not in stored or stored[name].shape != parameter.shape:
            got = tuple(stored[name].shape) if name in stored else "none"
            raise ValueError(
                f"weights must hold {name} of shape {tuple(parameter.shape)}; got {got}"
            )
        state[name] = stored[name]
    network.load_state_dict(state)
    if CHANNEL_SCALE in stored:
        scale_descriptor(network, stored[CHANNEL_SCALE])
    return network
