"""SqueezeFacePoseNet: the descriptor network of the paper (section 3, Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Fire", "SqueezeFacePoseNet"]


def _convolution(inputs: int, outputs: int, kernel: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Fire(nn.Module):
    """Squeeze with 1x1 filters, expand with 1x1 and 3x3 filters side by side.

    Parameters
    ----------
    inputs, squeeze, expand : int
        Channels of the input, of the squeeze layer and of each of the two expand
        layers; the output has ``2 * expand`` channels.
    batch_norm : bool, default=False
        Put a batch normalisation after each convolution (training aid; export
        folds it into the convolution).
    """

    def __init__(self, inputs: int, squeeze: int, expand: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.squeeze = _convolution(inputs, squeeze, 1, batch_norm)
        self.expand1x1 = _convolution(squeeze, expand, 1, batch_norm)
        self.expand3x3 = _convolution(squeeze, expand, 3, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, 2 * expand, h, w)."""
        x = self.squeeze(x)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1)


class SqueezeFacePoseNet(nn.Module):
    """The plain network of the paper: 1,235,496 parameters, 1000-value descriptor.

    The classifier that training puts on top is not part of it. Because the network
    ends in a global average, any input of at least 31x31 pixels is accepted; the
    paper's size is 113x113.

    Parameters
    ----------
    batch_norm : bool, default=False
        Batch normalisation after each convolution. A training aid: the exporter
        folds it away, so that what ships has the layers of Table 2 and no others.
    dropout : float, default=0.0
        Share of the values dropped before conv10 in training (0.5 in the paper).

    References
    ----------
    Alonso-Fernandez et al., "SqueezeFacePoseNet: Lightweight Face Verification
    Across Different Poses for Mobile Platforms", section 3, Table 2.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> network = build_network("squeezefaceposenet").eval()
    >>> sum(p.numel() for p in network.parameters())
    1235496
    >>> with torch.inference_mode():
    ...     descriptor = network(torch.zeros(2, 3, 113, 113))
    >>> descriptor.shape, bool((descriptor >= 0).all())
    (torch.Size([2, 1000]), True)
    """

    input_size = 113
    descriptor_size = 1000

    def __init__(self, *, batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()

        def fire(inputs: int, squeeze: int, expand: int) -> Fire:
            return Fire(inputs, squeeze, expand, batch_norm=batch_norm)

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(3, stride=2)

        self.conv1 = _convolution(3, 64, 3, batch_norm)
        self.maxpool1 = pool()
        self.fire2 = fire(64, 16, 64)
        self.fire3 = fire(128, 16, 64)
        self.fire4 = fire(128, 32, 128)
        self.maxpool4 = pool()
        self.fire5 = fire(256, 32, 128)
        self.fire6 = fire(256, 48, 192)
        self.fire7 = fire(384, 48, 192)
        self.fire8 = fire(384, 64, 256)
        self.maxpool8 = pool()
        self.fire9 = fire(512, 64, 256)
        self.dropout9 = nn.Dropout(dropout)
        self.conv10 = _convolution(512, 1000, 1, batch_norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 1000), all >= 0, of normalised images (n, 3, h, w)."""
        x = self.maxpool1(self.conv1(images))
        x = self.maxpool4(self.fire4(self.fire3(self.fire2(x))))
        x = self.maxpool8(self.fire8(self.fire7(self.fire6(self.fire5(x)))))
        x = self.conv10(self.dropout9(self.fire9(x)))
        return x.mean((2, 3))
