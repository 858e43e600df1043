"""SeesawFaceNet: MobileFaceNet with uneven groups, shuffled, and swish."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpose.networks.layers import (
    BottleneckNetwork,
    InvertedBottleneck,
    convolution,
    depthwise_convolution,
    interleave_channels,
)
from sfpose.networks.mobilefacenet import MobileFaceNet

__all__ = ["SeesawBlock", "SeesawFaceNet"]


class SqueezeExcite(nn.Module):
    """Scale each channel by a number between 0 and 1 that all channel means decide.

    Parameters
    ----------
    channels : int
    reduction : int, default=4
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        narrow = channels // reduction
        self.reduce = convolution(channels, narrow, batch_norm=False, activation=nn.PReLU(narrow))
        self.restore = convolution(narrow, channels, batch_norm=False, activation=nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        return x * self.restore(self.reduce(x.mean((2, 3), keepdim=True)))


class UnevenPointwise(nn.Module):
    """1x1 filters in two groups: a quarter of the channels, and the other three.

    Parameters
    ----------
    inputs, outputs : int
        Channels, divisible by 4.
    batch_norm : bool, default=True
    swish : bool, default=True
        Swish after the filters; no activation otherwise.
    """

    def __init__(
        self, inputs: int, outputs: int, *, batch_norm: bool = True, swish: bool = True
    ) -> None:
        super().__init__()
        self.split = [inputs // 4, inputs - inputs // 4]
        small = outputs // 4
        self.small = convolution(
            self.split[0], small, batch_norm=batch_norm, activation=nn.SiLU() if swish else None
        )
        self.large = convolution(
            self.split[1],
            outputs - small,
            batch_norm=batch_norm,
            activation=nn.SiLU() if swish else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h, w)."""
        small, large = torch.split(x, self.split, 1)
        return torch.cat([self.small(small), self.large(large)], 1)


class SeesawBlock(InvertedBottleneck):
    """Uneven 1x1 groups, channel shuffle, 3x3 depthwise, attention, uneven 1x1 groups.

    Parameters are those of ``InvertedBottleneck``.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks.seesawfacenet import SeesawBlock
    >>> SeesawBlock(8, 16, 8, stride=2)(torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 8, 3, 3])
    """

    def _build(
        self, inputs: int, expanded: int, outputs: int, stride: int, batch_norm: bool
    ) -> None:
        self.expand = UnevenPointwise(inputs, expanded, batch_norm=batch_norm)
        self.depthwise = depthwise_convolution(
            expanded, stride=stride, batch_norm=batch_norm, activation=nn.SiLU()
        )
        self.attention = SqueezeExcite(expanded)
        self.project = UnevenPointwise(expanded, outputs, batch_norm=batch_norm, swish=False)

    def _filter(self, x: Tensor) -> Tensor:
        widened = self.expand(x)
        shuffled = interleave_channels(torch.chunk(widened, 2, 1))
        return self.project(self.attention(self.depthwise(shuffled)))


class SeesawFaceNet(BottleneckNetwork):
    """Seesaw-shuffleFaceNet for 112x112 images: 512 signed values, for the cosine.

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
    1,370,176 parameters and 146 million multiply-adds. The paper's abstract gives 1.3 and
    146 million; the author's code has the layers and the count that are here.

    References
    ----------
    Zhang, "SeesawFaceNets: sparse and robust face verification model for mobile
    platform"; checked against the author's code.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("seesawfacenet").eval()(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 512])
    """

    stages = MobileFaceNet.stages
    block = SeesawBlock
    outputs = 512

    def activation(self, channels: int) -> nn.Module:
        """Swish, for any number of channels."""
        return nn.SiLU()
