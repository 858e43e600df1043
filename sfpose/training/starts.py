"""What a run begins from: an artifact, published weights, another run, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from sfpose.networks import build_network
from sfpose.networks.imagenet import fill_from_state, read_state
from sfpose.networks.two_looks import TwoLooks, for_both_looks
from sfpose.runtime.artifact import read_artifact
from sfpose.training.checkpoints import load_checkpoint
from sfpose.training.export import network_from_artifact, take_common_layers
from sfpose.training.maps import is_mapped, objective_with, rebalance, resized_places
from sfpose.training.normalising import add_batch_norm

__all__ = ["Start", "start_network"]


class Start(NamedTuple):
    """A network to train on, the name of its architecture, and what in it is new.

    ``objective`` is the state of an objective: what a checkpoint holds beside its network, or the
    map of an artifact, where the network to train has none.
    """

    network: nn.Module
    name: str
    new_layers: list[str]
    objective: Mapping[str, Tensor] = MappingProxyType({})


def start_network(
    start: str | Path | None,
    network: str | None = None,
    *,
    dropout: float = 0.0,
    input_size: int | None = None,
) -> Start:
    """Network to train on: from an artifact, from an ImageNet state, or at random.

    Parameters
    ----------
    start : str, Path or None
        A shipped name or the path of an artifact; a ``.safetensors`` or ``.pth``
        file with a published state, such as SqueezeNet v1.1 (see
        :func:`sfpose.networks.imagenet.fill_from_state`); the ``.pt`` checkpoint of a run;
        None for random weights.
    network : str, optional
        Architecture; that of the artifact if not given, or ``"squeezefaceposenet"``. If an
        artifact or checkpoint is of another one, what both have in common is taken: the
        layers of the same name and shape; both looks of ``TwoLooks`` begin with one network,
        and the objective of a network without a map begins with the map of one that has it.
    dropout : float, default=0.0
        Before the last convolution.
    input_size : int, optional
        Side of the images for an architecture that is built for one size; its own if
        not given. The weights of places are drawn at the places of that size
        (:func:`sfpose.training.maps.resized_places`); other artifacts keep their size.

    Returns
    -------
    Start
        ``new_layers`` names the parameters that the start did not fill.

    Raises
    ------
    ValueError
        If the start is of another architecture and none of its layers fits.
    """
    name = network or "squeezefaceposenet"
    suffix = None if start is None else Path(start).suffix
    if start is None or suffix in (".safetensors", ".pth"):
        built = build_network(name, dropout=dropout, input_size=input_size)
        left = [] if start is None else fill_from_state(built, read_state(start))[1]
        return Start(built, name, left)
    objective: Mapping[str, Tensor] = {}
    if suffix == ".pt":
        checkpoint = load_checkpoint(start)
        state, objective = checkpoint["averaged"], checkpoint["objective"]
    else:
        artifact = read_artifact(start)
        own = str(artifact.manifest["network"])
        whole = network_from_artifact(artifact, dropout=dropout)
        state, name = whole.state_dict(), network or own
        drawn = "placed.weight" in state and input_size not in (None, artifact.network_input.size)
        if name == own and not drawn:
            return Start(whole, own, [])
    # Export has folded the batch normalisation of places into their biases.
    folded = False if any(key.endswith("places.0.bias") for key in state) else None
    built = build_network(name, batch_norm=folded, dropout=dropout, input_size=input_size)
    if isinstance(built, TwoLooks) and "conv1.0.weight" in state:
        state, objective = for_both_looks(state), for_both_looks(objective)
    if "fire9.squeeze.1.weight" in state:
        add_batch_norm(built)
    state, objective = (resized_places(each, built) for each in (state, objective))
    left = take_common_layers(built, state)
    if len(left) == len(list(built.parameters())):
        raise ValueError(f"start must have layers of {type(built).__name__}; none fits")
    if "map.weight" in state and not is_mapped(name):
        # Where the network to train has no map, the objective's begins with it.
        objective = objective_with(state["map.weight"])
        rebalance(built, objective)
    return Start(built, name, left, objective)
