"""SqueezeFacePoseNets under one map: each sees another part of the face, or another grain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.layers import check_image_size
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet, split_signs

__all__ = ["SeveralLooks"]


class SeveralLooks(nn.Module):
    """The whole image, made smaller, and its centre as it is, each in a network of its own.

    All are SqueezeFacePoseNets with ``places`` and no map of their own: one map takes the values
    of all, and the places of all have weights in one sum
    (``SqueezeFacePoseNet``, ``mapped`` and ``places``). What one
    of them errs in, the others do not always, and the centre shows what it shows in finer grain.

    Parameters
    ----------
    batch_norm : bool, optional
        As for SqueezeFacePoseNet.
    dropout : float, default=0.0
        Before each conv10 in training.
    input_size : int, default=100
        Side of the images, a multiple of 10. The first two networks see four fifths of it: the
        image in so many pixels, or so many of its pixels.
    places : int, default=64
        Maps of each network whose places have weights of their own.
    values : int, default=1000
        Filters of each network's conv10. Training leaves a quarter of a thousand that ever fire.
    coarse : bool, default=False
        A third network that sees the whole image in 0.64 of its side. Its maps are smaller, so
        neighbours in those of the others are averaged until all have as many places.

    Raises
    ------
    ValueError
        If ``input_size`` is no multiple of 10 or below 20, or below 30 with a third network.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import build_network
    >>> network = build_network("squeezefaceposenet+centre+places+map").eval()
    >>> with torch.inference_mode():
    ...     network(torch.zeros(2, 3, 100, 100)).shape
    torch.Size([2, 256])
    """

    def __init__(
        self,
        *,
        batch_norm: bool | None = None,
        dropout: float = 0.0,
        input_size: int = 100,
        places: int = 64,
        values: int = 1000,
        coarse: bool = False,
    ) -> None:
        super().__init__()
        least = 30 if coarse else 20
        if input_size < least or input_size % 10:
            raise ValueError(
                f"input_size must be a multiple of 10 from {least} on; got {input_size}"
            )
        self.input_size = input_size
        self._side = input_size * 4 // 5

        def look(side: int) -> SqueezeFacePoseNet:
            network = SqueezeFacePoseNet(
                batch_norm=batch_norm,
                dropout=dropout,
                input_size=side,
                values=values,
                mapped=True,
                places=places,
            )
            network.take_map_off()
            return network

        self.whole, self.centre = look(self._side), look(self._side)
        self.coarse = look(input_size * 16 // 25) if coarse else None
        count = len(self.looks)
        self._places = (self.coarse or self.whole).last_side
        self.map: nn.Linear | None = nn.Linear(count * values, 128, bias=False)
        self.placed: nn.Conv2d | None = nn.Conv2d(count * places, 128, self._places, bias=False)
        nn.init.zeros_(self.placed.weight)

    @property
    def looks(self) -> dict[str, SqueezeFacePoseNet]:
        """The networks by name, in the order of their values."""
        looks = {"whole": self.whole, "centre": self.centre}
        return looks if self.coarse is None else {**looks, "coarse": self.coarse}

    @property
    def value_layers(self) -> list[nn.Sequential]:
        """The layers whose values are averaged, in the order of the values."""
        return [layer for look in self.looks.values() for layer in look.value_layers]

    @property
    def place_layers(self) -> list[nn.Sequential]:
        """The layers whose places have weights of their own, in the order of the maps."""
        return [layer for look in self.looks.values() for layer in look.place_layers]

    @property
    def place_count(self) -> int:
        """Places of each map of ``place_layers``, as they are weighted."""
        return self._places**2

    def take_map_off(self) -> None:
        """Give what goes into the map instead of descriptors, from now on."""
        self.map = self.placed = None

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 256), all >= 0, of images (n, 3, input_size, input_size)."""
        check_image_size(images, self.input_size)
        margin = (self.input_size - self._side) // 2
        middle = slice(margin, margin + self._side)
        seen = {"whole": _smaller(images, 0.8), "centre": images[:, :, middle, middle]}
        if self.coarse is not None:
            seen["coarse"] = _smaller(images, 0.64)
        looks = [(look, look.last_maps(seen[name])) for name, look in self.looks.items()]
        added = torch.cat([self._placed_maps(look, last) for look, last in looks], 1)
        if self.placed is not None:
            added = self.placed(added)
        values = torch.cat([look.averages(last) for look, last in looks], 1)
        if self.map is not None:
            return split_signs(self.map, values, added)
        return torch.cat([values, added.flatten(1)], 1)

    def _placed_maps(self, look: SqueezeFacePoseNet, last: Tensor) -> Tensor:
        """Maps of a look's places, neighbours averaged until there are as many as of each."""
        maps = look.maps_of_places(last)
        # Not what the maps' shape says, which a tracer would not take for a number.
        span = look.last_side - self._places + 1
        return maps if span == 1 else F.avg_pool2d(maps, span, 1)


def _smaller(images: Tensor, scale: float) -> Tensor:
    # A scale and no size: a size would have ONNX ask each batch for its own.
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
