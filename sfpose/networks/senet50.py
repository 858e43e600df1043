"""SE-ResNet-50 as VGGFace2 trained it."""

from __future__ import annotations

from torch import Tensor, nn

from sfpose.networks.layers import convolution
from sfpose.networks.resnet50 import Bottleneck, ResNet50

__all__ = ["SENet50"]


class _Attention(nn.Module):
    """Scale each channel by a number between 0 and 1 that all channel means decide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 16
        self.conv4 = convolution(
            channels, narrow, batch_norm=False, activation=nn.ReLU(inplace=True)
        )
        self.conv5 = convolution(narrow, channels, batch_norm=False, activation=nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv5(self.conv4(x.mean((2, 3), keepdim=True)))


class SENet50(ResNet50):
    """ResNet-50 with squeeze-and-excitation in each block: 2048 values >= 0.

    Parameters
    ----------
    batch_norm : bool, default=True
        False builds what export makes of it: batch normalisation folded away.
    dropout : float, default=0.0
        Share of the values dropped before the average in training; none in its paper.
    input_size : int, default=224
        Side of the images. Because the network ends in a global average, it takes any
        size.

    References
    ----------
    Hu et al., "Squeeze-and-Excitation Networks", Table 1, reduction 16; Cao et al.,
    "VGGFace2: A dataset for recognising faces across pose and age".

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("senet50").eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2048])
    """

    def block(self, inputs: int, inner: int, *, stride: int, batch_norm: bool) -> nn.Module:
        """Make one block, with attention before the sum."""
        block = Bottleneck(inputs, inner, stride=stride, batch_norm=batch_norm)
        block.attention = _Attention(4 * inner)
        return block
