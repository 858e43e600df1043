"""Batches for the landmark network: whose left is left, how crops spread, who is turned."""

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.geometry import CANONICAL_LANDMARKS  # noqa: E402
from sfpose.pose import FACE_POINTS  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.landmarks import LandmarkObjective, LandmarkSource, face_size  # noqa: E402
from sfpose.training.turning import FaceTurner  # noqa: E402

SIDE = 48


def _head(yaw, size=2.0):
    """Landmarks of the generic face in the middle of a photo, turned to the image's right."""
    turn = Rotation.from_euler("y", -yaw, degrees=True).as_matrix()
    points = size * (FACE_POINTS @ turn.T)[:, :2]
    return points - points.mean(0) + SIDE / 2


def _faces(landmarks, photos=None, scores=0.9):
    count = len(landmarks)
    if photos is None:
        photos = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return TaughtFaces(
        photos=photos,
        landmarks=np.float32(landmarks),
        scores=np.broadcast_to(np.float32(scores), count),
        embeddings=np.zeros((count, 2), np.float32),
        mirror_embeddings=np.zeros((count, 2), np.float32),
        held_out=np.zeros(count, bool),
    )


def _points(source, batches=20, count=18, size=8):
    """Landmarks of all batches, (batches, count, 5, 2)."""
    torch.manual_seed(0)
    found = [source.batch(0, count * n, count, size)[1] for n in range(batches)]
    return torch.stack(found)[:, :, :10].reshape(batches, count, 5, 2).numpy().astype(float)


def _runs_clockwise(points):
    """Whether eye, other eye and mouth follow each other as they do in an image of a face."""
    across, down = points[..., 1, :] - points[..., 0, :], points[..., 3:, :].mean(-2)
    down = down - points[..., 0, :]
    return across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0] > 0


def test_the_first_eye_and_the_first_corner_are_those_on_the_left():
    """However a crop is turned, and whether it is mirrored or not."""
    points = _points(LandmarkSource(_faces([_head(0)] * 20), non_faces=0, turned=0))
    assert _runs_clockwise(points).all()
    eyes, mouth = (points[..., b, :] - points[..., a, :] for a, b in ((0, 1), (3, 4)))
    assert ((eyes * mouth).sum(-1) > 0).all()


def test_turned_faces_keep_left_and_right_apart(shared_data):
    """They look to the image's right, or to its left where they are mirrored."""
    surface = shared_data.parent / "models" / "canonical_face.safetensors"
    turner = FaceTurner(surface, size=32, margin=1.4, yaws=(50,), pitches=(0,))
    source = LandmarkSource(_faces([_head(0)] * 20), turner=turner, turned=0, non_faces=0)
    points = _points(source, batches=12)
    assert _runs_clockwise(points).all()
    second = points[:, 12:].reshape(-1, 5, 2)
    eyes = second[:, 1] - second[:, 0]
    nose = second[:, 2] - second[:, :2].mean(1)
    along = (nose * eyes).sum(1) / (eyes**2).sum(1)
    # The nose of a head that is turned by 50 degrees stands beside the middle of the eyes.
    assert 0.3 < (abs(along) > 0.3).mean() < 0.7
    aside = along[abs(along) > 0.3]
    assert 0.25 < (aside > 0).mean() < 0.75


def test_every_landmark_is_where_the_crop_shows_it():
    """Five dots on black, of whom each must be bright in its place."""
    landmarks = np.float64([[16, 18], [32, 18], [24, 26], [18, 33], [30, 33]]) + 0.5
    photo = np.zeros((SIDE, SIDE, 3), np.uint8)
    for x, y in landmarks.astype(int):
        photo[y - 1 : y + 2, x - 1 : x + 2] = 255
    photos = np.repeat(photo[None], 20, 0)
    source = LandmarkSource(_faces([landmarks] * 20, photos), non_faces=0, turned=0)
    torch.manual_seed(0)
    bright = []
    for batch in range(4):
        crops, targets = source.batch(0, 18 * batch, 18, 64)
        for crop, target in zip(crops.mean(1).numpy(), targets[:, :10].numpy(), strict=True):
            places = 64 * target.reshape(5, 2)[:, ::-1].T - 0.5
            shown = ndimage.map_coordinates(crop, places, order=1, mode="nearest")
            inside = ((places > 1) & (places < 62)).all(0)
            low, high = np.quantile(crop, [0.05, 0.998])
            bright += ((shown - low) / (high - low))[inside].tolist()
    assert len(bright) > 200
    assert np.mean(np.array(bright) > 0.5) > 0.95


