"""ShuffleFaceNet: ShuffleNet V2 with PReLU and a global depthwise convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpose.networks.layers import (
    GlobalDepthwiseHead,
    check_image_size,
    convolution,
    depthwise_convolution,
    interleave_channels,
    map_side,
)

__all__ = ["ShuffleFaceNet", "ShuffleUnit"]

# The width 1.5x of its paper: output channels and units of stages 2, 3 and 4.
_STAGES = ((176, 4), (352, 8), (704, 4))


class ShuffleUnit(nn.Module):
    """One half of the channels passes, the other is filtered; both are interleaved.

    Parameters
    ----------
    inputs, outputs : int
        Channels; equal unless the unit halves the map.
    halve : bool, default=False
        Stride 2: both halves of the output are filtered from all inputs.
    batch_norm : bool, default=True

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks.shufflefacenet import ShuffleUnit
    >>> ShuffleUnit(8, 8, halve=True)(torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self, inputs: int, outputs: int, *, halve: bool = False, batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.passed = half = outputs // 2
        stride = 2 if halve else 1

        def pointwise(channels: int) -> nn.Sequential:
            return convolution(channels, half, batch_norm=batch_norm, activation=nn.PReLU(half))

        def depthwise(channels: int) -> nn.Sequential:
            return depthwise_convolution(channels, stride=stride, batch_norm=batch_norm)

        self.branch1 = nn.Sequential(depthwise(inputs), pointwise(inputs)) if halve else None
        self.branch2 = nn.Sequential(
            pointwise(inputs if halve else half), depthwise(half), pointwise(half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h, w), or half of h and w."""
        if self.branch1 is None:
            first, second = torch.split(x, self.passed, 1)
        else:
            first, second = self.branch1(x), x
        return interleave_channels([first, self.branch2(second)])


class ShuffleFaceNet(nn.Module):
    """ShuffleFaceNet 1.5x for 112x112 images: 128 signed values, for the cosine.

    Parameters
    ----------
    batch_norm : bool, default=True
        False builds what export makes of it: batch normalisation folded away.
    dropout : float, default=0.0
        Share of the values dropped before the last layer in training; none in its paper.
    input_size : int, default=112
        Side of the images, which fixes the kernel of the global depthwise convolution.

    Notes
    -----
    2,670,176 parameters, 2,636,432 of them in convolutions, which is what the published 2.6
    million agree with; the rest are in batch normalisation and PReLU.

    References
    ----------
    Martindez-Diaz et al., "ShuffleFaceNet: A Lightweight Face Architecture for Efficient
    and Highly-Accurate Face Recognition", Table 1, width 1.5x.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("shufflefacenet").eval()(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 128])
    """

    def __init__(
        self, *, batch_norm: bool = True, dropout: float = 0.0, input_size: int = 112
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.conv1 = convolution(3, 24, 3, stride=2, batch_norm=batch_norm, activation=nn.PReLU(24))
        units: list[nn.Module] = []
        width = 24
        for channels, count in _STAGES:
            units.append(ShuffleUnit(width, channels, halve=True, batch_norm=batch_norm))
            units.extend(
                ShuffleUnit(channels, channels, batch_norm=batch_norm) for _ in range(count - 1)
            )
            width = channels
        self.units = nn.Sequential(*units)
        self.conv5 = convolution(width, 1024, batch_norm=batch_norm, activation=nn.PReLU(1024))
        side = map_side(input_size, 4)
        self.head = GlobalDepthwiseHead(1024, 128, side, batch_norm=batch_norm, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 128) of normalised images (n, 3, size, size)."""
        check_image_size(images, self.input_size)
        x = self.conv5(self.units(self.conv1(images)))
        return self.head(x)
