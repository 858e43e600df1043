"""Batch normalisation for the modules after fire9, without which they fall silent.

Without normalisation each layer multiplies what it is given, to 1e12 behind fire9. Biases mean
nothing there, and what all values of a map share decides the sign of every sum: one step can take
all filters of a module's squeeze layer below zero for every image. Layers that others depend
on are pulled back; a residual module has gradients of zero from then on and adds nothing, for good.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfpose.networks.layers import convolution
from sfpose.networks.squeezefaceposenet import Fire, SqueezeFacePoseNet
from sfpose.training.export import to_random_length
from sfpose.training.maps import DIVISORS

__all__ = ["add_batch_norm", "lacks_batch_norm", "normalise_modules", "silent_modules"]

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
    layers = (layer for module in modules for layer in module.modules())
    return bool(modules) and not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)


def add_batch_norm(network: nn.Module) -> None:
    """Put a batch normalisation behind each convolution of fire9 and of any modules after it.

    What the layers compute changes, until a state is loaded or :func:`normalise_modules` has
    set them. Export folds them away. Networks of another architecture are left as they are.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    """
    if not isinstance(network, SqueezeFacePoseNet):
        return
    for module in (network.fire9, *(module for _, module in _residual_modules(network))):
        for name in _LAYERS:
            old, *activation = getattr(module, name)
            new = convolution(
                old.in_channels, old.out_channels, old.kernel_size[0], groups=old.groups
            )
            new[0].load_state_dict({"weight": old.weight})
            setattr(module, name, new.extend(activation))


@torch.no_grad()
def normalise_modules(
    network: nn.Module, objective: dict[str, Tensor], images: Tensor
) -> nn.Module:
    """Put batch normalisation behind fire9 and the modules after it, and wake silent ones.

    Parameters
    ----------
    network : nn.Module
        Without the map, as :func:`sfpose.training.maps.split_map` gives it; left as it is.
    objective : dict of str to Tensor
        State of a :class:`~sfpose.training.objectives.DistillationObjective` beside it; what it
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
        If there are no such modules, or they are normalised.
    """
    if not lacks_batch_norm(network):
        raise ValueError("network must have modules after fire9 without batch normalisation")
    modules = dict(_residual_modules(network))
    moments: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(name: str, values: Tensor) -> None:
        values = values.double()
        moments[name] = values.mean((0, 2, 3)), values.var((0, 2, 3))

    measured = copy.deepcopy(network)
    places = ["fire9", *modules]
    for place in places:
        for layer in _LAYERS:
            measured.get_submodule(f"{place}.{layer}.0").register_forward_hook(
                lambda _module, _given, result, name=f"{place}.{layer}": measure(name, result)
            )
    silent = silent_modules(measured, images)

    def spread(*names: str) -> float:
        return max(float(moments[name][1].mean().sqrt()) for name in names)

    new = copy.deepcopy(network)
    add_batch_norm(new)

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
    for place in places:
        if place in silent:
            _begin_anew(new.get_submodule(place))
            continue
        squeeze, *expands = (f"{place}.{layer}" for layer in _LAYERS)
        within = spread(squeeze)
        settle(squeeze, 1.0 if place == "fire9" else factor, within)
        for name in expands:
            settle(name, within, factor)
    for part, divisor in DIVISORS.items():
        for layer in getattr(new, part):
            if layer[0].bias is not None:
                layer[0].bias.div_(factor)
                divisors = objective.get(divisor, torch.ones(len(layer[0].bias)))
                objective[divisor] = divisors / factor
            else:
                layer[1].running_mean.div_(factor)
                layer[1].running_var.div_(factor**2)
    return new


def _begin_anew(module: nn.Module) -> None:
    assert isinstance(module, Fire)
    for name in _LAYERS:
        layer = getattr(module, name)
        nn.init.kaiming_normal_(layer[0].weight, nonlinearity="relu")
        if name != "squeeze":
            nn.init.zeros_(layer[1].weight)
