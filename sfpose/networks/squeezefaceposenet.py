"""SqueezeFacePoseNet: the descriptor network of the paper and its variants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.layers import (
    check_image_size,
    convolution,
    roots_of_shares,
    shares_of_sum,
)

__all__ = ["Fire", "SqueezeFacePoseNet", "last_side", "split_signs"]


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
    depthwise : bool, default=False
        Each 3x3 filter sees one channel of the squeeze layer, ``expand / squeeze``
        filters a channel.
    residual : bool, default=False
        Add the input to the output where both have the same width (simple bypass).
    preactivation : bool, default=False
        ReLU before each convolution instead of after it.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import Fire
    >>> Fire(64, 16, 64)(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 128, 8, 8])
    """

    def __init__(
        self,
        inputs: int,
        squeeze: int,
        expand: int,
        *,
        batch_norm: bool = False,
        depthwise: bool = False,
        residual: bool = False,
        preactivation: bool = False,
    ) -> None:
        super().__init__()

        def filters(channels: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
            activation = None if preactivation else nn.ReLU(inplace=True)
            return convolution(
                channels,
                outputs,
                kernel,
                groups=groups,
                batch_norm=batch_norm,
                activation=activation,
            )

        self.residual = residual and inputs == 2 * expand
        self.preactivation = preactivation
        self.squeeze = filters(inputs, squeeze, 1)
        self.expand1x1 = filters(squeeze, expand, 1)
        self.expand3x3 = filters(squeeze, expand, 3, squeeze if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, 2 * expand, h, w)."""
        narrow = self.squeeze(F.relu(x) if self.preactivation else x)
        if self.preactivation:
            narrow = F.relu(narrow)
        wide = torch.cat([self.expand1x1(narrow), self.expand3x3(narrow)], 1)
        return x + wide if self.residual else wide


class SqueezeFacePoseNet(nn.Module):
    """The network of the paper: 1000 values >= 0 of a normalised 113x113 image.

    The classifier that training puts on top is not part of it. Unless ``gdc`` is true,
    the network ends in a global average and any input of at least 31x31 pixels is
    accepted.

    Parameters
    ----------
    batch_norm : bool, optional
        Batch normalisation after each convolution. A training aid: the exporter
        folds it away, so that what ships has the layers of Table 2 and no others. None puts
        it behind the filters of ``places`` alone, whose input has no scale of its own.
    dropout : float, default=0.0
        Share of the values dropped before conv10 in training (0.5 in the paper).
    input_size : int, default=113
        Side of the images; it fixes the global depthwise convolution.
    gdc : bool, default=False
        A global depthwise convolution with bias and ReLU instead of the global average:
        each of the 1000 values has its own weights over the 13x13 map. It starts as the
        average. The paper's text does not name the ReLU; every other convolution has
        one, and the chi-square distance needs values >= 0.
    dwc : bool, default=False
        Depthwise 3x3 filters in the fire modules, four for each channel of the squeeze
        layer.
    residual : bool, default=False
        Add the input of fire3, fire5, fire7 and fire9 to the output (section 6): the
        simple bypass of the SqueezeNet paper, in the modules that keep the width.
    preactivation : bool, default=False
        ReLU before each convolution instead of after it (section 6), so that the sums of
        ``residual`` are not rectified on the way; conv1 sees the image as it is, conv10
        is followed by a ReLU too. Without ``residual`` the network computes the same as
        the plain one, because ReLU commutes with max-pooling.
    deeper : int, default=0
        This many residual fire modules of 128 squeeze and 256 expand filters each after fire9,
        where the map is smallest: four bring 2.3 times the parameters for two fifths more of
        the arithmetic, seven 3.2 times for two thirds.
        They start by adding nothing, so that weights of the same network without them
        give the same values with them, and can be gone on from.
    values : int, default=1000
        Filters of conv10.
    mapped : bool, default=False
        256 values instead of those: square roots of the shares that they have in their sum, a
        linear map to 128 values with signs, brought to length 1, and each value ``e`` as
        two of ReLU(1 + 4 e) and ReLU(1 - 4 e), none negative. Their chi-square distance orders
        pairs nearly as the cosine of the 128 does, which is what distillation teaches
        best. An image in which nothing fires keeps zeros.
    places : int, default=0
        Beside the values, which a global average takes out of their places, so many maps
        of 1x1 filters, every place of which has weights of its own for the 128 values: their
        sum is added to the linear map's before it is brought to length 1. It starts by adding
        nothing. Only with ``mapped``, and for images of ``input_size``.
    tight : bool, default=False
        See five sixths of the images' side alone, the lower ones and those in the middle: photos
        of faces often end there, so that nothing else of them can be taught. Only with ``places``.

    Raises
    ------
    ValueError
        If ``input_size`` is too small for ``gdc`` or ``places``, ``places`` is given without
        ``mapped``, or ``tight`` without ``places``.

    References
    ----------
    Alonso-Fernandez et al., "SqueezeFacePoseNet: Lightweight Face Verification
    Across Different Poses for Mobile Platforms", section 3, Table 2. Bypass: Iandola et
    al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
    size", section 6. Pre-activation: He et al., "Identity Mappings in Deep Residual
    Networks".

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

    def __init__(
        self,
        *,
        batch_norm: bool | None = None,
        dropout: float = 0.0,
        input_size: int = 113,
        gdc: bool = False,
        dwc: bool = False,
        residual: bool = False,
        preactivation: bool = False,
        deeper: int = 0,
        values: int = 1000,
        mapped: bool = False,
        places: int = 0,
        tight: bool = False,
    ) -> None:
        super().__init__()
        everywhere = bool(batch_norm)

        def fire(inputs: int, squeeze: int, expand: int) -> Fire:
            return Fire(
                inputs,
                squeeze,
                expand,
                batch_norm=everywhere,
                depthwise=dwc,
                residual=residual,
                preactivation=preactivation,
            )

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(3, stride=2)

        if tight and not places:
            raise ValueError("a tight part is for images of one size; give places too")
        self.input_size = input_size
        # Left out on either side, and twice as much above.
        self._margin = input_size // 12 if tight else 0
        self.preactivation = preactivation
        self.conv1 = convolution(
            3,
            64,
            3,
            batch_norm=everywhere,
            activation=None if preactivation else nn.ReLU(inplace=True),
        )
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
        added = [
            Fire(512, 128, 256, batch_norm=everywhere, residual=True, preactivation=True)
            for _ in range(deeper)
        ]
        self.deeper = nn.Sequential(*added, nn.ReLU(inplace=True)) if deeper else None
        self.dropout9 = nn.Dropout(dropout)
        self.conv10 = convolution(
            512, values, batch_norm=everywhere, activation=nn.ReLU(inplace=True)
        )
        self.gdc: nn.Sequential | None = None
        if gdc:
            side = self.last_side
            self.gdc = convolution(
                values,
                values,
                side,
                padding=0,
                groups=values,
                batch_norm=everywhere,
                activation=nn.ReLU(inplace=True),
            )
        self.map = nn.Linear(values, 128, bias=False) if mapped else None
        self.places: nn.Sequential | None = None
        self.placed: nn.Conv2d | None = None
        if places:
            if not mapped:
                raise ValueError("places add to the values of a map; give mapped=True too")
            self.places = convolution(
                512, places, batch_norm=batch_norm is not False, activation=nn.ReLU(inplace=True)
            )
            self.placed = nn.Conv2d(places, 128, self.last_side, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.gdc is not None:
            nn.init.constant_(self.gdc.get_parameter("0.weight"), 1 / side**2)
        for module in added:
            nn.init.zeros_(module.expand1x1[-1].get_parameter("weight"))
            nn.init.zeros_(module.expand3x3[-1].get_parameter("weight"))
        if self.placed is not None:
            nn.init.zeros_(self.placed.weight)

    @property
    def value_layers(self) -> list[nn.Sequential]:
        """The layer that the descriptor's values come from, in a list."""
        return [self.conv10 if self.gdc is None else self.gdc]

    @property
    def place_layers(self) -> list[nn.Sequential]:
        """The layer whose places have weights of their own, in a list; empty if there is none."""
        return [] if self.places is None else [self.places]

    @property
    def last_side(self) -> int:
        """Side of the last map."""
        return last_side(self.input_size - 2 * self._margin)

    @property
    def place_count(self) -> int:
        """Places of the last map."""
        return self.last_side**2

    def take_map_off(self) -> None:
        """Give what goes into the map instead of descriptors, from now on."""
        self.map = self.placed = None

    def last_maps(self, images: Tensor) -> Tensor:
        """What fire9, and the modules after it, make of images: maps (n, 512, h, w)."""
        x = self.maxpool1(self.conv1(images))
        x = self.maxpool4(self.fire4(self.fire3(self.fire2(x))))
        x = self.maxpool8(self.fire8(self.fire7(self.fire6(self.fire5(x)))))
        x = self.fire9(x)
        if self.preactivation:
            x = F.relu(x)
        return x if self.deeper is None else self.deeper(x)

    def maps_of_places(self, last: Tensor) -> Tensor:
        """The maps (n, places, h, w) whose places have weights of their own."""
        assert self.places is not None
        maps: Tensor = self.places(last)
        return maps

    def averages(self, last: Tensor) -> Tensor:
        """The values (n, values) of maps that ``last_maps`` gives."""
        x = self.conv10(self.dropout9(last))
        return x.mean((2, 3)) if self.gdc is None else self.gdc(x).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 1000), mapped ones (n, 256), all >= 0, of images (n, 3, h, w)."""
        if self.gdc is not None or self.places is not None:
            check_image_size(images, self.input_size)
        if self._margin:
            # To a side that is known: a tracer would take the images' own for no number.
            middle = slice(self._margin, self.input_size - self._margin)
            images = images[:, :, 2 * self._margin :, middle]
        last = self.last_maps(images)
        added = None
        if self.places is not None:
            added = self.maps_of_places(last)
            if self.placed is not None:
                added = self.placed(added)
        values = self.averages(last)
        if self.map is not None:
            return split_signs(self.map, values, added)
        # What the map was taken off, to be taught: all that it needs.
        return values if added is None else torch.cat([values, added.flatten(1)], 1)


def last_side(input_size: int) -> int:
    """Side of the last map of SqueezeFacePoseNet for images of that side."""
    side = input_size
    for _ in range(3):
        side = (side - 3) // 2 + 1
    if side < 1:
        raise ValueError(f"input_size must be at least 15; got {input_size}")
    return side


def split_signs(linear: nn.Linear, values: Tensor, added: Tensor | None) -> Tensor:
    """Descriptors (n, 256) of a linear map of the values (n, d), and what is added to it."""
    shares = shares_of_sum(values)
    mapped = linear(roots_of_shares(shares))
    if added is not None:
        mapped = mapped + added.flatten(1)
    mapped = 4 * mapped / torch.sqrt((mapped * mapped).sum(1, keepdim=True) + 1e-12)
    return F.relu(1 + torch.cat([mapped, -mapped], 1)) * shares.sum(1, keepdim=True)
