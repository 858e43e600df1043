"""Blends of two faces, and pictures of no face."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from test_teachers import save_teacher  # noqa: E402

from sfpose.cli import main  # noqa: E402
from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical  # noqa: E402
from sfpose.pose import FACE_POINTS, head_pose  # noqa: E402
from sfpose.training.asking import ask  # noqa: E402
from sfpose.training.distillation import TaughtFaceSource, normalise_images  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.mixing import make_blends  # noqa: E402
from sfpose.training.non_faces import turn_into_non_faces  # noqa: E402

SIDE = 112


def _grey(levels, held_out=()):
    """Photos of one grey level each, faces all in the canonical place."""
    count = len(levels)
    photos = np.repeat(np.uint8(levels), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)
    return TaughtFaces(
        photos=photos,
        landmarks=np.repeat(SIDE * CANONICAL_LANDMARKS[None], count, 0).astype(np.float32),
        scores=np.ones(count, np.float32),
        embeddings=np.ones((count, 2), np.float32),
        mirror_embeddings=np.ones((count, 2), np.float32),
        held_out=np.isin(np.arange(count), held_out),
    )


class MeanColour:
    """A teacher that tells the mean of the crop, and how many looks it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, crops):
        assert crops.shape[1:] == (3, 112, 112)
        self.asked += len(crops)
        means = crops.mean((1, 2, 3))
        return torch.stack([means, 1 - means], 1)


def _given(blends, heights):
    """Shares (n, h) of the first face at heights 0 to 1 of the crop, by the definition."""
    seams = np.float64(blends.pairs.seams)[:, None]
    above = 1 / (1 + np.exp((heights - seams) / 0.03))
    return np.where(np.isnan(seams), blends.pairs.shares[:, None], above)


def _means(blends):
    """What MeanColour saw: the embeddings are twice its answers at length 1."""
    return blends.embeddings[:, 0] / blends.embeddings.sum(1)


def test_a_blend_lies_between_its_two_faces_and_the_teacher_saw_it(tmp_path):
    faces = _grey([0, 200])
    blends = make_blends(faces, MeanColour(), 70, tmp_path)
    assert blends.pairs.rows.shape == (70, 2)
    assert (blends.pairs.rows[:, 0] != blends.pairs.rows[:, 1]).all()
    assert blends.pairs.shares.min() >= 0.35
    assert blends.pairs.shares.max() <= 0.65
    with_seam = np.isfinite(blends.pairs.seams)
    assert 20 < with_seam.sum() < 50
    assert blends.pairs.seams[with_seam].min() >= 0.4
    assert blends.pairs.seams[with_seam].max() <= 0.65
    levels = np.float32([0, 200])[blends.pairs.rows] / 255
    given = _given(blends, (np.arange(SIDE) + 0.5) / SIDE).mean(1)
    expected = given * levels[:, 0] + (1 - given) * levels[:, 1]
    np.testing.assert_allclose(_means(blends), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(blends.embeddings, axis=1), 2, rtol=1e-5)


def _photo_of_shapes():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
    photo = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bicubic").clamp(0, 255)
    return photo[0].permute(1, 2, 0).numpy().astype(np.uint8)


