"""What a network costs: parameters, multiply-adds, bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfpose.networks.registry import NETWORKS, build_network

__all__ = ["NetworkSummary", "count_multiply_adds", "count_parameters", "network_summary"]


@dataclass(frozen=True)
class NetworkSummary:
    """Cost of a network without its classifier.

    Attributes
    ----------
    name : str
    input_size, descriptor_size : int
    parameters : int
        Trained numbers, scale and shift of batch normalisation included.
    multiply_adds : int
        Of convolutions and fully connected layers, for one image.
    bytes : int
        Of the float32 weights that export leaves, batch normalisation folded away.

    Examples
    --------
    >>> from sfpose.networks import network_summary
    >>> network_summary("squeezefaceposenet").parameters
    1235496
    """

    name: str
    input_size: int
    descriptor_size: int
    parameters: int
    multiply_adds: int
    bytes: int


def count_parameters(network: nn.Module) -> int:
    """Number of trained values of a network.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    int

    Examples
    --------
    >>> from torch import nn
    >>> from sfpose.networks.summary import count_parameters
    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, input_size: int) -> int:
    """Multiply-adds of convolutions and fully connected layers for one image.

    Biases, activations, pooling and batch normalisation are not counted, as is usual.

    Parameters
    ----------
    network : nn.Module
        Run in evaluation mode; left in the mode it was in.
    input_size : int
        Side of the image.

    Returns
    -------
    int

    Examples
    --------
    >>> from torch import nn
    >>> from sfpose.networks.summary import count_multiply_adds
    >>> count_multiply_adds(nn.Conv2d(3, 4, 3, padding=1), 10)
    10800
    """
    counts: list[int] = []

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        counts.append(output.numel() * weight[0].numel())

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            image = torch.zeros(1, 3, input_size, input_size)
            network.eval()(image.to(next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return sum(counts)


def network_summary(name: str, *, input_size: int | None = None) -> NetworkSummary:
    """Parameters, multiply-adds and bytes of a network, without allocating it.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.
    input_size : int, optional
        Side of the images in pixels; that of the network's paper if not given.

    Returns
    -------
    NetworkSummary

    Raises
    ------
    ValueError
        If there is no network of that name, or ``input_size`` does not suit it.

    Examples
    --------
    >>> from sfpose.networks import network_summary
    >>> summary = network_summary("squeezefaceposenet")
    >>> summary.parameters, summary.bytes
    (1235496, 4941984)
    """
    with torch.device("meta"):
        network = build_network(name, input_size=input_size)
        folded = build_network(name, batch_norm=False, input_size=input_size)
    size = NETWORKS[name].input_size if input_size is None else input_size
    return NetworkSummary(
        name=name,
        input_size=size,
        descriptor_size=NETWORKS[name].descriptor_size,
        parameters=count_parameters(network),
        multiply_adds=count_multiply_adds(network, size),
        bytes=4 * count_parameters(folded),
    )
