"""MobileFaceNet: inverted bottlenecks and a global depthwise convolution."""

from __future__ import annotations

from torch import Tensor, nn

from sfpose.networks.layers import (
    GlobalDepthwiseHead,
    InvertedBottleneck,
    check_image_size,
    convolution,
    map_side,
)

__all__ = ["MobileFaceNet"]

# Table 1 of its paper: expansion, channels, blocks, stride of the first.
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(nn.Module):
    """MobileFaceNet for 112x112 images: 128 signed values, to be compared by cosine.

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
    Its paper counts 0.99 million parameters with a descriptor of 128 values. Table 1 of
    the SqueezeFacePoseNet paper lists 256 values beside the same count; 256 values would
    take 65,792 parameters more, so the network's own paper is followed here.

    References
    ----------
    Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification
    on Mobile Devices", Table 1.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("mobilefacenet").eval()(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 128])
    """

    def __init__(
        self, *, batch_norm: bool = True, dropout: float = 0.0, input_size: int = 112
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.conv1 = convolution(3, 64, 3, stride=2, batch_norm=batch_norm, activation=nn.PReLU(64))
        self.depthwise2 = convolution(
            64, 64, 3, groups=64, batch_norm=batch_norm, activation=nn.PReLU(64)
        )
        blocks: list[nn.Module] = []
        width = 64
        for expansion, channels, count, stride in _STAGES:
            for number in range(count):
                first = stride if number == 0 else 1
                blocks.append(
                    InvertedBottleneck(
                        width,
                        expansion * width,
                        channels,
                        stride=first,
                        residual=first == 1 and width == channels,
                        batch_norm=batch_norm,
                    )
                )
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv6 = convolution(width, 512, batch_norm=batch_norm, activation=nn.PReLU(512))
        side = map_side(input_size, 4)
        self.head = GlobalDepthwiseHead(512, 128, side, batch_norm=batch_norm, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 128) of normalised images (n, 3, size, size)."""
        check_image_size(images, self.input_size)
        x = self.conv6(self.blocks(self.depthwise2(self.conv1(images))))
        return self.head(x)
