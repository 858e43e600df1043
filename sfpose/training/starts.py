"""What a run begins from: an artifact, published weights, another run, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from sfpose.networks import build_network
from sfpose.networks.imagenet import fill_from_state, read_state
from sfpose.networks.registry import IMAGENET_MEAN, IMAGENET_STD
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.runtime.artifact import Artifact, read_artifact
from sfpose.training.balancing import balance
from sfpose.training.checkpoints import load_checkpoint
from sfpose.training.export import network_from_artifact, take_common_layers
from sfpose.training.joining import join_looks, look_names
from sfpose.training.maps import (
    is_mapped,
    objective_with,
    place_shape,
    rebalance,
    resized_places,
    split_map,
)
from sfpose.training.normalising import add_batch_norm

__all__ = ["Start", "start_network"]


_NONE_FITS = "start must have layers of {}; none fits"


class Start(NamedTuple):
    """A network to train on, the name of its architecture, and what in it is new.

    ``objective`` is the state of an objective: what a checkpoint holds beside its network, or the
    map of an artifact, where the network to train has none. ``artifact`` is what the network was
    taken from whole: trained on, its descriptors are made as they are there.
    """

    network: nn.Module
    name: str
    new_layers: list[str]
    objective: Mapping[str, Tensor] = MappingProxyType({})
    artifact: Artifact | None = None


def start_network(
    start: str | Path | Sequence[str | Path] | None,
    network: str | None = None,
    *,
    dropout: float = 0.0,
    input_size: int | None = None,
) -> Start:
    """Network to train on: from an artifact, from an ImageNet state, or at random.

    Parameters
    ----------
    start : str, Path, sequence of them or None
        A shipped name or the path of an artifact; a ``.safetensors`` or ``.pth``
        file with a published state, such as SqueezeNet v1.1 (see
        ``sfpose.networks.imagenet.fill_from_state``); the ``.pt`` checkpoint of a run;
        None for random weights. Several artifacts or checkpoints fill the looks of ``SeveralLooks``
        one after the other.
    network : str, optional
        Architecture; that of the artifact or checkpoint if not given, or
        ``"squeezefaceposenet"``. If an
        artifact or checkpoint is of another one, what both have in common is taken: the
        layers of the same name and shape; all looks of ``SeveralLooks`` begin with one network,
        and the objective of a network without a map begins with the map of one that has it.
    dropout : float, default=0.0
        Before the last convolution.
    input_size : int, optional
        Side of the images for an architecture that is built for one size; its own if
        not given. The weights of places are drawn at the places of that size
        (``sfpose.training.maps.resized_places``); other artifacts keep their size.

    Returns
    -------
    Start
        ``new_layers`` names the parameters that the start did not fill.

    Raises
    ------
    ValueError
        If the start is of another architecture and none of its layers fits, takes images of
        another mean and deviation than ImageNet's, by which these runs feed networks, there are
        several and the network has not several looks, or an empty sequence is given.
    """
    name = network or "squeezefaceposenet"
    if start is not None and not isinstance(start, str | Path):
        if len(start) != 1:
            return _from_several(start, name, dropout, input_size)
        (start,) = start
    suffix = None if start is None else Path(start).suffix
    if start is None or suffix in (".safetensors", ".pth"):
        built = build_network(name, dropout=dropout, input_size=input_size)
        left = [] if start is None else fill_from_state(built, read_state(start))[1]
        return Start(built, name, left)
    whole: nn.Module | None = None
    objective: Mapping[str, Tensor] = {}
    if suffix == ".pt":
        checkpoint = load_checkpoint(start, ("averaged", "objective"))
        state, objective = checkpoint["averaged"], checkpoint["objective"]
        name = network or _stated_network(checkpoint) or name
    else:
        artifact = read_artifact(start)
        own = str(artifact.manifest.get("network"))
        whole = _network_of(artifact, dropout)
        state, name = whole.state_dict(), network or own
        drawn = "placed.weight" in state and input_size not in (None, artifact.network_input.size)
        if name == own and not drawn:
            return Start(whole, own, [], artifact=artifact)
    built = build_network(name, batch_norm=_folded(state), dropout=dropout, input_size=input_size)
    if _other_form(built, state):
        taught = {**state, **objective} if whole is None else _taught(whole, own)
        return _joined([taught], built, name)
    add_batch_norm(built, state)
    state, objective = (resized_places(each, built) for each in (state, objective))
    left = take_common_layers(built, state)
    if len(left) == len(list(built.parameters())):
        raise ValueError(_NONE_FITS.format(type(built).__name__))
    if "map.weight" in state and not is_mapped(name):
        # Where the network to train has no map, the objective's begins with it.
        objective = objective_with(state["map.weight"])
        rebalance(built, objective)
    return Start(built, name, left, objective)


def _network_of(artifact: Artifact, dropout: float = 0.0) -> nn.Module:
    """The network to train on; the last layers of a mapped one are balanced with its objective."""
    taken = artifact.network_input
    if not np.allclose((taken.mean, taken.std), (IMAGENET_MEAN, IMAGENET_STD), rtol=1e-4):
        raise ValueError(
            f"start must take images of mean {IMAGENET_MEAN} and std {IMAGENET_STD}, as this "
            f"training feeds them (FaceEmbedder.fit keeps others); got {taken.mean}, {taken.std}"
        )
    network = network_from_artifact(artifact, dropout=dropout)
    if not is_mapped(str(artifact.manifest["network"])):
        balance(network, artifact.network_input.size)
    return network


def _stated_network(checkpoint: Mapping[str, object]) -> str | None:
    """The architecture that a run says of itself; older checkpoints may not."""
    facts = checkpoint.get("run")
    stated = facts.get("network") if isinstance(facts, dict) else None
    return stated if isinstance(stated, str) else None


def _folded(state: Mapping[str, Tensor]) -> bool | None:
    """What ``batch_norm`` of a network must be: export has folded that of places into biases."""
    return False if any(key.endswith("places.0.bias") for key in state) else None


def _other_form(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a mapped network has other looks, or fewer values, than a state."""
    if place_shape(network) == (0, 0):
        return False
    own = network.state_dict()
    names, own_names = look_names(state), look_names(own)
    if len(names) != len(own_names):
        return True
    last = "conv10.0.weight"
    given = state.get(names[0] + last)
    return given is not None and len(given) > len(own[own_names[0] + last])


