"""MobiFace: inverted bottlenecks after fast downsampling."""

from __future__ import annotations

from torch import Tensor, nn

from sfpose.networks.layers import (
    GlobalDepthwiseHead,
    InvertedBottleneck,
    check_image_size,
    convolution,
    map_side,
)

__all__ = ["MobiFace"]

# Channels of the block that halves the map, then number of residual blocks of that width.
_STAGES = ((64, 2), (128, 3), (256, 6))


class MobiFace(nn.Module):
    """MobiFace for 112x112 images: 512 signed values, to be compared by cosine.

    Parameters
    ----------
    batch_norm : bool, default=True
        False builds what export makes of it: batch normalisation folded away.
    dropout : float, default=0.0
        Share of the values dropped before the last layer in training; none in its paper.
    input_size : int, default=112
        Side of the images, which fixes the kernel of the layer before the last.

    Notes
    -----
    2,431,040 parameters. The SqueezeFacePoseNet paper gives 11.3 MB and no count, the
    SeesawFaceNets paper 2.4 million. Between the 7x7x512 map and the 512 values a full
    layer alone would have 12.8 million; a depthwise convolution over the map and a linear
    layer, as in MobileFaceNet, agree with that count.

    References
    ----------
    Duong et al., "MobiFace: A Lightweight Deep Learning Face Recognition on Mobile
    Devices", Table 1.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> with torch.inference_mode():
    ...     build_network("mobiface").eval()(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 512])
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
        for channels, count in _STAGES:
            blocks.append(
                InvertedBottleneck(width, channels, channels, stride=2, batch_norm=batch_norm)
            )
            blocks.extend(
                InvertedBottleneck(
                    channels, 2 * channels, channels, residual=True, batch_norm=batch_norm
                )
                for _ in range(count)
            )
            width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv6 = convolution(width, 512, batch_norm=batch_norm, activation=nn.PReLU(512))
        side = map_side(input_size, 4)
        self.head = GlobalDepthwiseHead(512, 512, side, batch_norm=batch_norm, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 512) of normalised images (n, 3, size, size)."""
        check_image_size(images, self.input_size)
        x = self.conv6(self.blocks(self.depthwise2(self.conv1(images))))
        return self.head(x)
