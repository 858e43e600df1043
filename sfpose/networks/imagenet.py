"""Start from published states: SqueezeNet v1.1, ResNet-50, SE-ResNet-50.

Nothing is downloaded, and no file is unpickled beyond what holds tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sfpose.networks.resnet50 import ResNet50
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.networks.tensor_files import load_without_code, named_tensors

__all__ = ["fill_from_resnet", "fill_from_squeezenet", "fill_from_state", "read_state"]

_FEATURES = {
    "conv1": 0,
    "fire2": 3,
    "fire3": 4,
    "fire4": 6,
    "fire5": 7,
    "fire6": 9,
    "fire7": 10,
    "fire8": 11,
    "fire9": 12,
}
_CLASSES = 1000


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state of named tensors (.safetensors, or .pth without running code).

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, or ``.pth`` / ``.pt`` as ``torch.save`` writes a ``state_dict``.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, damaged, or does not hold named tensors only, dense and of
        real numbers. A pickle such as ``.pkl`` can run any code: convert it where you trust it.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from sfpose.networks.imagenet import read_state
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, f"{folder}/state.pth")
    ...     state = read_state(f"{folder}/state.pth")
    >>> {name: tuple(value.shape) for name, value in state.items()}
    {'conv1.weight': (4, 3, 3, 3)}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there must be a file {str(path)!r}; there is none")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return named_tensors(load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file; {error}") from error
    if path.suffix not in (".pth", ".pt"):
        raise ValueError(
            f"a state must be a .safetensors, .pth or .pt file; got {path.name!r} (a pickle can "
            "run any code: load it where you trust it and save its tensors as .safetensors)"
        )
    return named_tensors(load_without_code(path), str(path))


def fill_from_state(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copy a published state into a network by the names of its architecture.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet or a variant (see ``fill_from_squeezenet``), ResNet50 or
        SENet50 (see ``fill_from_resnet``); changed in place.
    state : mapping of str to Tensor

    Returns
    -------
    filled, left : list of str
        Entries of the network that were copied, and those left as they were.

    Raises
    ------
    ValueError
        If the state does not fit or is not finite, or no published state is known for the
        architecture; the network is then unchanged.

    Examples
    --------
    >>> from sfpose.networks import build_network
    >>> from sfpose.networks.imagenet import fill_from_state
    >>> fill_from_state(build_network("mobilefacenet"), {})
    Traceback (most recent call last):
        ...
    ValueError: only SqueezeFacePoseNet, ResNet50 and SENet50 start from a published state; got
    MobileFaceNet
    """
    if isinstance(network, SqueezeFacePoseNet):
        return fill_from_squeezenet(network, state)
    if isinstance(network, ResNet50):
        return fill_from_resnet(network, state)
    if isinstance(network, SeveralLooks):
        raise ValueError(
            "SeveralLooks starts from the weights of a SqueezeFacePoseNet, such as those of "
            "'small', and not from a published state"
        )
    raise ValueError(
        "only SqueezeFacePoseNet, ResNet50 and SENet50 start from a published state; "
        f"got {type(network).__name__}"
    )


