"""What several architectures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = [
    "BottleneckNetwork",
    "GlobalDepthwiseHead",
    "InvertedBottleneck",
    "check_image_size",
    "convolution",
    "depthwise_convolution",
    "interleave_channels",
    "length_of_roots",
    "map_side",
    "roots_of_shares",
    "shares_of_sum",
]

_LEAST_SHARE = 1e-4


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    batch_norm: bool = True,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, batch normalisation if wanted, activation if given.

    The convolution is entry 0 either way, and has a bias exactly where no batch
    normalisation follows: so the state of a network whose batch normalisation was folded
    away is the state of the same network built with ``batch_norm=False``.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride, groups : int
    padding : int, optional
        Half the kernel if not given, which keeps the size at stride 1.
    batch_norm : bool, default=True
    activation : nn.Module, optional

    Returns
    -------
    nn.Sequential
    """
    if padding is None:
        padding = kernel // 2
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not batch_norm)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    if activation is not None:
        layers.append(activation)
    return nn.Sequential(*layers)


def depthwise_convolution(
    channels: int,
    *,
    stride: int = 1,
    batch_norm: bool = True,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """3x3 filters that see one channel each, as ``convolution`` makes them.

    Parameters
    ----------
    channels : int
    stride : int, default=1
    batch_norm : bool, default=True
    activation : nn.Module, optional

    Returns
    -------
    nn.Sequential
    """
    return convolution(
        channels,
        channels,
        3,
        stride=stride,
        groups=channels,
        batch_norm=batch_norm,
        activation=activation,
    )


class InvertedBottleneck(nn.Module):
    """Widen with 1x1 filters, filter each channel with 3x3, narrow without activation.

    The block of MobileNetV2 with PReLU, as MobileFaceNet and MobiFace use it.

    Parameters
    ----------
    inputs, expanded, outputs : int
        Channels before, between and after.
    stride : int, default=1
        Of the 3x3 filters.
    residual : bool, default=False
        Add the input to the output; both must have the same shape.
    batch_norm : bool, default=True

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks.layers import InvertedBottleneck
    >>> InvertedBottleneck(8, 16, 8, stride=2)(torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        stride: int = 1,
        residual: bool = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self._build(inputs, expanded, outputs, stride, batch_norm)

    def _build(
        self, inputs: int, expanded: int, outputs: int, stride: int, batch_norm: bool
    ) -> None:
        self.expand: nn.Module = convolution(
            inputs, expanded, batch_norm=batch_norm, activation=nn.PReLU(expanded)
        )
        self.depthwise = depthwise_convolution(
            expanded, stride=stride, batch_norm=batch_norm, activation=nn.PReLU(expanded)
        )
        self.project: nn.Module = convolution(expanded, outputs, batch_norm=batch_norm)

    def _filter(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = self._filter(x)
        return x + y if self.residual else y


class BottleneckNetwork(nn.Module):
    """Stem, inverted bottlenecks, a 1x1 layer, and a global depthwise head.

    What MobileFaceNet, MobiFace and SeesawFaceNet have in common; each says its stages,
    block, activation and number of values.

    Parameters
    ----------
    batch_norm : bool, default=True
    dropout : float, default=0.0
        Share of the values dropped before the last layer in training.
    input_size : int, default=112
        Side of the images.
    """

    stages: ClassVar[Sequence[tuple[int, int, int, int]]]
    """Channels between, channels after, blocks, stride of the first; from 64 channels on."""

    block: ClassVar[type[InvertedBottleneck]] = InvertedBottleneck
    outputs: ClassVar[int]

    def __init__(
        self, *, batch_norm: bool = True, dropout: float = 0.0, input_size: int = 112
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.conv1 = convolution(
            3, 64, 3, stride=2, batch_norm=batch_norm, activation=self.activation(64)
        )
        self.depthwise2 = depthwise_convolution(
            64, batch_norm=batch_norm, activation=self.activation(64)
        )
        blocks: list[nn.Module] = []
        width = 64
        for expanded, channels, count, stride in self.stages:
            for number in range(count):
                first = stride if number == 0 else 1
                # A block of stride 1 that keeps the number of channels is residual.
                residual = first == 1 and width == channels
                blocks.append(
                    self.block(
                        width,
                        expanded,
                        channels,
                        stride=first,
                        residual=residual,
                        batch_norm=batch_norm,
                    )
                )
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv6 = convolution(width, 512, batch_norm=batch_norm, activation=self.activation(512))
        side = map_side(input_size, 4)
        self.head = GlobalDepthwiseHead(
            512, self.outputs, side, batch_norm=batch_norm, dropout=dropout
        )

    def activation(self, channels: int) -> nn.Module:
        """Activation for a number of channels, outside of the blocks."""
        return nn.PReLU(channels)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, outputs) of normalised images (n, 3, size, size)."""
        check_image_size(images, self.input_size)
        return self.head(self.conv6(self.blocks(self.depthwise2(self.conv1(images)))))


class GlobalDepthwiseHead(nn.Module):
    """One filter as large as the map for each channel, then a linear layer.

    Parameters
    ----------
    inputs, outputs : int
        Channels of the map, and values of the descriptor.
    side : int
        Of the map.
    batch_norm : bool, default=True
    dropout : float, default=0.0
        Share of the values dropped between the two layers in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        *,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.gdc = convolution(
            inputs, inputs, side, padding=0, groups=inputs, batch_norm=batch_norm
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = convolution(inputs, outputs, batch_norm=batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, side, side) to (n, outputs)."""
        return self.linear(self.dropout(self.gdc(x))).flatten(1)


def interleave_channels(parts: Sequence[Tensor]) -> Tensor:
    """Join equal parts channel by channel: 0 1 2 and 3 4 5 to 0 3 1 4 2 5.

    Parameters
    ----------
    parts : sequence of Tensor (n, channels, h, w)

    Returns
    -------
    Tensor (n, channels * len(parts), h, w)
    """
    return torch.stack(list(parts), 2).flatten(1, 2)


def map_side(size: int, halvings: int) -> int:
    """Side of the map after layers of stride 2 that pad."""
    return -(-size // 2**halvings)


def shares_of_sum(values: Tensor) -> Tensor:
    """Each value's share in the sum of its row (n, d); zeros where all are zero."""
    return values / (values.sum(1, keepdim=True) + 1e-8)


def roots_of_shares(shares: Tensor) -> Tensor:
    """Square roots of shares (n, d); a small constant keeps the slope finite at zero."""
    return torch.sqrt(shares + _LEAST_SHARE)


def length_of_roots(count: int) -> float:
    """Length of the ``roots_of_shares`` of ``count`` values that do not all vanish."""
    return float((1 + count * _LEAST_SHARE) ** 0.5)


def check_image_size(images: Tensor, size: int) -> None:
    """Refuse images of another size than the one that a network was built for.

    Raises
    ------
    ValueError
        If ``images`` is not (n, 3, size, size).
    """
    # A tracer would warn that the comparison becomes a constant.
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if not tracing and images.shape[1:] != (3, size, size):
        raise ValueError(
            f"images must have shape (n, 3, {size}, {size}), the size that this network was "
            f"built for (build_network(..., input_size=...)); got {tuple(images.shape)}"
        )
