"""Faces turned to the side: the camera that is fitted, and what is drawn."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.geometry import similarity_to_canonical  # noqa: E402
from sfpose.pose import FACE_POINTS, head_cameras  # noqa: E402
from sfpose.training.augmentation import sample_images  # noqa: E402
from sfpose.training.turning import FaceTurner  # noqa: E402

FRONTAL = FACE_POINTS[:, :2] * 5 + 64


@pytest.fixture(scope="module")
def surface(shared_data):
    return shared_data.parent / "models" / "canonical_face.safetensors"


@pytest.mark.parametrize("yaw", [-70, -20, 0, 35, 80])
def test_the_camera_of_a_known_head_is_found(yaw):
    turn = Rotation.from_euler("zxy", [8, -12, yaw], degrees=True).as_matrix()
    seen = 4.0 * (FACE_POINTS @ turn.T)[:, :2] + [60, 70]
    again = np.c_[FACE_POINTS, np.ones(5)] @ head_cameras(seen[None])[0].T
    np.testing.assert_allclose(again, seen, atol=0.05)


def test_a_face_turned_to_where_it_looks_stays_as_it_is(surface):
    turner = FaceTurner(surface, size=64, yaws=(0,), pitches=(0,))
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 8)))
    photo = torch.nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 255)
    photo = photo.permute(0, 2, 3, 1).to(torch.uint8)
    cameras = head_cameras(FRONTAL[None])
    drawn = turner.turn(photo, torch.from_numpy(cameras.astype(np.float32))).crops[0].numpy()
    matrix = torch.from_numpy(similarity_to_canonical(FRONTAL[None]).astype(np.float32))
    expected = 255 * sample_images(photo, matrix, 64)[0].permute(1, 2, 0).numpy()
    middle = (slice(12, 60), slice(14, 50))
    assert np.abs(drawn[middle] - expected[middle]).mean() < 2


def test_a_turned_face_shows_its_far_side_from_the_mirrored_one(surface):
    # Half red, half blue: turned to the right, only the half on the left is in sight.
    turner = FaceTurner(surface, size=64, yaws=(88,), pitches=(0,))
    photo = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    photo[:, :, :64, 0] = 255
    photo[:, :, 64:, 2] = 255
    cameras = head_cameras(FRONTAL[None])
    drawn = turner.turn(photo, torch.from_numpy(cameras.astype(np.float32))).crops[0].numpy()
    cheek = drawn[28:48, 16:32]
    assert cheek[..., 0].mean() > 200
    assert cheek[..., 2].mean() < 30


@pytest.mark.parametrize("yaw", [5, 20, 30])
def test_a_head_and_its_mirror_image_are_turned_to_the_same(surface, yaw):
    """Which side of a head a photo shows better is no matter of left and right."""
    turner = FaceTurner(surface, size=64, pitches=(0,))
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (4, 3, 12, 12)))
    photos = torch.nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 255)
    photos = photos.permute(0, 2, 3, 1).to(torch.uint8)
    turn = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
    right = np.repeat(5 * (FACE_POINTS @ turn.T)[None, :, :2] + 64, 4, axis=0)
    left = (right * [-1, 1] + [128, 0])[:, [1, 0, 2, 4, 3]]
    drawn = []
    for each, landmarks in ((photos, right), (photos.flip(2), left)):
        torch.manual_seed(3)
        cameras = torch.from_numpy(head_cameras(landmarks).astype(np.float32))
        drawn.append(turner.turn(each, cameras).crops)
    # Beside the head are a neighbour's colours, which are mirrored with the photo.
    head = np.s_[:, 16:56, 8:30]
    assert (drawn[0][head] - drawn[1][head]).abs().max() < 0.01


def test_crops_of_profiles_lie_as_those_of_photos_do(surface):
    """By the landmarks found on CFP's 1,000 profiles, eye and mouth corner lie 0.38 apart."""
    for yaw in (60, 70, 80, 88):
        turner = FaceTurner(surface, size=32, yaws=(yaw,), pitches=(0,))
        photo = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
        cameras = torch.from_numpy(head_cameras(FRONTAL[None] / 2).astype(np.float32))
        eye, _, nose, mouth, _ = turner.turn(photo, cameras).landmarks[0].numpy()
        assert mouth[1] - eye[1] == pytest.approx(0.37, abs=0.02)
        assert eye == pytest.approx([0.38, 0.45], abs=0.03)
        assert nose[0] == pytest.approx(0.61, abs=0.03)