def test_two_thirds_are_what_a_detector_gives_and_the_rest_second_looks():
    points = _points(LandmarkSource(_faces([_head(0)] * 20), non_faces=0, turned=0), batches=60)
    head = _head(0)
    eyes = points[..., 1, :] - points[..., 0, :]
    length = np.linalg.norm(eyes, axis=-1)
    first = length[:, :12].ravel()
    # The side of the crop over that of the photo: 0.6 to 1.75, each logarithm as often.
    scale = np.log(np.linalg.norm(head[1] - head[0]) / SIDE / first)
    low, high = np.log(0.6), np.log(1.75)
    assert scale.min() >= low - 1e-4
    assert scale.max() <= high + 1e-4
    assert stats.kstest(scale, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    roll = np.degrees(np.arctan2(eyes[..., 1], eyes[..., 0]))
    # 15 % anywhere within 50 degrees, the others with a standard deviation of 13 degrees.
    spread = np.sqrt(0.85 * 13**2 + 0.15 * 50**2 / 3)
    assert roll[:, :12].std() == pytest.approx(spread, rel=0.1)
    # A second look is at a crop of 1.4 canonical sides, moved a little.
    second = points[:, 12:].reshape(-1, 5, 2)
    middle = (CANONICAL_LANDMARKS.mean(0) - 0.5) / 1.4 + 0.5
    np.testing.assert_allclose(second.mean((0, 1)), middle, atol=0.015)
    sizes = np.linalg.norm(second[:, 3:].mean(1) - second[:, :2].mean(1), axis=1)
    canonical = CANONICAL_LANDMARKS[3:].mean(0) - CANONICAL_LANDMARKS[:2].mean(0)
    ratio = np.log(sizes / (np.linalg.norm(canonical) / 1.4))
    assert abs(ratio.mean()) < 0.06
    assert ratio.std() == pytest.approx(0.1, rel=0.2)
    assert roll[:, 12:].std() == pytest.approx(6, rel=0.2)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_tenth_whose_eyes_lie_closest_is_drawn_oftener(share):
    yaws = np.r_[np.linspace(0, 30, 90), np.full(10, 70)]
    heads = np.stack([_head(yaw) for yaw in yaws[np.random.default_rng(0).permutation(100)]])
    points = _points(LandmarkSource(_faces(heads), turned=share, non_faces=0), batches=50)
    width = np.linalg.norm(points[..., 0, :] - points[..., 1, :], axis=-1)
    height = np.linalg.norm(points[..., :2, :].mean(-2) - points[..., 3:, :].mean(-2), axis=-1)
    narrow = (width / height < 0.6).mean()
    assert narrow == pytest.approx(share + (1 - share) * 0.1, abs=0.04)


def test_faces_that_a_detector_is_less_sure_of_are_left_out():
    scores = np.float32([0.59, 0.6, 0.61, 0.2])
    assert len(LandmarkSource(_faces([_head(0)] * 4, scores=scores))) == 2
    assert len(LandmarkSource(_faces([_head(0)] * 4, scores=scores), smallest_score=0.1)) == 4


class _Recorder:
    """Stands for a FaceTurner: keeps the photos that it is given."""

    def __init__(self):
        self.levels = []
        self.landmarks = torch.tensor(CANONICAL_LANDMARKS, dtype=torch.float32)

    def turn(self, photos, cameras):
        self.levels += photos[:, 0, 0, 0].tolist()
        return self

    def seen_through(self, matrices, size):
        self.count = len(matrices)
        return torch.zeros(len(matrices), 3, size, size)


def test_half_of_the_frontal_second_looks_are_turned():
    yaws = np.r_[np.zeros(20), np.full(20, 45)]
    photos = np.repeat(np.uint8(np.arange(40)), SIDE * SIDE * 3).reshape(40, SIDE, SIDE, 3)
    turner = _Recorder()
    faces = _faces([_head(yaw) for yaw in yaws], photos)
    source = LandmarkSource(faces, turner=turner, turned=0, non_faces=0)
    torch.manual_seed(0)
    for batch in range(20):
        source.batch(0, 40 * batch, 40, 8)
    # A third of 800 are second looks; half of them frontal, and half of these are turned.
    assert max(turner.levels) < 20
    assert len(turner.levels) == pytest.approx(800 * 14 / 40 / 4, rel=0.3)


def test_light_is_changed_and_values_are_normalised():
    photos = np.full((20, SIDE, SIDE, 3), 128, np.uint8)
    source = LandmarkSource(_faces([_head(0)] * 20, photos), non_faces=0)
    torch.manual_seed(0)
    crops, _ = source.batch(0, 0, 20, 32)
    # Of 0 to 1 less 0.5, over 0.25.
    assert crops.min() >= -2
    assert crops.max() <= 2
    assert crops[:, :, 16, 16].std() > 0.2


def test_the_loss_is_the_error_over_the_size_of_the_face():
    """And a fifth of the cross-entropy of the score, by NumPy; a profile counts by its height."""
    rng = np.random.default_rng(0)
    heads = np.stack([_head(yaw) for yaw in (0, 85, 40, 20, 60)]) / SIDE
    targets = np.c_[heads.reshape(5, 10), np.ones(5)]
    targets[3:, 10] = 0
    targets[3:, :10] = np.nan
    outputs = np.c_[heads.reshape(5, 10) + rng.normal(0, 0.03, (5, 10)), rng.normal(0, 2, 5)]
    width = np.linalg.norm(heads[:, 0] - heads[:, 1], axis=1)
    height = np.linalg.norm(heads[:, :2].mean(1) - heads[:, 3:].mean(1), axis=1)
    assert width[0] > height[0] * 0.8
    assert width[1] < height[1] / 2
    size = np.maximum(width, height)
    np.testing.assert_allclose(face_size(torch.from_numpy(heads)).numpy(), size)
    apart = np.abs(outputs[:3, :10] - targets[:3, :10]).mean(1) / size[:3]
    said = 1 / (1 + np.exp(-outputs[:, 10]))
    entropy = -np.log(np.where(targets[:, 10] > 0, said, 1 - said)).mean()
    loss, measured = LandmarkObjective()(torch.from_numpy(outputs), torch.from_numpy(targets))
    assert float(loss) == pytest.approx(apart.mean() + 0.2 * entropy)
    assert measured["error"] == pytest.approx(apart.mean())
    right = (outputs[:, 10] > 0) == (targets[:, 10] > 0)
    assert measured["face_accuracy"] == pytest.approx(right.mean())


def test_first_and_second_looks_become_no_faces_alike(noise_faces):
    source = LandmarkSource(noise_faces, non_faces=0.5)
    torch.manual_seed(0)
    places = np.concatenate(
        [np.flatnonzero(source.batch(0, 18 * n, 18, 8)[1][:, 10] == 0) for n in range(40)]
    )
    assert len(places) == 9 * 40
    counts = np.bincount(places, minlength=18)
    assert stats.chisquare(counts).pvalue > 1e-4
