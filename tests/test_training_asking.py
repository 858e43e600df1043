"""What a teacher says of photos at several zooms."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical, widen_matrix  # noqa: E402
from sfpose.training.asking import ask_at_zooms  # noqa: E402
from sfpose.training.distillation import teacher_targets  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402

SIDE = 112


def _faces(count=5, unknown=()):
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 9, 9)))
    photos = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bicubic").clamp(0, 255)
    landmarks = SIDE * CANONICAL_LANDMARKS + rng.normal(0, 4, (count, 5, 2))
    lost = np.isin(np.arange(count), unknown)
    landmarks[lost] = 0
    return TaughtFaces(
        photos=photos.permute(0, 2, 3, 1).numpy().astype(np.uint8),
        landmarks=landmarks.astype(np.float32),
        scores=np.where(lost, 0, 1).astype(np.float32),
        embeddings=rng.normal(0, 3, (count, 4)).astype(np.float32),
        mirror_embeddings=rng.normal(0, 3, (count, 4)).astype(np.float32),
        held_out=np.zeros(count, bool),
    )


def _arrays(faces):
    return {name: value for name, value in vars(faces).items() if value is not None}


class Corners:
    """A teacher that tells the means of the four quarters of a crop, and what it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, crops):
        self.shown.append(crops.permute(0, 2, 3, 1).numpy())
        half = SIDE // 2
        quarters = [crops[:, :, a : a + half, b : b + half] for a in (0, half) for b in (0, half)]
        return torch.stack([each.mean((1, 2, 3)) for each in quarters], 1)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_mean_of_stored_and_asked_embeddings_is_taught(tmp_path):
    faces, teacher = _faces(), Corners()
    taught = ask_at_zooms(faces, None, teacher, [0.8, 1.2], tmp_path)
    image, mirror = (
        [Corners()(torch.from_numpy(each).permute(0, 3, 1, 2)).numpy() for each in looks]
        for looks in (teacher.shown[::2], teacher.shown[1::2])
    )
    for before, asked, after in (
        (faces.embeddings, image, taught.embeddings),
        (faces.mirror_embeddings, mirror, taught.mirror_embeddings),
    ):
        three = [_unit(each.astype(np.float64)) for each in (before, *asked)]
        np.testing.assert_allclose(after, np.mean(three, axis=0), atol=1e-6)
    assert (np.abs(teacher_targets(taught) - teacher_targets(faces)) > 0.01).any(1).all()
    np.testing.assert_array_equal(taught.landmarks, faces.landmarks)


def test_crops_are_drawn_as_opencv_draws_them(tmp_path, opencv_crop):
    """By the landmarks given, of the zoom asked for, black where a photo ends."""
    faces, teacher = _faces(), Corners()
    own = faces.landmarks + np.random.default_rng(1).normal(0, 3, (5, 5, 2)).astype(np.float32)
    ask_at_zooms(faces, own, teacher, [0.8, 1.2], tmp_path)
    shown = zip(teacher.shown[::2], teacher.shown[1::2], strict=True)
    for zoom, (image, mirror) in zip((0.8, 1.2), shown, strict=True):
        for row, photo in enumerate(faces.photos):
            matrix = (similarity_to_canonical(own) @ widen_matrix(zoom))[row]
            expected = opencv_crop(photo, matrix, SIDE)
            assert ((expected == 0).all(2).mean() > 0.1) == (zoom > 1)
            assert np.abs(image[row] - expected).mean() < 0.01
            assert np.abs(mirror[row] - expected[:, ::-1]).mean() < 0.01


def test_faces_that_nobody_found_are_not_asked_about(tmp_path):
    faces, teacher = _faces(unknown=[1, 3]), Corners()
    taught = ask_at_zooms(faces, None, teacher, [1.0], tmp_path)
    assert [len(each) for each in teacher.shown] == [3, 3]
    assert not taught.embeddings[[1, 3]].any()
    assert np.linalg.norm(taught.embeddings[[0, 2, 4]], axis=1).min() > 0.1


def test_faces_beside_lost_ones_keep_their_own_answers(tmp_path):
    faces, kept = _faces(unknown=[1, 3]), [0, 2, 4]
    alone = replace(faces, **{name: value[kept] for name, value in _arrays(faces).items()})
    some = ask_at_zooms(faces, None, Corners(), [0.9, 1.2], tmp_path / "some")
    every = ask_at_zooms(alone, None, Corners(), [0.9, 1.2], tmp_path / "every")
    assert len(np.unique(every.embeddings, axis=0)) == 3
    np.testing.assert_array_equal(some.embeddings[kept], every.embeddings)
    np.testing.assert_array_equal(some.mirror_embeddings[kept], every.mirror_embeddings)


def test_a_teacher_is_asked_once_about_the_same_crops(tmp_path):
    faces, teacher = _faces(), Corners()
    first = ask_at_zooms(faces, None, teacher, [0.9], tmp_path)
    again = ask_at_zooms(faces, None, teacher, [0.9], tmp_path)
    assert len(teacher.shown) == 2
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    ask_at_zooms(faces, None, teacher, [0.9, 0.95], tmp_path)
    assert len(teacher.shown) == 4
    other = ask_at_zooms(faces, faces.landmarks + 5, teacher, [0.9], tmp_path)
    assert len(teacher.shown) == 6
    assert np.abs(other.embeddings - first.embeddings).max() > 1e-3


def test_no_zoom_leaves_targets_as_they_are(tmp_path):
    faces = _faces()
    same = ask_at_zooms(replace(faces), None, Corners(), [], tmp_path)
    np.testing.assert_allclose(teacher_targets(same), teacher_targets(faces), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept.astype(np.int8), r"of shape .* in float32; it has int8 of"),
        (lambda kept: kept.astype(np.float64), "it has float64 of"),
        (lambda kept: kept.astype(">f4"), "it has >f4 of"),
        (lambda kept: kept[:-1], r"of shape \(5, 2, 4\) in float32; it has float32 of \(4, 2, 4\)"),
    ],
)
def test_kept_answers_of_another_kind_are_refused(tmp_path, change, message):
    ask_at_zooms(_faces(), None, Corners(), [0.9], tmp_path)
    (path,) = tmp_path.glob("*.npy")
    np.save(path, change(np.load(path)))
    before, teacher = path.read_bytes(), Corners()
    with pytest.raises(ValueError, match=message):
        ask_at_zooms(_faces(), None, teacher, [0.9], tmp_path)
    assert (path.read_bytes(), teacher.shown) == (before, [])


def test_damaged_answers_are_refused_and_stay_as_they_are(tmp_path):
    ask_at_zooms(_faces(), None, Corners(), [0.9], tmp_path)
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    for data in (b"", b"x" * 40, b"\x93NUMPY\x01\x00\xff\xff", whole[:-1], whole[:60]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"must be a whole \.npy file; "):
            ask_at_zooms(_faces(), None, Corners(), [0.9], tmp_path)
        assert path.read_bytes() == data


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_zooms_must_be_above_zero_and_finite(wrong, tmp_path):
    with pytest.raises(ValueError, match=r"zooms must be above 0 and finite; got \[1.0, "):
        ask_at_zooms(_faces(), None, Corners(), [1.0, wrong], tmp_path)
