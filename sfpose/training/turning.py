"""Turning faces of photos to larger yaws, so that a student sees profiles of known people.

A generic face surface, continued by an ellipsoid for the rest of the head, is fitted to
five landmarks under a scaled orthographic camera; its texture is then drawn from another
side. What the photo does not show is taken from the mirrored place of the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sfpose.geometry import similarity_to_canonical, widen_matrix
from sfpose.pose import FACE_POINTS
from sfpose.training.augmentation import sample_images

__all__ = ["FaceTurner", "TurnedFaces"]

# Centimetres in the frame of the surface: an ellipsoid that meets it at temples and jaw.
_HEAD_CENTRE = np.array([0.0, 2.0, -3.5])
_HEAD_RADII = np.array([7.9, 11.0, 9.5])

# The yaw, in degrees, that landmarks found on photos of profiles tell: of CFP's, 52 in the
# median. Crops of heads that are turned further lie as if turned so far, as profiles do.
_FOUND_YAW = 60

# The surface has y up and z towards the viewer, the points of sfpose.pose the opposite.
_UP_AND_NEAR = np.array([1.0, -1.0, -1.0])

Floats = NDArray[np.float64]


def _rotation(yaw: float, pitch: float) -> Floats:
    """Turn about the vertical axis, then nod; degrees."""
    cosine, sine = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    cosine, sine = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ turn


class TurnedFaces(NamedTuple):
    """What a ``FaceTurner`` draws.

    Attributes
    ----------
    crops : float Tensor of shape (n, size, size, 3)
        Values 0 to 255. Faces look to the image's right; around the head are a
        neighbour's colours.
    landmarks : float Tensor of shape (n, 5, 2)
        Where the five points of the generic face lie in the crop, seen or hidden, as
        shares of its side. Those of a yaw up to 60 degrees align it exactly; crops of
        profiles lie where those of photos of profiles do.
    """

    crops: Tensor
    landmarks: Tensor

    def seen_through(self, matrices: Tensor, size: int) -> Tensor:
        """Crops (n, 3, size, size), values 0 to 1, by maps (n, 3, 3) between unit squares."""
        to_pixels = torch.diag(
            torch.tensor([*self.crops.shape[2:0:-1], 1.0], device=self.crops.device)
        )
        return sample_images(self.crops, to_pixels @ matrices, size, padding="border", oversample=2)


class FaceTurner:
    """Draws aligned crops of faces as they would look turned to the side.

    Parameters
    ----------
    surface : path
        ``.safetensors`` with ``vertices`` (468, 3) in centimetres, x to the image's
        right, y up, z towards the viewer, and ``triangles`` (898, 3): the canonical
        face of MediaPipe.
    size : int
        Side of the drawn crops in pixels: twice that of what the student sees, since
        ``seen_through`` samples them once more, and turned faces could be told by their blur.
    yaws, pitches : sequences of float
        Degrees to which faces are turned.
    margin : float, default=1.0
        Side of the drawn crops over the canonical crop's.
    device : torch.device or str, default="cpu"
        Where the photos will be.
    """

    def __init__(
        self,
        surface: str | Path,
        size: int,
        *,
        yaws: Sequence[float] = (30, 40, 50, 60, 70, 80, 88),
        pitches: Sequence[float] = (-8, 0, 8),
        margin: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(str(surface))
        vertices = tensors["vertices"].astype(np.float64)
        triangles = tensors["triangles"]
        self.size = size
        maps = [
            _position_map(
                vertices,
                triangles,
                _rotation(yaw, pitch),
                _crop_to_plane(yaw, pitch) @ widen_matrix(margin),
                size,
            )
            for yaw in yaws
            for pitch in pitches
        ]
        positions, normals, covered, points = (np.stack(part) for part in zip(*maps, strict=True))
        self._device = torch.device(device)
        self._positions = self._tensor(positions)
        self._normals = self._tensor(normals)
        self._covered = torch.from_numpy(covered).to(self._device)
        self._points = self._tensor(points)

    def _tensor(self, values: ArrayLike) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self._device)

    def turn(self, photos: Tensor, cameras: Tensor, *, padding: str = "reflection") -> TurnedFaces:
        """Crops of the faces of photos, each turned by a random yaw and pitch.

        Parameters
        ----------
        photos : uint8 Tensor of shape (n, h, w, 3)
        cameras : float Tensor of shape (n, 2, 4)
            As ``sfpose.pose.head_cameras`` gives them.
        padding : {"zeros", "reflection"}, default="reflection"
            What of a head lies beyond its photo: black, as in the crops of other photos that
            end there, or the photo mirrored at its border.

        Returns
        -------
        TurnedFaces
        """
        count, height, width, _ = photos.shape
        chosen = torch.randint(len(self._positions), (count,), device=self._device)
        positions, normals = self._positions[chosen], self._normals[chosen]
        covered = self._covered[chosen]
        cameras = cameras * self._tensor([*_UP_AND_NEAR, 1.0])
        rows = cameras[:, :, :3] / cameras[:, :, :3].norm(dim=2, keepdim=True)
        # Towards the camera, in the frame of the head; image y points down.
        towards = -torch.linalg.cross(rows[:, 0], rows[:, 1])
        # A head that looks to the image's left is seen as its mirror image, cheek and temple
        # as a whole: pixel by pixel, what lies beside the face would be taken for skin.
        side = torch.where(towards[:, 0] > 1e-3, -1.0, 1.0)
        towards[:, 0] *= side
        cameras[:, :, 0] *= side[:, None]
        mirror = self._tensor([-1.0, 1.0, 1.0])
        facing = torch.einsum("nhwc,nc->nhw", normals, towards)
        other = torch.einsum("nhwc,nc->nhw", normals * mirror, towards)
        # A seam where both sides are seen equally well would cut the nose in two: the
        # side itself is kept wherever the photo shows it at all.
        flipped = (facing < 0.15) & (other > facing)
        positions = torch.where(flipped[..., None], positions * mirror, positions)
        best = torch.where(flipped, other, facing)
        # What the photo shows from neither side is drawn from the outline of the head.
        hidden = (best < 0.05)[..., None]
        centre = self._tensor(_HEAD_CENTRE)
        radii = self._tensor(_HEAD_RADII)
        outward = (positions - centre) / radii
        depth = (outward * towards[:, None, None]).sum(-1, keepdim=True)
        rim = F.normalize(outward - depth * towards[:, None, None], dim=-1) * 0.97
        positions = torch.where(hidden, rim * radii + centre, positions)
        pixels = torch.einsum("nhwc,nkc->nhwk", positions, cameras[:, :, :3])
        pixels = pixels + cameras[:, None, None, :, 3]
        grid = pixels * self._tensor([2.0 / width, 2.0 / height]) - 1
        moved = photos.permute(0, 3, 1, 2).float()
        drawn = F.grid_sample(moved, grid, padding_mode=padding, align_corners=False)
        # The colours of a neighbour without its shapes: no second face beside the first.
        around = F.interpolate(
            F.adaptive_avg_pool2d(moved.roll(1, 0), 3), size=self.size, mode="bilinear"
        )
        cover = F.avg_pool2d(covered[:, None].float(), 3, 1, 1)
        crops = (drawn * cover + around * (1 - cover)).permute(0, 2, 3, 1)
        return TurnedFaces(crops, self._points[chosen])


def _seen_points(turn: Floats) -> Floats:
    """The five points of a turned head in a plane whose y points down, centimetres."""
    return (FACE_POINTS * _UP_AND_NEAR @ turn.T)[:, :2] * [1.0, -1.0]


def _crop_to_plane(yaw: float, pitch: float) -> Floats:
    """Map of the canonical crop's unit square to the plane, as a landmark network lays it."""
    seen = _seen_points(_rotation(yaw, pitch))
    found = _seen_points(_rotation(min(yaw, _FOUND_YAW), pitch))
    near = [0, 2, 3]  # the eye, the nose and the mouth corner that profiles show
    return similarity_to_canonical((found + (seen - found)[near].mean(0))[None])[0]


