"""Eight-bit networks: a third of the size and of the time, at a small loss."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray

from sfpose._batches import batched
from sfpose._checks import check_jobs
from sfpose._embedding import Cropper, crop_kind
from sfpose.preprocessing import as_network_input
from sfpose.runtime.artifact import Artifact, Json
from sfpose.runtime.session import OnnxModel, load_onnxruntime
from sfpose.training.export import CHANNEL_SCALE, changed_manifest
from sfpose.training.mirroring import mirrored, without_mirror
from sfpose.training.onnx_files import load_network

if TYPE_CHECKING:
    import onnx

__all__ = ["quantize"]

_BATCH = 16


class _Feeds:
    """Batches of network inputs, as onnxruntime's calibration asks for them."""

    def __init__(self, name: str, batches: Iterator[NDArray[np.float32]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by the name of the input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantize(
    artifact: Artifact, images: Sequence[Any], *, name: str | None = None, n_jobs: int | None = None
) -> Artifact:
    """Turn a descriptor network into one of eight-bit weights and activations.

    Static quantisation: the range of each activation is a running mean of the extremes of
    batches of images, weights have a scale for each output channel, activations are
    unsigned, which is what processors without special instructions are fast at. Convolutions
    that see the pixels, and the pooled values with what follows are computed in
    float32: the first cost most accuracy and little time. A matrix that follows is stored in
    eight bits. A mirrored network gives what the network alone would, mirrored afterwards.

    Parameters
    ----------
    artifact : Artifact
        Descriptor network, float32.
    images : sequence
        A few hundred loose crops of faces, as ``sfpose.FaceEmbedder.transform`` takes them;
        nobody whose errors are measured later.
    name : str, optional
        Of the result; that of ``artifact`` with ``-int8`` if not given.
    n_jobs : int, optional
        Threads that align the images.

    Returns
    -------
    Artifact
        Without a calibration: its distances differ a little, so thresholds have to be
        calibrated again.

    Raises
    ------
    ValueError
        If the network is quantised already, is no descriptor network, does not end in averages of
        convolutions (as those +gdc and ResNets do not), or there is no image.

    References
    ----------
    Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR 2018.
    """
    import onnx

    load_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if artifact.manifest.get("kind") != "descriptor":
        raise ValueError(
            f"a descriptor network can be quantised; got kind {artifact.manifest.get('kind')!r}"
        )
    if "quantization" in artifact.manifest:
        raise ValueError("a network can be quantised once; this one is of eight bits already")
    if not len(images):
        raise ValueError(
            "quantisation needs images to take the range of activations from; got none"
        )
    if artifact.manifest.get("mirrored"):
        alone = quantize(without_mirror(artifact), images, name=name, n_jobs=n_jobs)
        return mirrored(alone, name=str(alone.manifest["name"]))
    network = load_network(artifact.model)
    averages = _averages(network)
    batches = list(_inputs(artifact, images, n_jobs))
    pixels = _convolutions_of_pixels(network)
    after_pooling = _even_out_averages(network, *averages, batches)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(network, source)
        quantize_static(
            source,
            target,
            _Feeds(network.graph.input[0].name, iter(batches)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Concat", "Add"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            # The extremes of batches, averaged: a single photo's would stretch a range for all.
            extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.05},
            nodes_to_exclude=[*pixels, *after_pooling],
        )
        whole = onnx.load(target)
    whole = _concatenated_as_they_are(_pooled_before_relu(whole))
    model = _with_small_matrices(whole).SerializeToString()
    told: dict[str, Json] = {
        "format": "QDQ",
        "weights": "int8, a scale a channel",
        "activations": "uint8",
        "images": len(images),
    }
    return Artifact(model, changed_manifest(artifact, "int8", name, quantization=told))


def _inputs(
    artifact: Artifact, images: Sequence[Any], n_jobs: int | None
) -> Iterator[NDArray[np.float32]]:
    settings = artifact.network_input
    threads = effective_n_jobs(check_jobs(n_jobs))
    kind = crop_kind("auto", artifact)
    cropper = Cropper(kind, threads, min_face_score=0)
    crops = (crop for batch, _ in cropper(images, settings.size) for crop in batch)
    for batch in batched(crops, _BATCH):
        yield as_network_input(batch, settings.mean, settings.std)


def _convolutions_of_pixels(network: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that see the images, as they are or cut and made smaller."""
    images = {network.graph.input[0].name}
    found = []
    for node in network.graph.node:
        if node.op_type in ("Resize", "Slice") and node.input[0] in images:
            images.add(node.output[0])
        elif node.op_type == "Conv" and node.input[0] in images:
            found.append(node.name)
    return found


def _even_out_averages(
    network: onnx.ModelProto, averaged: list[int], end: int, batches: list[NDArray[np.float32]]
) -> list[str]:
    """Bring the channels that ``_averages`` found to one range, and scale after pooling.

    Channels that fire rarely have large values where they do, since export brings all means
    to one: a single scale for all of them would leave nothing of the others. Convolution,
    ReLU and mean let a positive factor through, so the network says the same. Averages of several
    convolutions are joined at once. Gives the names of the nodes that come after pooling.
    """
    import onnx
    from onnx import helper, numpy_helper

    nodes = list(network.graph.node)
    probe = onnx.ModelProto()
    probe.CopyFrom(network)
    del probe.graph.node[averaged[-1] + 2 :]
    maps = [nodes[place + 1].output[0] for place in averaged]
    tops = [f"probe.{number}" for number in range(len(maps))]
    probe.graph.node.extend(
        helper.make_node("ReduceMax", [name], [top], axes=[2, 3], keepdims=0)
        for name, top in zip(maps, tops, strict=True)
    )
    probe.graph.node.append(helper.make_node("Concat", tops, ["probe"], axis=1))
    probe.graph.output[0].name = "probe"
    del probe.graph.output[0].type.tensor_type.shape.dim[:]
    for axis in ("n", "c"):
        probe.graph.output[0].type.tensor_type.shape.dim.add().dim_param = axis
    model = OnnxModel(probe.SerializeToString(), 1)
    highest = np.max([model.run(batch).max(0) for batch in batches], axis=0)
    # What never fired has no range of its own.
    highest = np.maximum(highest, 1e-3 * highest.max()).astype(np.float32)
    tensors = {tensor.name: tensor for tensor in network.graph.initializer}
    first = 0
    for place in averaged:
        for name in nodes[place].input[1:3]:
            values = numpy_helper.to_array(tensors[name])
            shape = (-1,) + (1,) * (values.ndim - 1)
            values = values / highest[first : first + len(values)].reshape(shape)
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))
        first += len(values)
    pooled = nodes[end - 1].output[0]
    nodes[end - 1].output[0] = "pooled"
    network.graph.initializer.append(numpy_helper.from_array(highest, CHANNEL_SCALE))
    scaled = helper.make_node("Mul", ["pooled", CHANNEL_SCALE], [pooled])
    network.graph.node.insert(end, scaled)
    return [node.name for node in nodes[averaged[-1] + 3 :]]


def _averages(network: onnx.ModelProto) -> tuple[list[int], int]:
    """Places of the convolutions that are averaged, the last ones, and of what comes after.

    Raises
    ------
    ValueError
        If the network does not end in such averages.
    """
    nodes = list(network.graph.node)
    kinds = [node.op_type for node in nodes]
    averaged = [
        place
        for place in range(len(nodes))
        if kinds[place : place + 3] == ["Conv", "Relu", "ReduceMean"]
    ]
    last = len(nodes) - 1 - kinds[::-1].index("Conv")
    if last not in averaged:
        raise ValueError(
            "a network to be quantised must end in Conv, Relu and ReduceMean, or go on from there; "
            f"it goes on with {kinds[last + 1 :]}"
        )
    end = last + 3 if len(averaged) == 1 else last + 4
    means = [nodes[place + 2].output[0] for place in averaged]
    if len(averaged) > 1 and (kinds[last + 3] != "Concat" or list(nodes[last + 3].input) != means):
        raise ValueError(
            f"the {len(averaged)} averages of a network to be quantised must be joined at once; "
            f"it goes on with {kinds[last + 3 :]}"
        )
    return averaged, end


def _pooled_before_relu(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its maxima of float32 taken before ReLU, which says the same.

    Before a maximum, onnxruntime moves the rounding to eight bits that follows it, and takes that
    maximum by code that is twenty times slower; a ReLU between them keeps it from that.
    """
    graph = network.graph
    makers = {node.output[0]: node for node in graph.node}
    for pool in list(graph.node):
        relu = makers.get(pool.input[0]) if pool.op_type == "MaxPool" else None
        if relu is None or relu.op_type != "Relu":
            continue
        rectified = relu.output[0]
        relu.output[0], pool.output[0] = pool.output[0], f"{pool.output[0]}_before_relu"
        pool.input[0], relu.input[0] = relu.input[0], pool.output[0]
        graph.node.remove(relu)
        graph.node.insert(list(graph.node).index(pool) + 1, relu)
        for told in [each for each in graph.value_info if each.name == rectified]:
            graph.value_info.remove(told)
    return network


def _concatenated_as_they_are(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with what is concatenated rounded at the scale of the whole, and once.

    Each half of a fire module would have a scale of its own, by which onnxruntime looks up every
    byte when it puts them together: an eighth of the time. Halves of one scale are copied.
    """
    graph = network.graph
    makers = {name: node for node in graph.node for name in node.output}
    takers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        rounds = takers.get(node.output[0]) if node.op_type == "Concat" else None
        if rounds is None or rounds.op_type != "QuantizeLinear":
            continue
        for name in node.input:
            back = makers[name]
            for half in (back, makers[back.input[0]]):
                half.input[1:] = rounds.input[1:]
    used = {name for node in graph.node for name in node.input}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    return network


def _with_small_matrices(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its float32 matrices stored in eight bits, a scale for each value they take.

    What is taken has a size of its own: the root of a value that is never zero, or of one that
    always is. What belongs to one such value lies together, so that one scale serves a whole row:
    onnxruntime turns the matrix to float32 for each batch, which takes five times as long with a
    scale a column.
    """
    from onnx import helper, numpy_helper

    graph = network.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Gemm" or node.input[1] not in stored:
            continue
        name = node.input[1]
        (turned,) = (each for each in node.attribute if each.name == "transB")
        node.attribute.remove(turned)
        matrix = numpy_helper.to_array(stored[name]).T
        scale = np.maximum(np.abs(matrix).max(1), np.finfo(np.float32).tiny) / 127
        whole = np.rint(matrix / scale[:, None]).astype(np.int8)
        parts = {"quantized": whole, "scale": scale, "zero_point": np.zeros(len(scale), np.int8)}
        graph.initializer.remove(stored[name])
        graph.initializer.extend(
            numpy_helper.from_array(values, f"{name}_{part}") for part, values in parts.items()
        )
        node.input[1] = f"{name}_dequantized"
        inputs = [f"{name}_{part}" for part in parts]
        dequantize = helper.make_node("DequantizeLinear", inputs, [node.input[1]], axis=0)
        graph.node.insert(list(graph.node).index(node), dequantize)
    return network
