"""MobileFaceNet: inverted bottlenecks and a global depthwise convolution."""

from __future__ import annotations

from sfpose.networks.layers import BottleneckNetwork

__all__ = ["MobileFaceNet"]

# Table 1 of its paper, each expansion times the channels before it: channels between,
# channels after, blocks, stride of the first.
_STAGES = ((128, 64, 5, 2), (256, 128, 1, 2), (256, 128, 6, 1), (512, 128, 1, 2), (256, 128, 2, 1))


class MobileFaceNet(BottleneckNetwork):
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

    stages = _STAGES
    outputs = 128
