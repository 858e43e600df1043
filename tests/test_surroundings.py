"""Faces in the surroundings of others."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.cli import main  # noqa: E402
from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical  # noqa: E402
from sfpose.training.augmentation import inside_photos  # noqa: E402
from sfpose.training.distillation import TaughtFaceSource, normalise_images, teacher_targets  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.mixing import Blends, Pairs, joined, make_blends  # noqa: E402
from sfpose.training.surroundings import make_surrounded  # noqa: E402
from sfpose.training.teachers import both_looks  # noqa: E402

SIDE = 112


def _faces(photos, moves):
    """Upright faces in photos of 112x112, as many pixels below their usual place as ``moves``."""
    count = len(photos)
    landmarks = np.repeat(SIDE * CANONICAL_LANDMARKS[None], count, 0)
    landmarks[:, :, 1] += np.reshape(moves, (-1, 1))
    return TaughtFaces(
        photos=np.uint8(photos),
        landmarks=landmarks.astype(np.float32),
        scores=np.ones(count, np.float32),
        embeddings=np.ones((count, 2), np.float32),
        mirror_embeddings=np.ones((count, 2), np.float32),
        held_out=np.zeros(count, bool),
    )


def _grey(level):
    return np.full((SIDE, SIDE, 3), level)


class Watching:
    """A teacher that keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, crops):
        self.seen.append(crops)
        return torch.ones(len(crops), 2)


def test_how_far_inside_of_its_photo_a_pixel_lies():
    rng = np.random.default_rng(0)
    turned = np.tile(np.eye(3), (5, 1, 1))
    turned[:, :2, :2] = rng.normal(0, 100, (5, 2, 2))
    turned[:, :2, 2] = rng.uniform(-40, 120, (5, 2))
    found = inside_photos(torch.from_numpy(turned).float(), (90, 130), 24, edge=0.1)
    steps = (np.arange(24) + 0.5) / 24
    expected = np.zeros((5, 1, 24, 24))
    for at, down, right in np.ndindex(5, 24, 24):
        x, y, _ = turned[at] @ [steps[right], steps[down], 1]
        distance = min(x / 130, 1 - x / 130, y / 90, 1 - y / 90)
        expected[at, 0, down, right] = min(max(distance / 0.1, 0), 1)
    assert 0.1 < (expected == 0).mean() < 0.9
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_a_photo_lacks_is_taken_from_another(tmp_path):
    """A photo that ends 30 pixels below the crop's upper edge, and one that goes on."""
    faces = _faces([_grey(200), _grey(50)], [-30, 0])
    teacher = Watching()
    surrounded = make_surrounded(faces, teacher, 5, tmp_path)
    assert surrounded.pairs.rows.tolist() == [[0, 1]] * 5
    rows = np.arange(SIDE) + 0.5
    inside = np.clip((rows - 30) / SIDE / 0.06, 0, 1)
    expected = (inside * 200 + (1 - inside) * 50) / 255
    columns = slice(10, 102)  # the first photo also ends at the crop's left and right edge
    for look in teacher.seen:
        shown = look[:, :, :, columns]
        wanted = np.broadcast_to(expected[:, None], shown.shape)
        np.testing.assert_allclose(shown, wanted, atol=1e-3)


