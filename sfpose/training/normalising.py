"""Batch normalisation for the last layers, without which filters fall silent.

Without normalisation each layer multiplies what it is given, to 1e12 behind fire9. Biases mean
nothing there, and what all values of a map share decides the sign of every sum: one step can take
filters below zero for every image. They have gradients of zero from then on and say nothing, for
good; so do residual modules whose squeeze layer has fallen silent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sfpose.networks.layers import convolution
from sfpose.networks.squeezefaceposenet import Fire, SqueezeFacePoseNet
from sfpose.training.export import to_random_length

__all__ = ["add_batch_norm", "lacks_batch_norm", "normalise_last", "silent_modules"]

_LAYERS = ("squeeze", "expand1x1", "expand3x3")


def _residual_modules(network: nn.Module) -> Iterator[tuple[str, Fire]]:
    if isinstance(network, SqueezeFacePoseNet) and network.deeper is not None:
        for name, module in network.deeper.named_children():
            if isinstance(module, Fire):
                yield f"deeper.{name}", module


@torch.inference_mode()
def silent_modules(network: nn.Module, images: Tensor) -> list[str]:
    """Names of the modules after fire9 that add the same to every image.

    Parameters
    ----------
    network : nn.Module
        Measured in evaluation mode, and left in it.
    images : float Tensor of shape (n, 3, h, w)
        Normalised; at least two that differ.

    Returns
    -------
    list of str
        Empty for a network without such modules.
    """
    silent: list[str] = []

    def look(name: str, given: Tensor, result: Tensor) -> None:
        added = result - given
        # Where values are large the difference of two of them is rounded.
        if float((added - added[:1]).abs().max()) <= 1e-5 * float(result.abs().max()):
            silent.append(name)

    hooks = [
        module.register_forward_hook(
            lambda _module, given, result, name=name: look(name, given[0], result)
        )
        for name, module in _residual_modules(network)
    ]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return silent


def lacks_batch_norm(network: nn.Module) -> bool:
    """Whether there are modules after fire9, and no batch normalisation in them."""
    modules = [module for _, module in _residual_modules(network)]
    return bool(modules) and not any(map(_has_batch_norm, modules))


def add_batch_norm(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a batch normalisation behind each convolution behind which a state has one.

    What the layers compute changes, until the state is loaded. Export folds them away.

    Parameters
    ----------
    network : nn.Module
        Changed in place; layers that the state does not have stay as they are.
    state : mapping of str to Tensor
        Of a network that ``normalise_last`` gave.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Sequential) and f"{name}.1.running_var" in state:
            network.set_submodule(name, _normalised(layer))


def _normalised(layer: nn.Sequential) -> nn.Sequential:
    """The layer, with a batch normalisation behind its convolution that is yet to be set."""
    old, *others = layer
    if _has_batch_norm(layer):
        return layer
    assert isinstance(old, nn.Conv2d)
    new = convolution(old.in_channels, old.out_channels, old.kernel_size[0], groups=old.groups)
    new[0].load_state_dict({"weight": old.weight})
    return new.extend(others)


def _has_batch_norm(layer: nn.Module) -> bool:
    return any(isinstance(each, nn.BatchNorm2d) for each in layer.modules())


@torch.no_grad()
def normalise_last(network: nn.Module, objective: dict[str, Tensor], images: Tensor) -> nn.Module:
    """Put batch normalisation behind fire9 and all layers after it, and wake silent modules.

    Parameters
    ----------
    network : nn.Module
        Without the map, as ``sfpose.training.maps.split_map`` gives it; left as it is.
    objective : dict of str to Tensor
        State of a ``DistillationObjective`` beside it; what it
        divides values by is changed in place.
    images : float Tensor of shape (n, 3, h, w)
        Normalised, some hundreds, of the kind that it will learn from.

    Returns
    -------
    nn.Module
        A copy whose values are those of the network, all divided by one factor, as is what the
        objective divides them by. Filters shorter than random ones are as long as those there, and
        silent modules are new and begin by adding nothing.

    Raises
    ------
    ValueError
        If it is no SqueezeFacePoseNet that ends in a global average, or has them.
    """
    if (
        not isinstance(network, SqueezeFacePoseNet)
        or network.gdc is not None
        or _has_batch_norm(network.fire9)
    ):
        raise ValueError(
            "network must be a SqueezeFacePoseNet that ends in a global average and has no batch "
            f"normalisation behind fire9; got {type(network).__name__}"
        )
    modules = ["fire9", *(name for name, _ in _residual_modules(network))]
    divisors = {"conv10": "mean"} | ({} if network.places is None else {"places": "place_divisors"})
    layers = [f"{module}.{layer}" for module in modules for layer in _LAYERS] + [*divisors]
    layers = [name for name in layers if not _has_batch_norm(network.get_submodule(name))]
    moments: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(name: str, values: Tensor) -> None:
        values = values.double()
        moments[name] = values.mean((0, 2, 3)), values.var((0, 2, 3))

    measured = copy.deepcopy(network)
    for name in layers:
        measured.get_submodule(f"{name}.0").register_forward_hook(
            lambda _module, _given, result, name=name: measure(name, result)
        )
    silent = silent_modules(measured, images)

    def spread(*names: str) -> float:
        return max(float(moments[name][1].mean().sqrt()) for name in names)

    new = copy.deepcopy(network)
    for name in layers:
        layer = new.get_submodule(name)
        assert isinstance(layer, nn.Sequential)
        new.set_submodule(name, _normalised(layer))

    def settle(name: str, before: float, after: float) -> None:
        """Let a layer take what is divided by ``before`` and give what is by ``after``."""
        layer = new.get_submodule(f"{name}.1")
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = moments[name]
        bias = network.get_parameter(f"{name}.0.bias")
        # Export leaves some filters so short that the first steps would replace them.
        stretch = to_random_length(network.get_submodule(f"{name}.0")).clamp(min=1)
        new.get_parameter(f"{name}.0.weight").mul_(stretch[:, None, None, None])
        change = stretch / before
        layer.running_mean.copy_((mean - bias) * change)
        layer.running_var.copy_(variance * change**2)
        layer.weight.copy_(torch.sqrt(variance * change**2 + layer.eps) / (change * after))
        layer.bias.copy_(mean / after)

    factor = spread("fire9.expand1x1", "fire9.expand3x3")
    for module in modules:
        if module in silent:
            _begin_anew(new.get_submodule(module))
            continue
        squeeze, *expands = (f"{module}.{layer}" for layer in _LAYERS)
        within = spread(squeeze)
        settle(squeeze, 1.0 if module == "fire9" else factor, within)
        for name in expands:
            settle(name, within, factor)
    for name, divisor in divisors.items():
        if name in layers:
            after = spread(name)
            settle(name, factor, after)
            own = objective.get(divisor, torch.ones(len(moments[name][0])))
            objective[divisor] = own / after
        else:
            new.get_buffer(f"{name}.1.running_mean").div_(factor)
            new.get_buffer(f"{name}.1.running_var").div_(factor**2)
    return new


def _begin_anew(module: nn.Module) -> None:
    assert isinstance(module, Fire)
    for name in _LAYERS:
        layer = getattr(module, name)
        nn.init.kaiming_normal_(layer[0].weight, nonlinearity="relu")
        if name != "squeeze":
            nn.init.zeros_(layer[1].weight)
