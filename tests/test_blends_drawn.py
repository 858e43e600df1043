"""Which faces become blends: who is clearly seen, how often each comes, and by which seed."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.pose import FACE_POINTS, head_pose  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.mixing import Blends, Pairs, blended, joined, make_blends  # noqa: E402
from sfpose.training.surroundings import make_surrounded  # noqa: E402

SIDE = 32


def _heads(degrees, *, scores=1.0, held_out=(), up=0.0):
    """Photos of heads that are turned to the image's right by so many degrees."""
    angles = -np.reshape(degrees, (-1, 1)).astype(float)
    turns = Rotation.from_euler("y", angles, degrees=True).as_matrix()
    points = 1.5 * np.einsum("nij,kj->nki", turns, FACE_POINTS)[:, :, :2]
    points += SIDE / 2 - points.mean(1, keepdims=True) - [0, up]
    count = len(points)
    return TaughtFaces(
        photos=np.full((count, SIDE, SIDE, 3), 99, np.uint8),
        landmarks=points.astype(np.float32),
        scores=np.broadcast_to(np.float32(scores), count),
        embeddings=np.ones((count, 2), np.float32),
        mirror_embeddings=np.ones((count, 2), np.float32),
        held_out=np.isin(np.arange(count), held_out),
    )


def _says_nothing(crops):
    return torch.ones(len(crops), 2)


def _pairs(faces, count, folder, make=make_blends, **settings):
    return make(faces, _says_nothing, count, folder, **settings).pairs


def test_a_seam_moves_with_the_faces_that_it_joins():
    """White above black: SciPy moves the whole picture as the crop of it is moved."""
    size = 64
    angle, scale, shift = 0.3, 1.2, (0.05, -0.15)
    moved = np.eye(3)
    moved[:2, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    moved[:2, 2] = np.array([0.5, 0.5]) + shift - moved[:2, :2] @ [0.5, 0.5]
    white, black = torch.ones(1, 3, size, size), torch.zeros(1, 3, size, size)
    settings = torch.tensor([0.5]), torch.tensor([0.45]), torch.ones(1, 1, size, size)
    whole = blended(white, black, *settings)[0, 0].numpy()
    assert (whole[:22] > 0.9).all()
    assert (whole[-30:] < 0.1).all()
    found = blended(white, black, *settings, torch.from_numpy(moved[None]).float())[0, 0].numpy()
    steps = (np.arange(size) + 0.5) / size
    points = np.stack([*np.meshgrid(steps, steps), np.ones((size, size))], axis=-1)
    x, y, _ = np.moveaxis(size * points @ moved.T - 0.5, -1, 0)
    expected = ndimage.map_coordinates(whole, [y, x], order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("make", [make_blends, make_surrounded])
def test_faces_that_a_detector_is_less_sure_of_are_not_blended(make, tmp_path):
    faces = _heads([0, 5, 10, 15, 20, 25], scores=[0.59, 0.6, 0.9, 0.1, 0, 1], up=8)
    faces.landmarks[4] = 0  # what is stored where none was found
    rows = _pairs(faces, 60, tmp_path, make).rows
    assert np.unique(rows).tolist() == [1, 2, 5]


def test_of_heads_turned_far_none_comes_more_often_than_others(tmp_path):
    faces = _heads(np.linspace(0, 80, 400))
    rows = _pairs(faces, 400, tmp_path, least_yaw=40).rows
    assert np.abs(head_pose(faces.landmarks[rows].reshape(-1, 5, 2)).yaw).min() >= 40
    # 400 draws of 200 heads, a degree as often as another.
    assert np.bincount(rows[:, 0]).max() < 20


def test_one_head_that_is_turned_much_farther_hardly_comes(tmp_path):
    faces = _heads(np.r_[np.linspace(0, 20, 199), 75])
    rows = _pairs(faces, 200, tmp_path).rows
    assert (rows[:, 0] == 199).mean() < 0.05


def test_blends_follow_from_their_seed(tmp_path):
    faces = _heads(np.linspace(-40, 40, 30))
    one, again, other = (
        _pairs(faces, 60, tmp_path / str(place), seed=seed) for place, seed in enumerate((5, 5, 6))
    )
    for mine, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    assert (one.rows != other.rows).mean() > 0.5
    assert (one.shares != other.shares).mean() > 0.9
    assert (np.isnan(one.seams) != np.isnan(other.seams)).mean() > 0.2


def test_surroundings_are_turned_as_their_face_and_neither_is_held_out(tmp_path):
    degrees = np.random.default_rng(0).uniform(5, 60, 60) * np.tile([1, -1, -1], 20)
    faces = _heads(degrees, held_out=[0, 1, 2, 30], up=8)
    pairs = _pairs(faces, 80, tmp_path, make_surrounded)
    assert not faces.held_out[pairs.rows].any()
    assert len(np.unique(pairs.rows[:, 0])) == 56
    np.testing.assert_array_equal(pairs.mirrored, degrees[pairs.rows] < 0)


def test_joined_blends_keep_what_was_said_of_them():
    rng = np.random.default_rng(0)

    def some(count):
        pairs = Pairs(
            rng.integers(0, 9, (count, 2)),
            rng.random((count, 2)) < 0.5,
            rng.random(count).astype(np.float32),
            rng.random(count).astype(np.float32),
        )
        return Blends(pairs, rng.random((count, 3)).astype(np.float32))

    parts = [some(4), some(2), some(3)]
    whole = joined(parts)
    first = 0
    for part in parts:
        own = slice(first, first + len(part.embeddings))
        np.testing.assert_array_equal(whole.embeddings[own], part.embeddings)
        for mine, given in zip(whole.pairs, part.pairs, strict=True):
            np.testing.assert_array_equal(mine[own], given)
        first = own.stop
    assert first == len(whole.embeddings)