def test_surroundings_are_magnified(tmp_path, opencv_crop):
    """Three quarters of the other's crop, as OpenCV draws it."""
    cv2 = pytest.importorskip("cv2")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    other = cv2.resize(coarse, (SIDE, SIDE))
    faces = _faces([_grey(0), other], [-2 * SIDE, 0])  # nothing of the first is in its crop
    teacher = Watching()
    make_surrounded(faces, teacher, 1, tmp_path)
    narrower = np.array([[0.75, 0, 0.125], [0, 0.75, 0.125], [0, 0, 1]])
    to_photo = similarity_to_canonical(faces.landmarks[1:])[0] @ narrower
    expected = opencv_crop(other, to_photo, SIDE)
    found = teacher.seen[0][0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 0.01


def test_of_several_the_one_that_fills_most_is_taken(tmp_path):
    """All lack something, in their own size; enlarged, the third one alone fills the crop."""
    faces = _faces([_grey(200)] * 40, [-60] * 40)
    faces.landmarks[2, :, 1] += 55
    rows = make_surrounded(faces, Watching(), 37, tmp_path).pairs.rows
    assert len(np.unique(rows[:, 0])) == 37  # each before any comes again
    other = make_surrounded(faces, Watching(), 37, tmp_path, seed=1).pairs.rows
    assert (rows != other).mean() > 0.5
    others = rows[rows[:, 0] != 2, 1]
    # Among 16 draws from 39 it is in one of three.
    assert (others == 2).mean() > 0.15
    assert (rows[:, 0] != rows[:, 1]).all()


def test_what_fills_most_is_judged_as_it_is_shown(tmp_path):
    """Magnified, one that lacks a sixth at its side lacks less than one that lacks much above."""
    faces = _faces([_grey(200)] * 3, [0, 0, -0.3 * SIDE])
    faces.landmarks[:, :, 0] -= SIDE * np.array([[0.4], [0.17], [0]], np.float32)
    rows = make_surrounded(faces, Watching(), 30, tmp_path).pairs.rows
    assert (rows[rows[:, 0] == 0, 1] == 1).all()


def test_photos_that_fill_their_crop_are_left_as_they_are(tmp_path):
    faces = _faces([_grey(200)] * 3, [0, -40, 0])
    rows = make_surrounded(faces, Watching(), 6, tmp_path).pairs.rows
    assert (rows[:, 0] == 1).all()
    whole = _faces([_grey(200)] * 3, [0, 0, 0])
    with pytest.raises(ValueError, match="photos do not fill their crop; got none"):
        make_surrounded(whole, Watching(), 6, tmp_path)
    alone = replace(faces, held_out=np.array([False, True, True]))
    with pytest.raises(ValueError, match="at least two faces to learn from; got 1"):
        make_surrounded(alone, Watching(), 6, tmp_path)


def test_the_student_is_shown_what_the_teacher_was(tmp_path):
    shapes = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3)).astype(np.uint8)
    photos = np.repeat(np.repeat(shapes, 16, 1), 16, 2)
    faces = _faces(photos, [-30, 0])
    teacher = Watching()
    surrounded = make_surrounded(faces, teacher, 2, tmp_path)
    blends = make_blends(faces, Watching(), 3, tmp_path)
    both = joined([blends, surrounded])
    assert len(both.embeddings) == 5
    assert both.pairs.seams[3:].tolist() == [np.inf] * 2
    source = TaughtFaceSource(faces, blends=surrounded, blend_share=1.0, jitter=0, light=0)
    images, targets = source.batch(0, 0, 2, SIDE)
    assert (targets >= len(source)).all()
    looks = [normalise_images(look)[0] for look in teacher.seen]
    for image in images:
        assert min((image - look).abs().max() for look in looks) < 0.01


def test_what_other_surroundings_share_is_not_taught():
    """Strangers would lie nearer to each other for it; the person's own photo is what remains."""
    rng = np.random.default_rng(0)
    faces = _faces([_grey(100)] * 8, [0] * 8)
    own, kinds = rng.normal(size=(8, 6)).astype(np.float32), np.array([np.nan, 0.5] + [np.inf] * 6)
    faces = replace(faces, embeddings=own, mirror_embeddings=own)
    looks = both_looks(own, own)
    rows = np.array([[k, (k + 1) % 8] for k in range(8)])
    shift = np.array([0.6, 0, 0, -0.4, 0, 0], np.float32)
    answers = (looks + np.where(np.isinf(kinds)[:, None], shift, 0)).astype(np.float32)
    ones = np.ones(8, np.float32)
    pairs = Pairs(rows, np.zeros((8, 2), bool), ones, kinds.astype(np.float32))
    targets = teacher_targets(faces, Blends(pairs, answers))
    np.testing.assert_allclose(targets[8:], targets[:8], atol=1e-6)
    np.testing.assert_array_equal(targets[:8], teacher_targets(faces))
    given = Blends(pairs._replace(seams=np.full(8, 0.5, np.float32)), answers)
    assert np.abs(teacher_targets(faces, given)[10:] - targets[2:8]).max() > 0.1


def test_the_command_shows_both_kinds_together(tmp_path, monkeypatch):
    faces = _faces([_grey(0), _grey(100), _grey(200)], [-30, -30, 0])
    given = []

    def distil(*_, blends, recipe, **__):
        given.append((blends, recipe.blend_share))
        raise ValueError("enough")

    monkeypatch.setattr("sfpose.training.faces.load_taught_faces", lambda *_: faces)
    monkeypatch.setattr("sfpose.training.landmarks.find_own_landmarks", lambda *_: faces.landmarks)
    monkeypatch.setattr("sfpose.training.recipes.distil", distil)
    teacher = Watching()
    teacher.to = lambda _: teacher
    monkeypatch.setattr("sfpose.training.teachers.OnnxTeacher", lambda _: teacher)
    (tmp_path / "teacher.onnx").touch()
    command = ["train", "distil", "data", "--out", str(tmp_path / "out"), "--device", "cpu"]
    command += ["--teacher", str(tmp_path / "teacher.onnx"), "--cache", str(tmp_path)]
    assert main([*command, "--surrounded", "4", "--mixed-share", "0.3"]) == 2
    assert main([*command, "--surrounded", "4", "--mixed", "5"]) == 2
    (alone, share), (both, _) = given
    assert share == 0.3
    assert np.isinf(alone.pairs.seams).tolist() == [True] * 4
    assert np.isinf(both.pairs.seams).tolist() == [False] * 5 + [True] * 4
