"""FaceLandmarkNet: five landmarks and a face score from a loose face crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.networks.layers import convolution

__all__ = ["FaceLandmarkNet"]


class FaceLandmarkNet(nn.Module):
    """A small network that finds five landmarks in a face crop.

    It ships beside the descriptor network so that any detector's box will do: the
    crop is turned and scaled by these landmarks before it is embedded. It is not
    part of the paper. A small encoder and decoder give one map a landmark; the
    landmark is the mean position under the map's softmax.

    The output has 11 values an image: x and y of the five landmarks, in the order
    right eye, left eye, nose tip, right and left mouth corner (the eye on the
    image's left first), as shares of the crop's side with (0, 0) at the upper left
    and (1, 1) at the lower right corner; then the logit of "this is a face".

    Parameters
    ----------
    batch_norm : bool, default=True
        False builds the network whose batch normalisation was folded away, as it ships.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks import FaceLandmarkNet
    >>> network = FaceLandmarkNet().eval()
    >>> with torch.inference_mode():
    ...     network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 11])
    """

    input_size = 64
    positions: Tensor

    def __init__(self, *, batch_norm: bool = True) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
            return convolution(
                inputs,
                outputs,
                kernel,
                stride=stride,
                batch_norm=batch_norm,
                activation=nn.ReLU(inplace=True),
            )

        self.down4 = nn.Sequential(block(3, 16, 2), block(16, 24, 2))
        self.down8 = nn.Sequential(block(24, 48, 2), block(48, 48))
        self.down16 = nn.Sequential(block(48, 64, 2), block(64, 48))
        self.mix8 = block(48, 24, kernel=1)
        self.mix4 = block(24, 24)
        self.maps = nn.Conv2d(24, 5, 1)
        # Of where things are, not of their mean: parts of a face in disorder are no face.
        self.score = nn.Sequential(
            nn.Flatten(), nn.Linear(48 * 16, 32), nn.ReLU(inplace=True), nn.Linear(32, 1)
        )
        # A margin around the crop, so that a landmark on its edge can be expressed.
        cells = (torch.arange(16) + 0.5) / 16 * 1.2 - 0.1
        grid = torch.stack([cells.repeat(16), cells.repeat_interleave(16)], 1)
        self.register_buffer("positions", grid, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (n, 11) of normalised images (n, 3, 64, 64)."""
        fine = self.down4(images)
        middle = self.down8(fine)
        coarse = self.down16(middle)
        score = self.score(coarse)
        middle = self.mix8(middle + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        fine = self.mix4(fine + F.interpolate(middle, scale_factor=2.0, mode="nearest"))
        weights = torch.softmax(self.maps(fine).flatten(2), 2)
        return torch.cat([(weights @ self.positions).flatten(1), score], 1)