def _from_several(
    starts: Sequence[str | Path], name: str, dropout: float, input_size: int | None
) -> Start:
    """Looks that begin with the networks of artifacts and checkpoints."""
    if not starts:
        raise ValueError("start must name at least one artifact or checkpoint, or be None; got []")
    states = [_taught_state(start) for start in starts]
    built = build_network(
        name, batch_norm=_folded(states[0]), dropout=dropout, input_size=input_size
    )
    if not isinstance(built, SeveralLooks):
        raise ValueError(
            f"several starts are for a network of several looks; got {len(starts)} for {name!r}"
        )
    return _joined(states, built, name)


def _joined(states: Sequence[Mapping[str, Tensor]], network: nn.Module, name: str) -> Start:
    """A network of one or several looks, filled from states of the form of ``_taught``."""
    assert isinstance(network, SqueezeFacePoseNet | SeveralLooks)
    if not all(look_names(state) for state in states):
        raise ValueError(_NONE_FITS.format(type(network).__name__))
    state = join_looks(states, network)
    add_batch_norm(network, state)
    return Start(network, name, take_common_layers(network, state), state)


def _taught_state(start: str | Path) -> dict[str, Tensor]:
    """What a checkpoint or an artifact holds, as ``_taught`` gives it."""
    if Path(start).suffix == ".pt":
        checkpoint = load_checkpoint(start, ("averaged", "objective"))
        return {**checkpoint["averaged"], **checkpoint["objective"]}
    artifact = read_artifact(start)
    return _taught(_network_of(artifact), str(artifact.manifest["network"]))


def _taught(network: nn.Module, name: str) -> dict[str, Tensor]:
    """State of a network without its map, and of the objective that has the map."""
    weight = network.state_dict().get("map.weight")
    if weight is None:
        return network.state_dict()
    plain, objective = split_map(network, name, len(weight))
    rebalance(plain, objective)
    return {**plain.state_dict(), **objective}
