"""Networks that look at an image and its mirror image, at twice the time."""

from __future__ import annotations

from sfpose.runtime.artifact import Artifact
from sfpose.training.export import changed_manifest
from sfpose.training.onnx_files import load_network, network_bytes

__all__ = ["mirrored", "without_mirror"]


def mirrored(artifact: Artifact, *, name: str | None = None) -> Artifact:
    """Make a descriptor network answer with the mean of an image and its mirror image.

    Both pass through the same network as one batch inside of the ONNX file, so that whatever
    runs it gets the mean. An image and its mirror image have the same descriptor then.

    Parameters
    ----------
    artifact : Artifact
        Descriptor network, float32 or of eight bits.
    name : str, optional
        Of the result; that of ``artifact`` with ``-mirrored`` if not given.

    Returns
    -------
    Artifact
        Without a calibration: thresholds have to be calibrated again.

    Raises
    ------
    ValueError
        If the network does this already, is no descriptor network, or is refused by
        ``sfpose.runtime.inspection.check_network``.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> from sfpose.training.mirroring import mirrored
    >>> mirrored(read_artifact("plain-int8")).manifest["mirrored"]
    True
    """
    import numpy as np
    from onnx import helper, numpy_helper

    if artifact.manifest.get("kind") != "descriptor":
        raise ValueError(
            f"a descriptor network can be mirrored; got kind {artifact.manifest.get('kind')!r}"
        )
    if artifact.manifest.get("mirrored"):
        raise ValueError("a network can be mirrored once; this one is already")
    model = load_network(artifact.model)
    graph = model.graph
    images, descriptors = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = ["mirror.both" if given == images else given for given in node.input]
        node.output[:] = ["mirror.each" if got == descriptors else got for got in node.output]
    before = [
        helper.make_node("Slice", [images, *(f"mirror.{at}" for at in _SLICE)], ["mirror.image"]),
        helper.make_node("Concat", [images, "mirror.image"], ["mirror.both"], axis=0),
    ]
    after = [
        helper.make_node("Reshape", ["mirror.each", "mirror.shape"], ["mirror.two"]),
        helper.make_node("ReduceMean", ["mirror.two"], [descriptors], axes=[0], keepdims=0),
    ]
    constants = {**_SLICE, "shape": [2, -1, artifact.descriptor_size]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(values, np.int64), f"mirror.{at}")
        for at, values in constants.items()
    )
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    manifest = changed_manifest(artifact, "mirrored", name, mirrored=True)
    return Artifact(network_bytes(model), manifest)


def without_mirror(artifact: Artifact) -> Artifact:
    """Take off what ``mirrored`` put on; the network is the one before, to the bit.

    Parameters
    ----------
    artifact : Artifact
        Mirrored descriptor network, float32 or of eight bits.

    Returns
    -------
    Artifact
        Of the same name, without a calibration.

    Raises
    ------
    ValueError
        If the network does not begin and end as ``mirrored`` makes it, or is refused by
        ``sfpose.runtime.inspection.check_network``.

    Examples
    --------
    >>> from sfpose.runtime.artifact import read_artifact
    >>> from sfpose.training.mirroring import mirrored, without_mirror
    >>> plain = read_artifact("plain")
    >>> without_mirror(mirrored(plain)).model == plain.model
    True
    """
    model = load_network(artifact.model)
    graph = model.graph
    images, descriptors = graph.input[0].name, graph.output[0].name
    nodes = list(graph.node)
    made = [name for node in (*nodes[:2], *nodes[-2:]) for name in node.output]
    if made != ["mirror.image", "mirror.both", "mirror.two", descriptors]:
        raise ValueError(
            "a mirror can be taken off a network that sfpose mirrored; "
            f"this one begins and ends by making {made}"
        )
    del graph.node[:]
    graph.node.extend(nodes[2:-2])
    for node in graph.node:
        node.input[:] = [images if given == "mirror.both" else given for given in node.input]
        node.output[:] = [descriptors if got == "mirror.each" else got for got in node.output]
    kept = [tensor for tensor in graph.initializer if not tensor.name.startswith("mirror.")]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    name = str(artifact.manifest.get("name"))
    manifest = changed_manifest(artifact, "", name, without=("mirrored",))
    return Artifact(network_bytes(model), manifest)


# The columns of (n, 3, h, w) from the last one to the first.
_SLICE = {"starts": [-1], "ends": [-(2**31)], "axes": [3], "steps": [-1]}
