"""Two SqueezeFacePoseNets under one map: one sees the whole face, one its centre."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.layers import check_image_size
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet, last_side, split_signs

__all__ = ["TwoLooks", "for_both_looks"]


class TwoLooks(nn.Module):
    """The whole image, made smaller, and its centre as it is, each in a network of its own.

    Both are SqueezeFacePoseNets with ``places`` and no map of their own: one map takes the values
    of both, and the places of both have weights in one sum
    (:class:`~sfpose.networks.SqueezeFacePoseNet`, ``mapped`` and ``places``). What one
    of them errs in, the other does not always, and the centre shows what it shows in finer grain.

    Parameters
    ----------
    batch_norm : bool, optional
        As for SqueezeFacePoseNet.
    dropout : float, default=0.0
        Before each conv10 in training.
    input_size : int, default=100
        Side of the images, a multiple of 10. Either network sees four fifths of it: the
        image in so many pixels, or so many of its pixels.
    places : int, default=64
        Maps of each network whose places have weights of their own.

    Raises
    ------
    ValueError
        If ``input_size`` is no multiple of 10 or below 20.

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
    ) -> None:
        super().__init__()
        if input_size < 20 or input_size % 10:
            raise ValueError(f"input_size must be a multiple of 10 from 20 on; got {input_size}")
        self.input_size = input_size
        self._side = input_size * 4 // 5

        def look() -> SqueezeFacePoseNet:
            network = SqueezeFacePoseNet(
                batch_norm=batch_norm,
                dropout=dropout,
                input_size=self._side,
                mapped=True,
                places=places,
            )
            network.take_map_off()
            return network

        self.whole, self.centre = look(), look()
        self.map: nn.Linear | None = nn.Linear(2000, 128, bias=False)
        self.placed: nn.Conv2d | None = nn.Conv2d(
            2 * places, 128, last_side(self._side), bias=False
        )
        nn.init.zeros_(self.placed.weight)

    @property
    def value_layers(self) -> list[nn.Sequential]:
        """The layers whose values are averaged, in the order of the values."""
        return self.whole.value_layers + self.centre.value_layers

    @property
    def place_layers(self) -> list[nn.Sequential]:
        """The layers whose places have weights of their own, in the order of the maps."""
        return self.whole.place_layers + self.centre.place_layers

    @property
    def place_count(self) -> int:
        """Places of each map of :attr:`place_layers`."""
        return self.whole.place_count

    def take_map_off(self) -> None:
        """Give what goes into the map instead of descriptors, from now on."""
        self.map = self.placed = None

    def forward(self, images: Tensor) -> Tensor:
        """Descriptors (n, 256), all >= 0, of images (n, 3, input_size, input_size)."""
        check_image_size(images, self.input_size)
        margin = (self.input_size - self._side) // 2
        # A scale and no size: a size would have ONNX ask each batch for its own.
        scale = self._side / self.input_size
        small = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        centre = images[:, :, margin : margin + self._side, margin : margin + self._side]
        looks = (
            (self.whole, self.whole.last_maps(small)),
            (self.centre, self.centre.last_maps(centre)),
        )
        added = torch.cat([each.maps_of_places(seen) for each, seen in looks], 1)
        if self.placed is not None:
            added = self.placed(added)
        values = torch.cat([each.averages(seen) for each, seen in looks], 1)
        if self.map is not None:
            return split_signs(self.map, values, added)
        return torch.cat([values, added.flatten(1)], 1)


def for_both_looks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of :class:`TwoLooks` in which either network is the one whose state is given.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of a SqueezeFacePoseNet, or of the objective that it is taught by.

    Returns
    -------
    dict of str to Tensor
        Under the names that the parts have in both.
    """
    both: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("map.weight", "linear.weight"):
            both[name] = torch.cat([value, value], 1)
        elif name == "placed.weight":
            # Roots of shares in the sum of both are shorter by as much.
            both[name] = torch.cat([value, value], 1) / 2**0.5
        elif name in ("mean", "place_divisors"):
            both[name] = torch.cat([value, value])
        else:
            both[f"whole.{name}"] = both[f"centre.{name}"] = value
    return both
