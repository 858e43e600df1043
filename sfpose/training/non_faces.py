"""Pictures of no face, from which the landmark network learns to refuse them.

Half are made of the face crops themselves (upside-down, shuffled, magnified corners,
torn), so that skin and hair alone do not make a face; half are pieces of photos of
things and textures with the statistics of such photos.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["turn_into_non_faces"]


def _upside_down(crop: Tensor) -> Tensor:
    return crop.flip(1)


def _shuffled(crop: Tensor) -> Tensor:
    tiles = int(torch.randint(3, 6, ()))
    step = crop.shape[-1] // tiles
    result = crop.clone()
    for to, origin in enumerate(torch.randperm(tiles * tiles).tolist()):
        a, b = to // tiles * step, to % tiles * step
        c, d = origin // tiles * step, origin % tiles * step
        result[:, a : a + step, b : b + step] = crop[:, c : c + step, d : d + step]
    return result


def _margin(crop: Tensor) -> Tensor:
    """A corner or a strip of the margin, where the background is, magnified."""
    side = crop.shape[-1]
    height, width = (side // int(n) for n in torch.randint(4, 7, (2,)))
    if torch.rand(()) < 0.4:
        height = side // 2
    top, left = (int(torch.randint(0, 2, ())) * (side - part) for part in (height, width))
    patch = crop[None, :, top : top + height, left : left + width]
    return F.interpolate(patch, size=side, mode="bilinear", align_corners=False)[0]


def _torn(crop: Tensor) -> Tensor:
    """Turned by a quarter or a half and cut through the middle, its halves swapped."""
    side = crop.shape[-1]
    turned = torch.rot90(crop, 2 if torch.rand(()) < 0.5 else 1, (1, 2))
    a, b = (int(torch.randint(side // 3, 2 * side // 3, ())) for _ in range(2))
    return turned.roll((a, b), (1, 2))


def _clouds(crop: Tensor) -> Tensor:
    """A few cells of random colour, smoothly enlarged, down to pixel noise."""
    side = crop.shape[-1]
    cells = int(2 ** torch.randint(0, 7, ()))
    texture = torch.rand(1, 1 if torch.rand(()) < 0.5 else 3, cells, cells)
    texture = F.interpolate(texture, size=side, mode="bilinear", align_corners=False)
    return (texture[0] - 0.5) * torch.rand(()) + torch.rand(3, 1, 1)


def _spectrum(crop: Tensor) -> Tensor:
    """Random phases under the spectrum of photos, 1 over frequency to some power."""
    side = crop.shape[-1]
    frequency = torch.fft.fftfreq(side)
    distance = torch.hypot(frequency[:, None], frequency[None, :])
    distance[0, 0] = 1
    power = 0.5 + 1.5 * torch.rand(())
    phases = torch.randn(3, side, side, dtype=torch.complex64) / distance**power
    values = torch.fft.ifft2(phases).real
    if torch.rand(()) < 0.5:
        values = values[:1].expand(3, -1, -1)
    values = values / values.std()
    return 0.1 + 0.8 * torch.rand(3, 1, 1) + 0.25 * torch.rand(()) * values


def _leaves(crop: Tensor) -> Tensor:
    """Overlapping ellipses and boxes of all sizes: edges as photos of things have them."""
    side = crop.shape[-1]
    steps = torch.linspace(0, 1, side)
    y, x = steps[:, None], steps[None, :]
    result = torch.rand(3, 1, 1).expand(3, side, side).clone()
    for _ in range(int(torch.randint(3, 40, ()))):
        (cx, cy, angle), radius = torch.rand(3).tolist(), 0.03 / float(torch.rand(()) + 0.05)
        long = radius * (0.5 + 1.5 * float(torch.rand(())))
        cosine, sine = np.cos(np.pi * angle), np.sin(np.pi * angle)
        u = ((x - cx) * cosine + (y - cy) * sine) / long
        v = ((y - cy) * cosine - (x - cx) * sine) / radius
        inside = torch.hypot(u, v) < 1 if angle < 0.5 else torch.maximum(u.abs(), v.abs()) < 1
        colour = torch.rand(3, 1, 1) if torch.rand(()) < 0.7 else torch.rand(1, 1, 1)
        result = torch.where(inside, colour, result)
    return result


@lru_cache(maxsize=1)
def _pictures() -> tuple[Tensor, ...]:
    """Two photos in which nobody is seen; scikit-learn carries them."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    return tuple(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images)


def _things(crop: Tensor) -> Tensor:
    """A piece of a photo of things, of any size, turned by quarters, in any colours."""
    side = crop.shape[-1]
    pictures = _pictures()
    picture = pictures[int(torch.randint(0, len(pictures), ()))]
    part = int(24 * 2 ** (4 * float(torch.rand(()))))
    part = min(part, *picture.shape[1:])
    top, left = (int(torch.randint(0, n - part + 1, ())) for n in picture.shape[1:])
    patch = picture[None, :, top : top + part, left : left + part]
    mode = "area" if part > side else "bilinear"
    patch = F.interpolate(patch, size=side, mode=mode)[0]
    patch = torch.rot90(patch, int(torch.randint(0, 4, ())), (1, 2))[torch.randperm(3)]
    return 1 - patch if torch.rand(()) < 0.2 else patch


_KINDS = (_upside_down, _shuffled, _margin, _margin, _torn)
_OTHERS = (_clouds, _spectrum, _leaves, _leaves, _things, _things)


def turn_into_non_faces(crops: Tensor) -> Tensor:
    """A picture of no face for each crop (n, 3, side, side), values 0 to 1."""
    result = torch.empty_like(crops)
    for index, crop in enumerate(crops):
        kinds = _KINDS if torch.rand(()) < 0.5 else _OTHERS
        result[index] = kinds[int(torch.randint(0, len(kinds), ()))](crop)
    return result.clamp(0, 1)
