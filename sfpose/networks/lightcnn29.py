"""LightCNN-29: max-feature-map activations, grey 128x128 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpose.networks.layers import check_image_size

__all__ = ["LightCNN29", "MaxFeatureMap"]


class MaxFeatureMap(nn.Module):
    """A layer of twice the channels, then the larger of each pair of halves.

    Parameters
    ----------
    inputs, outputs : int
        Channels before, and after the maximum.
    kernel : int, default=3

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks.lightcnn29 import MaxFeatureMap
    >>> MaxFeatureMap(3, 8)(torch.zeros(2, 3, 6, 6)).shape
    torch.Size([2, 8, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.outputs = outputs
        self.filter = nn.Conv2d(inputs, 2 * outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h, w)."""
        first, second = torch.split(self.filter(x), self.outputs, 1)
        return torch.maximum(first, second)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = MaxFeatureMap(channels, channels)
        self.conv2 = MaxFeatureMap(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def _stage(blocks: int, inputs: int, outputs: int) -> nn.Sequential:
    """Residual blocks, then a 1x1 and a 3x3 layer to the next width."""
    return nn.Sequential(
        *(_Residual(inputs) for _ in range(blocks)),
        MaxFeatureMap(inputs, inputs, 1),
        MaxFeatureMap(inputs, outputs),
    )


class LightCNN29(nn.Module):
    """LightCNN-29 for 128x128 images: 256 signed values, to be compared by cosine.

    The network of its paper sees one grey channel; RGB images are turned grey here, by
    the weights of ITU-R BT.601 on the normalised channels.

    Parameters
    ----------
    batch_norm : bool, default=True
        Without effect: the network has none.
    dropout : float, default=0.0
        Share of the values dropped before the last layer in training.
    input_size : int, default=128
        Side of the images, a multiple of 16, which fixes the fully connected layer.

    References
    ----------
    Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels", Table 3.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("lightcnn29").eval()(torch.zeros(1, 3, 128, 128)).shape
    torch.Size([1, 256])
    """

    grey: Tensor

    def __init__(
        self, *, batch_norm: bool = True, dropout: float = 0.0, input_size: int = 128
    ) -> None:
        super().__init__()
        if input_size < 16 or input_size % 16:
            raise ValueError(f"input_size must be a multiple of 16; got {input_size}")
        self.input_size = input_size
        self.register_buffer(
            "grey", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False
        )
        self.conv1 = MaxFeatureMap(1, 48, 5)
        self.pool = nn.MaxPool2d(2)
        self.stage1 = _stage(1, 48, 96)
        self.stage2 = _stage(2, 96, 192)
        self.stage3 = _stage(3, 192, 128)
        self.stage4 = _stage(4, 128, 128)
        self.dropout = nn.Dropout(dropout)
        # A convolution as large as the map is the fully connected layer of the paper.
        self.fc = nn.Conv2d(128, 512, input_size // 16)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 256) of normalised images (n, 3, size, size)."""
        check_image_size(images, self.input_size)
        x = self.pool(self.conv1((images * self.grey).sum(1, keepdim=True)))
        x = self.pool(self.stage2(self.pool(self.stage1(x))))
        x = self.pool(self.stage4(self.stage3(x)))
        first, second = torch.split(self.fc(self.dropout(x)).flatten(1), 256, 1)
        return torch.maximum(first, second)