def _position_map(
    vertices: Floats,
    triangles: NDArray[np.integer],
    turn: Floats,
    to_plane: Floats,
    size: int,
) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
    """Head position, normal and coverage of each pixel of a turned head's crop; landmarks."""
    steps = (np.arange(size) + 0.5) / size
    crop = np.stack([*np.meshgrid(steps, steps), np.ones((size, size))], axis=-1)
    plane = crop @ to_plane.T
    x, y = plane[..., 0], -plane[..., 1]

    # The ellipsoid under an orthographic ray along z: a quadratic for the depth.
    shape = turn @ np.diag(1 / _HEAD_RADII**2) @ turn.T
    centre = turn @ _HEAD_CENTRE
    dx, dy = x - centre[0], y - centre[1]
    linear = shape[0, 2] * dx + shape[1, 2] * dy
    constant = shape[0, 0] * dx**2 + 2 * shape[0, 1] * dx * dy + shape[1, 1] * dy**2 - 1
    inside = linear**2 - shape[2, 2] * constant
    covered = inside > 0
    root = (-linear + np.sqrt(np.maximum(inside, 0))) / shape[2, 2]
    depth = np.where(covered, centre[2] + root, -np.inf)
    offset = np.stack([dx, dy, np.where(covered, root, 0.0)], axis=-1)
    normals = offset @ shape

    turned = vertices @ turn.T
    from_plane = np.linalg.inv(to_plane)
    at = np.c_[turned[:, :2] * [1.0, -1.0], np.ones(len(turned))] @ from_plane.T * size - 0.5
    corners = turned[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.zeros_like(turned)
    for corner in range(3):
        np.add.at(smooth, triangles[:, corner], faces)
    # Eyes lie behind the ellipsoid: it is seen where nothing of the face is.
    near = np.full(depth.shape, -np.inf)
    for triangle in triangles:
        a, b, c = at[triangle, :2]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        low = np.maximum(np.ceil(np.min([a, b, c], axis=0)).astype(int), 0)
        high = np.minimum(np.floor(np.max([a, b, c], axis=0)).astype(int), size - 1)
        # Positive where it is seen from behind, since image y points down.
        if area > -1e-12 or (high < low).any():
            continue
        u, v = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        second = ((u - a[0]) * (c[1] - a[1]) - (v - a[1]) * (c[0] - a[0])) / area
        third = ((b[0] - a[0]) * (v - a[1]) - (b[1] - a[1]) * (u - a[0])) / area
        shares = np.stack([1 - second - third, second, third], axis=-1)
        z = shares @ turned[triangle, 2]
        nearer = (shares >= -1e-9).all(-1) & (z > near[v, u])
        near[v[nearer], u[nearer]] = depth[v[nearer], u[nearer]] = z[nearer]
        normals[v[nearer], u[nearer]] = shares[nearer] @ smooth[triangle]
        covered[v[nearer], u[nearer]] = True
    points = np.stack([x, y, np.where(covered, depth, 0.0)], axis=-1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    landmarks = (np.c_[_seen_points(turn), np.ones(5)] @ from_plane.T)[:, :2]
    return points @ turn, normals @ turn / np.maximum(length, 1e-12), covered, landmarks
