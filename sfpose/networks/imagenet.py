"""Start from a SqueezeNet v1.1 that was trained on ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["fill_from_squeezenet", "read_state"]

_FEATURES = {
    0: "conv1",
    3: "fire2",
    4: "fire3",
    6: "fire4",
    7: "fire5",
    9: "fire6",
    10: "fire7",
    11: "fire8",
    12: "fire9",
}


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state of named tensors (.safetensors, or .pth without running code).

    Raises
    ------
    ValueError
        If the file does not hold named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Tensor] = load_file(path)
        return state
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors; got {type(state).__name__}")
    return state


def _squeezenet_name(name: str) -> str | None:
    """Name in torchvision of one of our parameters, if it has a counterpart."""
    layer, *rest = name.split(".")
    if layer == "conv10":
        return f"classifier.1.{rest[-1]}" if rest[0] == "0" else None
    place = next((number for number, ours in _FEATURES.items() if ours == layer), None)
    if place is None or rest[-2] != "0":
        return None
    return ".".join(["features", str(place), *rest[:-2], rest[-1]])


def fill_from_squeezenet(
    network: nn.Module, state: dict[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Copy the matching layers of a SqueezeNet v1.1 state into a network.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet; changed in place.
    state : dict of str to Tensor
        torchvision's names: ``features.0.weight``, ..., ``classifier.1.bias``.

    Returns
    -------
    filled, left : list of str
        Parameters of the network that were copied, and those left as they were.

    Raises
    ------
    ValueError
        If a layer of the state does not fit, or none matches.
    """
    filled: list[str] = []
    left: list[str] = []
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            origin = _squeezenet_name(name)
            if origin is None or origin not in state:
                left.append(name)
                continue
            if state[origin].shape != parameter.shape:
                raise ValueError(
                    f"layer {origin} must have shape {tuple(parameter.shape)}; "
                    f"got {tuple(state[origin].shape)}"
                )
            parameter.copy_(state[origin])
            filled.append(name)
    if not filled:
        raise ValueError(
            "the state must be a SqueezeNet v1.1 with torchvision's names; no layer matched"
        )
    return filled, left
