"""Batched image augmentation in torch: geometry in one sampling, then light and noise.

Everything works on whole batches on the device of the images, so that the loader
never becomes the bottleneck of a CPU run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpose.geometry import MIRROR

__all__ = [
    "GeometryJitter",
    "compose",
    "inside_photos",
    "jitter_matrices",
    "mirror_matrices",
    "photometric_jitter",
    "points_in_crop",
    "round_at_random",
    "sample_images",
]


class GeometryJitter(NamedTuple):
    """How far a crop may move: the standard deviations of a random similarity.

    ``turn`` is in degrees, ``shift`` a share of the crop's side, ``log_scale`` and
    ``log_stretch`` natural logarithms of the zoom and of the ratio of the axes.
    """

    turn: float = 0.0
    shift: float = 0.0
    log_scale: float = 0.0
    log_stretch: float = 0.0


def jitter_matrices(count: int, jitter: GeometryJitter, *, device: torch.device) -> Tensor:
    """Random 3x3 matrices from unit-square crop coordinates to the same, moved.

    Returns
    -------
    Tensor of shape (count, 3, 3)
        To be applied to points (x, y, 1) of the unit square, about its centre.
    """
    angle = torch.randn(count, device=device) * math.radians(jitter.turn)
    scale = torch.exp(torch.randn(count, device=device) * jitter.log_scale)
    stretch = torch.exp(torch.randn(count, device=device) * jitter.log_stretch / 2)
    shift = torch.randn(count, 2, device=device) * jitter.shift
    matrices = torch.zeros(count, 3, 3, device=device)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrices[:, 0, 0], matrices[:, 0, 1] = cosine * stretch, -sine / stretch
    matrices[:, 1, 0], matrices[:, 1, 1] = sine * stretch, cosine / stretch
    matrices[:, 2, 2] = 1
    centre = torch.full((count, 2, 1), 0.5, device=device)
    matrices[:, :2, 2:] = centre + shift[..., None] - matrices[:, :2, :2] @ centre
    return matrices


def mirror_matrices(flags: Tensor) -> Tensor:
    """3x3 matrices that mirror the unit square left to right where ``flags`` is set."""
    mirror = torch.tensor(MIRROR, dtype=torch.float32, device=flags.device)
    return torch.where(flags[:, None, None], mirror, torch.eye(3, device=flags.device))


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Matrices that apply ``inner`` first and ``outer`` to its result."""
    return outer @ inner


def points_in_crop(matrices: Tensor, points: Tensor) -> Tensor:
    """Where points (n, k, 2) of photos lie in the crops that ``matrices`` (n, 3, 3) cut out."""
    inverse = torch.linalg.inv(matrices)
    return points @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]


def sample_images(
    photos: Tensor, matrices: Tensor, size: int, *, padding: str = "zeros", oversample: int = 1
) -> Tensor:
    """Draw a square crop of each photo through an affine map, in one interpolation.

    Parameters
    ----------
    photos : uint8 or float Tensor of shape (n, h, w, 3)
        Values 0 to 255.
    matrices : float Tensor of shape (n, 3, 3)
        From the crop's unit square to pixel coordinates of the photo (the centre of
        the first pixel is at 0.5, 0.5).
    size : int
        Side of the crop in pixels.
    padding : {"zeros", "border", "reflection"}
        What lies outside of the photo.
    oversample : int, default=1
        Sample a grid this many times finer and average, against aliasing where the
        crop is smaller than what it shows.

    Returns
    -------
    float Tensor of shape (n, 3, size, size), values 0 to 1
    """
    fine = size * oversample
    grid = 2 * _places_in_photos(matrices, photos.shape[1:3], fine) - 1
    pixels = photos.permute(0, 3, 1, 2).float() / 255
    crops = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return F.avg_pool2d(crops, oversample) if oversample > 1 else crops


def inside_photos(
    matrices: Tensor, shape: Sequence[int], size: int, *, edge: float = 0.06
) -> Tensor:
    """How far inside of its photo each pixel of a crop lies.

    Parameters
    ----------
    matrices : float Tensor of shape (n, 3, 3)
        As for ``sample_images``.
    shape : sequence of two int
        Height and width of the photos in pixels.
    size : int
        Side of the crop in pixels.
    edge : float, default=0.06
        Share of a photo's side over which this rises.

    Returns
    -------
    float Tensor of shape (n, 1, size, size)
        0 where the photo ends and beyond, 1 from ``edge`` inwards.
    """
    places = _places_in_photos(matrices, shape, size)
    to_end = torch.minimum(places, 1 - places).amin(3)
    return (to_end / edge).clamp(0, 1)[:, None]


def _places_in_photos(matrices: Tensor, shape: Sequence[int], size: int) -> Tensor:
    """Where pixels of crops lie in photos, in shares of their sides: (n, size, size, 2)."""
    device = matrices.device
    steps = (torch.arange(size, device=device) + 0.5) / size
    points = torch.stack(
        [
            steps.repeat(size, 1),
            steps[:, None].repeat(1, size),
            torch.ones(size, size, device=device),
        ]
    ).reshape(3, -1)
    height, width = shape
    sides = torch.tensor([width, height], device=device)
    where = (matrices @ points)[:, :2] / sides[:, None]
    return where.transpose(1, 2).reshape(len(matrices), size, size, 2)


def round_at_random(number: float) -> int:
    """A whole number next to this one, which it is on average."""
    return int(number + torch.rand(()).item())


def _some(count: int, share: float, device: torch.device) -> Tensor:
    """Random rows of ``count``: places, since a mask would make a GPU wait for their number."""
    return torch.randperm(count, device=device)[: round_at_random(min(share, 1.0) * count)]


def photometric_jitter(crops: Tensor, *, strength: float = 1.0) -> Tensor:
    """Change light, colour, sharpness and noise as cameras and compression do.

    Parameters
    ----------
    crops : float Tensor of shape (n, 3, h, w), values 0 to 1
    strength : float, default=1.0
        Scales the spread of every change; 0 returns the crops as they are.

    Returns
    -------
    float Tensor of the same shape, values 0 to 1
    """
    if strength <= 0:
        return crops
    count, device = len(crops), crops.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, device=device) * strength

    gain = torch.exp(0.18 * normal(1, 1, 1)) * torch.exp(0.05 * normal(3, 1, 1))
    contrast = torch.exp(0.18 * normal(1, 1, 1))
    mean = crops.mean((1, 2, 3), keepdim=True)
    crops = ((crops - mean) * contrast + mean + 0.04 * normal(1, 1, 1)) * gain
    gamma = torch.exp(0.2 * normal(1, 1, 1))
    crops = crops.clamp(1e-4, 1) ** gamma

    grey = _some(count, 0.12 * strength, device)
    weights = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    crops[grey] = (crops[grey] * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    soft = _some(count, 0.3 * strength, device)
    crops[soft] = F.avg_pool2d(crops[soft], 3, 1, 1, count_include_pad=False)
    coarse = _some(count, 0.12 * strength, device)
    if len(coarse):
        side = crops.shape[-1]
        small = F.interpolate(
            crops[coarse], size=max(8, int(side * (0.35 + 0.4 * torch.rand(1).item()))), mode="area"
        )
        crops[coarse] = F.interpolate(small, size=side, mode="bilinear", align_corners=False)
    noisy = _some(count, 0.3 * strength, device)
    level = 0.05 * torch.rand(len(noisy), 1, 1, 1, device=device)
    crops[noisy] = crops[noisy] + level * torch.randn_like(crops[noisy])
    return crops.clamp(0, 1)
