"""Networks of one or several looks begun with the looks of others, and with their best values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sfpose.networks.layers import length_of_roots
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.training.maps import place_shape, placed_at, value_count

__all__ = ["join_looks", "look_names"]

_LAST = "conv1.0.weight"
# What an objective holds of all looks, by the axis along which they follow each other.
_JOINED = {"mean": 0, "place_divisors": 0, "linear.weight": 1, "placed.weight": 1}


def look_names(state: Mapping[str, Tensor]) -> list[str]:
    """What the names of each look's parameters begin with: ``[""]`` for a network by itself."""
    return [key.removesuffix(_LAST) for key in state if key.endswith(_LAST)]


def join_looks(
    states: Sequence[Mapping[str, Tensor]], network: SqueezeFacePoseNet | SeveralLooks
) -> dict[str, Tensor]:
    """States of a network of one or several looks, and of its objective, from those of its looks.

    Parameters
    ----------
    states : sequence of mapping of str to Tensor
        Each holds the state of a SqueezeFacePoseNet, or of SeveralLooks, without a map, and, where
        it has been taught, that of its objective.
    network : SqueezeFacePoseNet or SeveralLooks
        Its looks are filled in their order, with the last one again where ``states`` have
        fewer. Where it has fewer values than they, the largest in the mean of photos go on.
        Left as it is.

    Returns
    -------
    dict of str to Tensor
        What the map makes of a look, and of its places, keeps its share.
    """
    names = look_names(network.state_dict())
    values = value_count(network)
    maps, places = place_shape(network)
    parts = []
    for state in states:
        looks = len(look_names(state))
        # Shares are of the sum of all looks: their roots become as much shorter.
        shorter = (looks / len(names)) ** 0.5
        for part in _parts(state):
            if "placed.weight" in part and "mean" in state:
                # The objective brings roots of shares to length 1, whatever they were.
                own = length_of_roots(len(state["mean"])) / length_of_roots(values)
                placed = part["placed.weight"] * (shorter * own)
                part["placed.weight"] = placed_at(placed, maps // len(names), round(places**0.5))
            parts.append(_narrowed(part, values // len(names), shorter))
    parts = (parts + parts[-1:] * len(names))[: len(names)]
    joined: dict[str, Tensor] = {}
    for key, axis in _JOINED.items():
        if all(key in part for part in parts):
            joined[key] = torch.cat([part[key] for part in parts], axis)
    for name, part in zip(names, parts, strict=True):
        joined.update({f"{name}{key}": part[key] for key in part if key not in _JOINED})
    return joined


def _parts(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The states of each look, under the names of a network by itself."""
    names = look_names(state)
    for number, name in enumerate(names):
        part = {
            key.removeprefix(name): value
            for key, value in state.items()
            if key.startswith(name) and key not in _JOINED
        }
        for key, axis in _JOINED.items():
            if key in state:
                part[key] = state[key].chunk(len(names), axis)[number]
        yield part


def _narrowed(part: dict[str, Tensor], count: int, shorter: float) -> dict[str, Tensor]:
    """A look with its ``count`` largest values in the mean of photos, the smallest one last."""
    if "mean" not in part or "linear.weight" not in part or len(part["mean"]) <= count:
        return part
    order = part["mean"].argsort(descending=True)
    kept, left = order[:count], order[count - 1 :]
    linear = part["linear.weight"]
    # Values that are always zero have a constant for a root: one says what all of them said, and
    # does not become shorter with the others.
    constant = linear[:, left].sum(1, keepdim=True) * shorter
    return {
        **part,
        "mean": part["mean"][kept],
        "linear.weight": torch.cat([linear[:, kept[:-1]], constant], 1),
        # What counts batches has no filters.
        **{key: each[kept] for key, each in part.items() if key.startswith("conv10") and each.ndim},
    }
