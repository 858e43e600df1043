"""MobiFace: inverted bottlenecks after fast downsampling."""

from __future__ import annotations

from sfpose.networks.layers import BottleneckNetwork

__all__ = ["MobiFace"]

# Table 1 of its paper: channels between, channels after, blocks, stride of the first. The
# blocks that halve the map do not widen, the residual ones after them double.
_STAGES = (
    *((64, 64, 1, 2), (128, 64, 2, 1)),
    *((128, 128, 1, 2), (256, 128, 3, 1)),
    *((256, 256, 1, 2), (512, 256, 6, 1)),
)


class MobiFace(BottleneckNetwork):
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

    stages = _STAGES
    outputs = 512