def fill_from_squeezenet(
    network: nn.Module, state: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Copy the matching layers of a SqueezeNet v1.1 state into a network.

    Layers without a counterpart are left: the depthwise 3x3 filters of +dwc, the global
    depthwise convolution of +gdc, the modules of +deeper, the layers of +map and +places, conv10
    where it has another number of filters than 1000, as in +tight, and batch normalisation.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet or a variant; changed in place.
    state : mapping of str to Tensor
        torchvision's names: ``features.0.weight``, ..., ``classifier.1.bias``.

    Returns
    -------
    filled, left : list of str
        Parameters of the network that were copied, and those left as they were.

    Raises
    ------
    ValueError
        If a layer of the state is missing, does not fit or is not finite; the network is then
        unchanged.

    Examples
    --------
    >>> from sfpose.networks import build_network
    >>> from sfpose.networks.imagenet import fill_from_squeezenet
    >>> plain = build_network("squeezefaceposenet").state_dict()
    >>> fill_from_squeezenet(build_network("squeezefaceposenet"), plain)
    Traceback (most recent call last):
        ...
    ValueError: the state must be a SqueezeNet v1.1 with torchvision's names; it has no
    'features.0.weight'
    """
    grouped = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    pairs: dict[str, str] = {}
    left: list[str] = []
    for name, value in network.named_parameters():
        origin = None if name.rpartition(".")[0] in grouped else _squeezenet_name(name)
        if origin is None or (name.startswith("conv10.") and len(value) != _CLASSES):
            left.append(name)
        else:
            pairs[name] = origin
    _copy(dict(network.named_parameters()), pairs, state, "a SqueezeNet v1.1")
    return list(pairs), left


def _squeezenet_name(name: str) -> str | None:
    """Name in torchvision of one of our parameters, if it has a counterpart."""
    layer, *rest = name.split(".")
    if len(rest) < 2 or rest[-2] != "0":
        return None
    if layer == "conv10":
        return f"classifier.1.{rest[-1]}"
    if layer not in _FEATURES:
        return None
    return ".".join(["features", str(_FEATURES[layer]), *rest[:-2], rest[-1]])


def fill_from_resnet(
    network: nn.Module, state: Mapping[str, Tensor], *, bgr: bool = False
) -> tuple[list[str], list[str]]:
    """Copy a ResNet-50 or SE-ResNet-50 state into a network; the classifier is not used.

    Parameters
    ----------
    network : nn.Module
        ResNet50 or SENet50 with batch normalisation; changed in place.
    state : mapping of str to Tensor
        torchvision's names for ResNet-50 (``conv1.weight``, ``bn1.running_mean``, ...,
        ``layer4.2.bn3.bias``), which are also those of the VGGFace2 weights converted
        for PyTorch; there, ``conv4`` and ``conv5`` of a block are its
        squeeze-and-excitation.
    bgr : bool, default=False
        The state was trained on images in the order blue, green, red, as those of VGGFace2
        were: the first layer is reversed, so that the network takes RGB.

    Returns
    -------
    filled, left : list of str
        Parameters and running statistics of the network that were copied, and those left
        as they were.

    Raises
    ------
    ValueError
        If a layer of the state is missing, does not fit or is not finite, or the network has no
        batch normalisation to fill; the network is then unchanged.

    Notes
    -----
    What is subtracted from an image comes with the weights: ``VGGFACE2_MEAN`` and
    ``VGGFACE2_STD`` of the registry for those of VGGFace2 (with ``bgr=True``),
    ``IMAGENET_MEAN`` and ``IMAGENET_STD`` for those of torchvision.

    See Also
    --------
    ResNet50 : How its layout differs from torchvision's.

    Examples
    --------
    >>> from sfpose.networks import build_network
    >>> from sfpose.networks.imagenet import fill_from_resnet
    >>> fill_from_resnet(build_network("resnet50"), {})
    Traceback (most recent call last):
        ...
    ValueError: the state must be a ResNet-50 or SE-ResNet-50 with torchvision's names; it has no
    'conv1.weight'
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        raise ValueError("the network must be built with batch_norm=True to take a ResNet state")
    targets = {
        name: value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    pairs = {name: _resnet_name(name) for name in targets}
    _copy(targets, pairs, state, "a ResNet-50 or SE-ResNet-50")
    if bgr:
        first = next(targets[name] for name, origin in pairs.items() if origin == "conv1.weight")
        first.copy_(first.flip(1))
    return list(pairs), []


def _resnet_name(name: str) -> str:
    """Name in torchvision of one of our entries: ``conv1.1.bias`` is ``bn1.bias``."""
    *home, layer, place, value = name.split(".")
    if layer == "downsample":
        return name
    if home and home[-1] == "attention":
        home.pop()
    elif place == "1":
        layer = layer.replace("conv", "bn")
    return ".".join([*home, layer, value])


def _copy(
    targets: Mapping[str, Tensor],
    pairs: Mapping[str, str],
    state: Mapping[str, Tensor],
    kind: str,
) -> None:
    """Copy ``state[pairs[name]]`` into ``targets[name]``: all of them, or none."""
    for name, origin in pairs.items():
        if origin not in state:
            raise ValueError(
                f"the state must be {kind} with torchvision's names; it has no {origin!r}"
            )
        value, target = state[origin], targets[name]
        named_tensors({origin: value}, "the state")
        if value.shape != target.shape:
            raise ValueError(
                f"layer {origin} must have shape {tuple(target.shape)}; got {tuple(value.shape)}"
            )
        if not value.to(target.dtype).isfinite().all():
            raise ValueError(f"layer {origin} must be finite; got values that are not")
    with torch.no_grad():
        for name, origin in pairs.items():
            targets[name].copy_(state[origin])
