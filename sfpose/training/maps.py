"""A network's own values while it is taught, and the objective's linear map when it ships."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks import build_network
from sfpose.networks.layers import length_of_roots
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.training.export import (
    scale_descriptor,
    scale_filters,
    take_common_layers,
    to_random_length,
)
from sfpose.training.objectives import DistillationObjective

__all__ = [
    "DIVISORS",
    "is_mapped",
    "join_map",
    "objective_with",
    "place_shape",
    "placed_at",
    "rebalance",
    "resized_places",
    "split_map",
    "value_count",
]

DIVISORS = MappingProxyType({"value_layers": "mean", "place_layers": "place_divisors"})
"""By what in its state the objective divides what a network's last layers give."""

_SUFFIX = "+map"


def is_mapped(network: str) -> bool:
    """Whether an architecture ends in a linear map of its values."""
    return network.endswith(_SUFFIX)


def place_shape(network: nn.Module) -> tuple[int, int]:
    """Maps that a network gives beside its values, and their places; (0, 0) if it has none."""
    if not isinstance(network, SqueezeFacePoseNet | SeveralLooks) or not network.place_layers:
        return 0, 0
    return _filters(network.place_layers), network.place_count


def value_count(network: nn.Module) -> int:
    """Values of a network that the objective's map takes.

    Raises
    ------
    ValueError
        If it is another network than SqueezeFacePoseNet, its variants or ``SeveralLooks``.
    """
    if not isinstance(network, SqueezeFacePoseNet | SeveralLooks):
        raise ValueError(
            "distillation teaches SqueezeFacePoseNet and its variants; "
            f"got {type(network).__name__}"
        )
    return _filters(network.value_layers)


def _filters(layers: Sequence[nn.Sequential]) -> int:
    return sum(len(layer.get_parameter("0.weight")) for layer in layers)


def objective_with(weight: Tensor) -> dict[str, Tensor]:
    """State of a ``DistillationObjective`` that begins with a map (d, n) of n values."""
    return {"linear.weight": weight, "mean": torch.ones(weight.shape[1])}


def split_map(
    network: nn.Module, name: str, teacher_size: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Take a mapped network apart into what is taught and the map.

    Parameters
    ----------
    network : nn.Module
        Left as it is.
    name : str
        Its architecture.
    teacher_size : int
        Values of the teacher's embeddings, which the map must give.

    Returns
    -------
    network : nn.Module
        A copy without the map, which gives all that goes into it; the one that was given if it
        has none.
    objective : dict of str to Tensor
        State of a ``DistillationObjective`` that begins with the map; empty if there
        is none.

    Raises
    ------
    ValueError
        If the map gives another number of values.
    """
    if not is_mapped(name):
        return network, {}
    plain = copy.deepcopy(network)
    assert isinstance(plain, SqueezeFacePoseNet | SeveralLooks)
    weight = plain.get_parameter("map.weight").detach()
    mapped, own = weight.shape
    if mapped != teacher_size:
        raise ValueError(
            f"the teacher's embeddings must have {mapped} values, which the map of {name!r} gives; "
            f"got {teacher_size}"
        )
    objective = objective_with(weight)
    maps, count = place_shape(plain)
    if maps:
        placed = plain.get_parameter("placed.weight").detach().flatten(1)
        objective["placed.weight"] = placed * (count**0.5 / length_of_roots(own))
    plain.take_map_off()
    return plain, objective


def rebalance(network: nn.Module, objective: dict[str, Tensor]) -> None:
    """Give the last filters of a split network the lengths that filters have at random.

    Export folds what values are divided by into the filters, which leaves some so short that the
    first steps of training on would replace them. What they say does not change: the objective
    divides by the same factors.

    Parameters
    ----------
    network : nn.Module
        As ``split_map`` gives it, of an artifact; changed in place.
    objective : dict of str to Tensor
        State beside it; changed in place.
    """
    for part, divisor in DIVISORS.items():
        layers = getattr(network, part)
        # Without a bias there is a batch normalisation, which needs no such help.
        if any(layer[0].bias is None for layer in layers) or not layers:
            continue
        factor = torch.cat([to_random_length(layer[0]) for layer in layers]).float()
        scale_filters(layers, factor)
        objective[divisor] = factor


def resized_places(state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Draw the weights of places at the places that a network's last maps have.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of a mapped network or of an objective; given back as it is where it has no weights of
        places, or has them for these places.
    network : nn.Module
        For which the state is meant.

    Returns
    -------
    mapping of str to Tensor
    """
    maps, count = place_shape(network)
    weight = state.get("placed.weight")
    if weight is None or not maps:
        return state
    old = round((weight[0].numel() / maps) ** 0.5)
    if weight[0].numel() != maps * old**2:
        return state
    drawn = placed_at(weight, maps, round(count**0.5))
    return state if drawn is weight else {**state, "placed.weight": drawn}


def placed_at(weight: Tensor, maps: int, side: int) -> Tensor:
    """Weights of places drawn at ``side`` x ``side`` places of as many maps.

    Weights of 7x7 places, say, become such of 9x9 by bilinear interpolation, as much smaller as
    there are more of them: maps that look alike at both sizes have the same sum.

    Parameters
    ----------
    weight : Tensor of shape (d, maps, h, h) or (d, maps * h * h)
        Of a network, or of an objective.
    maps, side : int

    Returns
    -------
    Tensor of shape (d, maps, side, side) or (d, maps * side * side)
    """
    old = round((weight[0].numel() / maps) ** 0.5)
    if old == side:
        return weight
    drawn = F.interpolate(
        weight.reshape(-1, maps, old, old),
        size=side,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    if weight.dim() == 4:
        return drawn * (old / side) ** 2
    # The objective divides maps by the root of the number of their places, a network does not.
    return drawn.flatten(1) * (old / side)


def join_map(network: nn.Module, objective: DistillationObjective, name: str) -> nn.Module:
    """Put the objective's map behind the network that was taught with it.

    Parameters
    ----------
    network : nn.Module
        Without batch normalisation.
    objective : DistillationObjective
    name : str
        Architecture of the result.

    Returns
    -------
    nn.Module
        In evaluation mode. What it maps is what the objective saw: the objective's scale is
        folded into the last layer.

    Raises
    ------
    ValueError
        If the network or the map is of another form.
    """
    weight = objective.linear.weight
    assert isinstance(network, SqueezeFacePoseNet | SeveralLooks)
    joined = build_network(name, batch_norm=False, input_size=network.input_size)
    assert isinstance(joined, SqueezeFacePoseNet | SeveralLooks)
    state = {**network.state_dict(), "map.weight": weight}
    if objective.placed is not None and joined.placed is not None:
        # The objective's features have length 1, the network's roots of shares have not.
        factor = length_of_roots(weight.shape[1]) / objective.place_length
        shape = joined.get_parameter("placed.weight").shape
        state["placed.weight"] = objective.placed.weight.view(shape) * factor
    left = take_common_layers(joined, state)
    if left:
        raise ValueError(f"the parts of {name!r} must fit it; there is nothing for {left}")
    scale_descriptor(joined, 1 / objective.divisors.cpu())
    if joined.place_layers:
        scale_filters(joined.place_layers, 1 / objective.place_divisors.cpu())
    return joined.eval()
