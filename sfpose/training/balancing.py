"""Layers brought to the scale at which they can be trained on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import Fire, SqueezeFacePoseNet

__all__ = ["balance"]


@torch.no_grad()
def balance(network: nn.Module, size: int) -> None:
    """Give what each layer of a network says the same spread, and let the network say the same.

    Export folds normalisations into filters, and learning without them leaves scales as they fall:
    filters of 1e-9 behind maps of 1e9. A step of any rate that suits the others replaces them. A
    positive factor commutes with convolution, ReLU, pooling and sums, so each layer's can be
    taken from the next. The last layers keep the scale of what they say.

    Parameters
    ----------
    network : nn.Module
        Of SqueezeFacePoseNet and its variants, one or several looks, what has no batch
        normalisation is changed in place; nothing else is.
    size : int
        Side of its images.
    """
    if not isinstance(network, SqueezeFacePoseNet | SeveralLooks):
        return
    parts = [part for part in network.modules() if isinstance(part, SqueezeFacePoseNet)]
    normalised = [part.conv1 for part in parts]
    if network.placed is not None:
        normalised += network.place_layers
    if any(layer[0].bias is None for layer in normalised):
        return
    spread = _spreads(network, size)
    places = 1.0
    if network.placed is not None:
        logs = [math.log(spread[layer[0]]) for layer in network.place_layers]
        places = math.exp(sum(logs) / len(logs))
        network.placed.weight.mul_(places)
    for part in parts:
        _balance_one(part, spread, places)


def _spreads(network: nn.Module, size: int) -> dict[nn.Module, float]:
    """Standard deviations of what convolutions say of smooth noise."""
    found: dict[nn.Module, float] = {}

    def keep(module: nn.Module, _given: object, said: Tensor) -> None:
        value = float(said.double().std())
        found[module] = value if 0 < value < math.inf else 1.0

    hooks = [
        module.register_forward_hook(keep)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.randn((8, 3, 7, 7), generator=drawn)
    images = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    training = network.training
    network.eval()(images.to(next(network.parameters()).device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return found


def _balance_one(
    network: SqueezeFacePoseNet, spread: dict[nn.Module, float], places: float
) -> None:
    def scale(layer: nn.Sequential, given: float, said: float) -> None:
        layer.get_parameter("0.weight").mul_(given / said)
        layer.get_parameter("0.bias").div_(said)

    now = spread[network.conv1[0]]
    scale(network.conv1, 1.0, now)
    fires = [module for module in network.modules() if isinstance(module, Fire)]
    for fire in fires:
        narrow = spread[fire.squeeze[0]]
        wide = math.sqrt(spread[fire.expand1x1[0]] * spread[fire.expand3x3[0]])
        # What a sum adds to must keep its scale.
        wide = now if fire.residual else wide
        scale(fire.squeeze, now, narrow)
        scale(fire.expand1x1, narrow, wide)
        scale(fire.expand3x3, narrow, wide)
        now = wide
    if network.gdc is None:
        scale(network.conv10, now, 1.0)
    else:
        values = spread[network.conv10[0]]
        scale(network.conv10, now, values)
        scale(network.gdc, values, 1.0)
    for layer in network.place_layers:
        scale(layer, now, places)
