"""Where a turned face shows what, and what is drawn where the photo shows nothing."""

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.geometry import similarity_to_canonical  # noqa: E402
from sfpose.pose import FACE_POINTS, head_cameras  # noqa: E402
from sfpose.training.augmentation import sample_images  # noqa: E402
from sfpose.training.turning import FaceTurner, TurnedFaces  # noqa: E402

FRONTAL = FACE_POINTS[:, :2] * 5 + 64


@pytest.fixture(scope="module")
def surface(shared_data):
    return shared_data.parent / "models" / "canonical_face.safetensors"


def _cameras(count, landmarks=FRONTAL):
    one = head_cameras(landmarks[None]).astype(np.float32)
    return torch.from_numpy(one).expand(count, -1, -1)


@pytest.mark.parametrize("yaw", [15, 30])
@pytest.mark.parametrize("pitch", [-15, 0, 15])
def test_dots_on_the_face_are_drawn_where_its_landmarks_are_said_to_be(surface, yaw, pitch):
    """The eyes, which lie behind the ellipsoid of the head, the nose and the near mouth corner."""
    turner = FaceTurner(surface, size=96, yaws=(yaw, 0), pitches=(pitch,), margin=1.4)
    y, x = np.mgrid[:128, :128] + 0.5
    torch.manual_seed(0)
    for point in (0, 1, 2, 3):
        apart = np.hypot(x - FRONTAL[point, 0], y - FRONTAL[point, 1])
        photo = np.uint8(255 * np.exp(-(apart**2) / (2 * 2.0**2)))
        photos = torch.from_numpy(np.repeat(photo[None, :, :, None], 3, 3)).expand(8, -1, -1, -1)
        turned = turner.turn(photos, _cameras(8))
        drawn = turned.crops.mean(3).numpy()
        # Both yaws are among them, each with its own landmarks.
        assert len(np.unique(turned.landmarks[:, 2, 0].numpy())) == 2
        steps = np.arange(96) + 0.5
        for crop, landmarks in zip(drawn, turned.landmarks.numpy(), strict=True):
            expected = 96 * landmarks[point]
            near = np.hypot(steps - expected[0], (steps - expected[1])[:, None]) < 8
            weights = np.where(near, crop - np.median(crop), 0).clip(20) - 20
            found = np.array([(weights.sum(0) @ steps), (weights.sum(1) @ steps)]) / weights.sum()
            assert np.linalg.norm(found - expected) < 1.3


@pytest.mark.parametrize(("height", "width"), [(100, 180), (180, 100)])
def test_photos_may_be_wider_than_high(surface, height, width):
    turner = FaceTurner(surface, size=64, yaws=(0,), pitches=(0,))
    landmarks = FACE_POINTS[:, :2] * 4 + [width / 2, height / 2]
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 8, 8)))
    photo = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    photo = photo.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
    drawn = turner.turn(photo, _cameras(1, landmarks)).crops[0].numpy()
    matrix = torch.from_numpy(similarity_to_canonical(landmarks[None]).astype(np.float32))
    expected = 255 * sample_images(photo, matrix, 64)[0].permute(1, 2, 0).numpy()
    middle = (slice(12, 60), slice(14, 50))
    assert np.abs(drawn[middle] - expected[middle]).mean() < 2


def test_around_the_head_are_a_neighbours_colours(surface):
    turner = FaceTurner(surface, size=64, yaws=(80,), pitches=(0,), margin=1.4)
    levels = [10, 90, 170, 250]
    photos = torch.tensor(levels, dtype=torch.uint8).view(4, 1, 1, 1).expand(-1, 128, 128, 3)
    crops = turner.turn(photos, _cameras(4)).crops.numpy()
    # Before the nose and below the chin there is no head; in the middle there is.
    np.testing.assert_allclose(crops[:, 4:12, 60:].mean((1, 2, 3)), np.roll(levels, 1), atol=1)
    np.testing.assert_allclose(crops[:, 30:34, 20:26].mean((1, 2, 3)), levels, atol=1)


@pytest.mark.parametrize(("padding", "forehead"), [("zeros", 0), ("reflection", 200)])
def test_what_a_photo_does_not_hold_of_a_head_is_black_where_photos_end_so(
    surface, padding, forehead
):
    turner = FaceTurner(surface, size=64, yaws=(30,), pitches=(0,), margin=1.4)
    photo = torch.full((1, 128, 128, 3), 200, dtype=torch.uint8)
    # The eyes lie at the upper border of the photo, and the forehead beyond it.
    high = FRONTAL - [0, FRONTAL[:2, 1].mean() - 4]
    crop = turner.turn(photo, _cameras(1, high), padding=padding).crops[0].numpy()
    assert crop[12:16, 28:36].mean() == pytest.approx(forehead, abs=2)
    assert crop[34:44, 28:36].mean() == pytest.approx(200, abs=2)


def test_no_second_face_is_drawn_on_the_back_of_the_head(surface):
    """What the photo shows from neither side is drawn from the outline, not from the face."""
    turner = FaceTurner(surface, size=64, yaws=(88,), pitches=(0,), margin=1.4)
    x, y = (np.mgrid[:128, :128][::-1] + 0.5 - 64) / 5
    photo = np.zeros((1, 128, 128, 3), np.uint8)
    inner = (x / 5.5) ** 2 + ((y - 1) / 8) ** 2 < 1
    photo[0, inner, 2] = 255  # the face is blue, all around it red
    photo[0, ~inner, 0] = 255
    drawn = turner.turn(torch.from_numpy(photo), _cameras(1)).crops[0].numpy()
    assert (drawn[32:44, 34:40, 2] > 120).mean() > 0.9
    back = drawn[16:42, :26]
    assert (back[..., 0] > 200).mean() > 0.95
    assert (back[..., 2] > 60).mean() < 0.02


def test_a_turned_face_is_seen_through_a_map_between_unit_squares():
    """SciPy's lines between pixels, four to a pixel that is drawn; the border goes on."""
    rng = np.random.default_rng(0)
    crops = rng.uniform(0, 255, (2, 24, 24, 3)).astype(np.float32)
    matrices = np.array([[[0.9, 0.3, 0.1], [-0.2, 0.7, 0.2], [0, 0, 1]], np.eye(3)])
    matrices[1, :2, 2] = [-0.3, 0.25]
    faces = TurnedFaces(torch.from_numpy(crops), torch.zeros(2, 5, 2))
    found = faces.seen_through(torch.from_numpy(matrices).float(), 10).numpy()
    steps = (np.arange(20) + 0.5) / 20
    points = np.stack([*np.meshgrid(steps, steps), np.ones((20, 20))], axis=-1)
    for mine, crop, matrix in zip(found, crops, matrices, strict=True):
        x, y, _ = np.moveaxis(24 * points @ matrix.T - 0.5, -1, 0)
        for channel in range(3):
            fine = ndimage.map_coordinates(crop[..., channel], [y, x], order=1, mode="nearest")
            expected = fine.reshape(10, 2, 10, 2).mean((1, 3)) / 255
            np.testing.assert_allclose(mine[channel], expected, atol=1e-4)