def test_a_blend_of_the_same_face_is_that_face_to_teacher_and_student(tmp_path):
    photo = _photo_of_shapes()
    faces = replace(_grey([0, 0]), photos=np.stack([photo, photo]))
    looks = []

    def teacher(crops):
        looks.append(crops)
        return torch.ones(len(crops), 2)

    blends = make_blends(faces, teacher, 3, tmp_path)
    expected = torch.from_numpy(photo).permute(2, 0, 1).float()[None].expand(3, -1, -1, -1) / 255
    torch.testing.assert_close(looks[0], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(looks[1], expected.flip(3), atol=2e-3, rtol=0)

    source = TaughtFaceSource(faces, blends=blends, blend_share=1.0, jitter=0, light=0)
    images, targets = source.batch(0, 0, 2, SIDE)
    assert (targets >= len(source)).all()
    wanted = normalise_images(expected[:1])
    for image in images:
        # Every second one is mirrored, by chance.
        far = min((image - each).abs().max() for each in (wanted[0], wanted[0].flip(2)))
        assert far < 0.02


def _turned_by(degrees):
    """Rotation about the vertical axis of a head that faces the viewer, who is at negative z."""
    angle = np.radians(degrees)
    return np.array(
        [
            [np.cos(angle), 0, -np.sin(angle)],
            [0, 1, 0],
            [np.sin(angle), 0, np.cos(angle)],
        ]
    )


def test_both_faces_of_a_blend_look_the_same_way(tmp_path):
    """Faces of one grey level left of the nose, another right of it, half of them mirrored."""
    rng = np.random.default_rng(0)
    turned = 6 * FACE_POINTS @ _turned_by(40).T[:, :2]
    to_right = (turned - turned.mean(0) + SIDE / 2).astype(np.float32)
    to_left = to_right[[1, 0, 2, 4, 3]] * [-1, 1] + [SIDE, 0]
    photos = np.zeros((40, SIDE, SIDE, 3), np.uint8)
    photos[:, :, SIDE // 2 :] = 200
    side = rng.random(40) < 0.5
    photos[side] = photos[side][:, :, ::-1]
    landmarks = np.where(side[:, None, None], to_left, to_right).astype(np.float32)
    faces = replace(_grey([0] * 40), photos=photos, landmarks=landmarks)
    assert (head_pose(landmarks).yaw > 0).tolist() == (~side).tolist()
    halves = []

    def teacher(crops):
        halves.append(torch.stack([each.mean((1, 2, 3)) for each in crops.chunk(2, 3)], 1))
        return torch.ones(len(crops), 2)

    blends = make_blends(faces, teacher, 60, tmp_path)
    assert (blends.pairs.mirrored == side[blends.pairs.rows]).all()
    left, right = halves[0].T
    # Unmirrored, left and right would be as bright as each other in half of the blends.
    assert (right - left > 0.3).all()


def test_nobody_is_drawn_oftener_for_being_near_the_end_of_the_row(tmp_path):
    """Faces turned by 0.2 degrees more each: those next to the last one as those before."""
    points = np.stack(
        [6 * FACE_POINTS @ _turned_by(each).T[:, :2] for each in np.linspace(0, 80, 400)]
    )
    faces = replace(_grey([0] * 400), landmarks=(points + SIDE / 2).astype(np.float32))
    rows = make_blends(faces, MeanColour(), 8000, tmp_path).pairs.rows
    order = np.argsort(np.argsort(np.abs(head_pose(faces.landmarks).yaw)))[rows]
    apart = order[:, 1] - order[:, 0]
    assert (apart != 0).all()
    assert np.abs(apart).max() == 150
    last = order[:, 1][order[:, 0] > 380]
    # From among the 150 to 169 nearest, all alike: none more than a few times.
    assert np.bincount(last).max() < len(last) * 0.03


def test_blends_use_nobody_who_is_held_out(tmp_path):
    blends = make_blends(_grey([10, 10, 250], held_out=[2]), MeanColour(), 40, tmp_path)
    assert blends.pairs.rows.max() == 1
    with pytest.raises(ValueError, match="blends need at least two faces to learn from; got 1"):
        make_blends(_grey([10, 250], held_out=[1]), MeanColour(), 4, tmp_path / "other")


def test_the_teacher_is_asked_once(tmp_path):
    faces, teacher = _grey([0, 100, 200]), MeanColour()
    first = make_blends(faces, teacher, 80, tmp_path, part=32)
    assert teacher.asked == 160
    (kept,) = tmp_path.iterdir()
    rows = np.lib.format.open_memmap(kept, mode="r+")
    rows[64:] = 0  # as if it had been stopped after the second part
    again = make_blends(faces, teacher, 80, tmp_path)
    assert teacher.asked == 192
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    with pytest.raises(ValueError, match=r"must hold embeddings of shape \(81, 2, 2\)"):
        ask(teacher, lambda _: torch.zeros(0), kept, (81, 2, 2))
    moved = replace(faces, landmarks=faces.landmarks + 1)
    for other in ({"faces": faces, "count": 81}, {"faces": moved, "count": 80}):
        before = teacher.asked
        make_blends(teacher=teacher, cache=tmp_path, **other)
        assert teacher.asked - before == 2 * other["count"]


def test_heads_turned_far_are_blended_as_often_as_others(tmp_path):
    """Nine in ten of these photos look at the camera; of the blends only as many as of degrees."""
    rng = np.random.default_rng(0)
    degrees = np.concatenate([rng.uniform(0, 20, 900), rng.uniform(20, 80, 100)])
    points = np.stack([6 * FACE_POINTS @ _turned_by(each).T[:, :2] + SIDE / 2 for each in degrees])
    faces = replace(_grey([0] * 1000), landmarks=points.astype(np.float32))
    found = np.abs(head_pose(faces.landmarks).yaw)
    np.testing.assert_allclose(found, degrees, atol=2)
    first = found[make_blends(faces, MeanColour(), 2000, tmp_path).pairs.rows[:, 0]]
    # To the hundredth that is turned farthest.
    most = np.quantile(found, 0.99)
    shares = np.histogram(first, most * np.array([0, 0.25, 0.5, 0.75, 1.05]))[0] / 2000
    np.testing.assert_allclose(shares, 0.25, atol=0.05)
    turned = make_blends(faces, MeanColour(), 500, tmp_path, least_yaw=30)
    assert found[turned.pairs.rows].min() >= 30
    with pytest.raises(ValueError, match="least_yaw must be from 0 to below 90 degrees; got 90"):
        make_blends(faces, MeanColour(), 4, tmp_path, least_yaw=90)


def test_blends_are_drawn_for_the_teacher_as_opencv_draws_photos(tmp_path, opencv_crop):
    """Black where a photo ends: so were the crops that stored embeddings are of."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    faces = _grey([0] * 6)
    coarse = rng.integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)
    faces.photos[:] = [cv2.resize(each, (SIDE, SIDE)) for each in coarse] * 2
    faces.landmarks[:] += np.tile(rng.normal(0, 9, (3, 5, 2)), (2, 1, 1))
    seen = []

    def teacher(crops):
        seen.append(crops.permute(0, 2, 3, 1).numpy())
        return torch.ones(len(crops), 2)

    blends = make_blends(faces, teacher, 120, tmp_path)
    # What is half of a photo and half of its copy, neither mirrored, is that photo.
    first, second = blends.pairs.rows.T
    alone = np.flatnonzero((abs(first - second) == 3) & ~blends.pairs.mirrored[:, 0])
    assert len(alone) > 3
    to_photos = similarity_to_canonical(faces.landmarks)
    for place in alone:
        row = blends.pairs.rows[place, 0]
        expected = opencv_crop(faces.photos[row], to_photos[row], 112)
        assert (expected == 0).all(2).mean() > 0.02
        assert np.abs(seen[0][place] - expected).mean() < 0.01


def test_blends_are_shown_as_often_as_asked_for_under_their_own_embeddings(tmp_path):
    faces = replace(
        _grey([0, 60, 120, 180]),
        embeddings=np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]]),
        mirror_embeddings=np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]]),
    )
    blends = make_blends(faces, MeanColour(), 30, tmp_path)
    # Crops that are not moved: a seam is moved with the faces that it joins.
    source = TaughtFaceSource(faces, blends=blends, blend_share=0.7, light=0, jitter=0)
    assert source.bank.shape == (34, 2)
    # The mean of these four photos is zero, so nothing is taken off.
    torch.testing.assert_close(source.bank[4:], torch.from_numpy(blends.embeddings) / 2)
    shown = np.concatenate([source.batch(0, first, 10, 32)[1] for first in range(0, 200, 10)])
    assert (shown >= 4).mean() == pytest.approx(0.7)
    images, targets = source.batch(0, 0, 10, 32)
    levels = np.float32([0, 60, 120, 180]) / 255
    mixed = np.flatnonzero(targets >= 4)
    own = levels[blends.pairs.rows[targets[mixed] - 4]]
    share = _given(blends, np.array([16.5 / 32]))[targets[mixed] - 4, 0]
    expected = np.float32(share * own[:, 0] + (1 - share) * own[:, 1])
    centre = normalise_images(torch.from_numpy(expected).view(-1, 1, 1, 1).expand(-1, 3, 1, 1))
    torch.testing.assert_close(images[mixed, :, 16, 16], centre[:, :, 0, 0], atol=1e-4, rtol=0)


def test_the_command_asks_the_teacher_that_it_is_given(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    given = []

    def distil(*_, blends, **__):
        given.append(blends)
        raise ValueError("enough")

    faces = _grey([0, 100, 200])
    monkeypatch.setattr("sfpose.training.faces.load_taught_faces", lambda *_: faces)
    monkeypatch.setattr("sfpose.training.landmarks.find_own_landmarks", lambda *_: faces.landmarks)
    monkeypatch.setattr("sfpose.training.recipes.distil", distil)
    command = ["train", "distil", "data", "--out", str(tmp_path / "out")]
    for name in ("one.onnx", "other.onnx"):
        weight = rng.normal(0, 0.01, (2, 3 * SIDE * SIDE)).astype(np.float32)
        flat = ("Flatten", ["data"], "flat", {})
        linear = ("Gemm", ["flat", "weight", "bias"], "answer", {"transB": 1})
        stored = {"weight": weight, "bias": np.zeros(2, np.float32)}
        save_teacher(tmp_path / name, [flat, linear], stored)
        asked = ["--teacher", str(tmp_path / name), "--cache", str(tmp_path), "--device", "cpu"]
        assert main([*command, *asked, "--mixed", "5"]) == 2
    assert main(command) == 2
    blends, other_blends, none = given
    assert none is None
    assert len(blends.pairs.rows) == 5
    np.testing.assert_array_equal(blends.pairs.rows, other_blends.pairs.rows)
    # What the first one said is not taken for what the second says.
    assert (np.abs(blends.embeddings - other_blends.embeddings) > 1e-3).any(1).sum() >= 4


def test_non_faces_are_pictures_and_differ_from_the_faces():
    crops = torch.rand(200, 3, 64, 64)
    torch.manual_seed(0)
    pictures = turn_into_non_faces(crops)
    assert pictures.shape == crops.shape
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert ((pictures - crops).abs().amax((1, 2, 3)) > 0.05).all()
    torch.manual_seed(0)
    torch.testing.assert_close(turn_into_non_faces(crops), pictures)
