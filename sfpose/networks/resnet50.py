"""ResNet-50 as VGGFace2 trained it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.layers import convolution

__all__ = ["Bottleneck", "ResNet50"]

# Inner channels, blocks, stride of the first; the output has four times the channels.
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Bottleneck(nn.Module):
    """Narrow by 1x1, filter by 3x3, widen by 1x1, add the input.

    Parameters
    ----------
    inputs, inner : int
        Channels of the input and of the 3x3 filters; the output has ``4 * inner``.
    stride : int, default=1
        Of the first layer and of the shortcut.
    batch_norm : bool, default=True
    """

    def __init__(
        self, inputs: int, inner: int, *, stride: int = 1, batch_norm: bool = True
    ) -> None:
        super().__init__()
        outputs = 4 * inner
        self.conv1 = convolution(
            inputs, inner, stride=stride, batch_norm=batch_norm, activation=nn.ReLU(inplace=True)
        )
        self.conv2 = convolution(
            inner, inner, 3, batch_norm=batch_norm, activation=nn.ReLU(inplace=True)
        )
        self.conv3 = convolution(inner, outputs, batch_norm=batch_norm)
        self.attention: nn.Module = nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = convolution(inputs, outputs, stride=stride, batch_norm=batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, 4 * inner, h / stride, w / stride)."""
        y = self.attention(self.conv3(self.conv2(self.conv1(x))))
        return F.relu(y + self.downsample(x))


class ResNet50(nn.Module):
    """ResNet-50 for 224x224 images: 2048 values >= 0, the layer before the classifier.

    The layout is that of the published VGGFace2 weights and of the original paper: a
    stage halves the map in its first 1x1 layer, and the first pooling has no padding but
    rounds up. torchvision's own ResNet-50 halves in the 3x3 layer and pads. Its states
    fit layer by layer, but a network filled with one answers differently until it is
    trained further.

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
    He et al., "Deep Residual Learning for Image Recognition", Table 1; Cao et al.,
    "VGGFace2: A dataset for recognising faces across pose and age".

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("resnet50").eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2048])
    """

    def __init__(
        self, *, batch_norm: bool = True, dropout: float = 0.0, input_size: int = 224
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.conv1 = convolution(
            3, 64, 7, stride=2, batch_norm=batch_norm, activation=nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        width = 64
        for number, (inner, count, stride) in enumerate(_STAGES, 1):
            blocks: list[nn.Module] = []
            for place in range(count):
                first = stride if place == 0 else 1
                blocks.append(self.block(width, inner, stride=first, batch_norm=batch_norm))
                width = 4 * inner
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def block(self, inputs: int, inner: int, *, stride: int, batch_norm: bool) -> nn.Module:
        """Make one block."""
        return Bottleneck(inputs, inner, stride=stride, batch_norm=batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 2048), all >= 0, of normalised images (n, 3, h, w)."""
        x = self.maxpool(self.conv1(images))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.dropout(x).mean((2, 3))
