"""A network's own values while it is taught, and the objective's linear map when it ships."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpose.networks import build_network
from sfpose.training.export import scale_descriptor, take_common_layers
from sfpose.training.objectives import DistillationObjective

__all__ = ["is_mapped", "join_map", "split_map"]

_SUFFIX = "+map"


def is_mapped(network: str) -> bool:
    """Whether an architecture ends in a linear map of its values."""
    return network.endswith(_SUFFIX)


def split_map(
    network: nn.Module, name: str, teacher_size: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Take a mapped network apart into what is taught and the map.

    Parameters
    ----------
    network : nn.Module
    name : str
        Its architecture.
    teacher_size : int
        Values of the teacher's embeddings, which the map must give.

    Returns
    -------
    network : nn.Module
        That of the same layers without the map; the one that was given if it has none.
    objective : dict of str to Tensor
        State of a :class:`DistillationObjective` that begins with the map; empty if there
        is none.

    Raises
    ------
    ValueError
        If the map gives another number of values.
    """
    if not is_mapped(name):
        return network, {}
    state = network.state_dict()
    weight = state.pop("map.weight")
    mapped, own = weight.shape
    if mapped != teacher_size:
        raise ValueError(
            f"the teacher's embeddings must have {mapped} values, which the map of {name!r} gives; "
            f"got {teacher_size}"
        )
    plain = build_network(name.removesuffix(_SUFFIX))
    plain.load_state_dict(state)
    return plain, {"linear.weight": weight, "mean": torch.ones(own)}


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
    joined = build_network(name, batch_norm=False)
    state = {**network.state_dict(), "map.weight": objective.linear.weight}
    left = take_common_layers(joined, state)
    if left:
        raise ValueError(f"the parts of {name!r} must fit it; there is nothing for {left}")
    scale_descriptor(joined, 1 / objective.divisors.cpu())
    return joined.eval()
