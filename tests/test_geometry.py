"""Where landmarks lie in crops and on heads: published places, and faces that have none."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfpose import FaceAligner
from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical
from sfpose.pose import FACE_POINTS, head_cameras, head_pose, pose_labels


def test_the_canonical_crop_is_that_of_arcface():
    """The template of five points in a crop of 112 pixels that ArcFace's authors publish."""
    eyes = [[38.2946, 51.6963], [73.5318, 51.5014]]
    nose_and_mouth = [[56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    np.testing.assert_allclose(112 * CANONICAL_LANDMARKS, eyes + nose_and_mouth, rtol=1e-12)


def test_the_generic_face_is_mediapipes():
    """Vertices of its canonical face model, whose y runs up and z towards the viewer."""
    outer, inner = [-4.445859, 2.663991, 3.173422], [-1.856432, 2.585245, 3.757904]
    nose, corner = [0.0, -1.126865, 7.475604], [-2.456206, -4.342621, 4.283884]
    eye = np.mean([outer, inner], axis=0)
    points = np.array([eye, eye * [-1, 1, 1], nose, corner, corner * np.array([-1, 1, 1])])
    np.testing.assert_allclose(FACE_POINTS, points * [1, -1, -1], atol=6e-4)


def test_the_camera_is_the_turn_the_size_and_the_place_of_the_head():
    turn = Rotation.from_euler("ZXY", [25, -12, 50], degrees=True).as_matrix()
    heads = [np.eye(3), turn]
    seen = np.stack([4.0 * (FACE_POINTS @ head.T)[:, :2] + [60, 70] for head in heads])
    for camera, head in zip(head_cameras(seen), heads, strict=True):
        np.testing.assert_allclose(camera, np.c_[4.0 * head[:2], [60, 70]], atol=0.01)


@pytest.mark.parametrize("answer", [head_pose, head_cameras, similarity_to_canonical])
def test_one_face_without_a_size_among_others_is_refused(answer):
    face = 100 * CANONICAL_LANDMARKS
    with pytest.raises(ValueError, match="of a face must tell its size"):
        answer(np.stack([face, np.ones((5, 2)), face]))


@pytest.mark.parametrize("answer", [head_pose, head_cameras, similarity_to_canonical])
def test_points_that_fall_together_are_refused_wherever_they_do(answer):
    """The mean of five equal numbers may differ from them by a rounding."""
    places = np.random.default_rng(0).uniform(0, 4000, (50, 2))
    assert any((np.full((5, 2), place).mean(0) != place).any() for place in places)
    for place in places:
        with pytest.raises(ValueError, match="of a face must tell its size"):
            answer(np.full((1, 5, 2), place))


@pytest.mark.parametrize("limits", [(0, 45), (-5, 45), (45, 45), (50, 40), (np.nan, 45)])
def test_limits_of_poses_that_do_not_rise_are_refused(limits):
    three_quarter, profile = limits
    with pytest.raises(ValueError, match="limits must rise: 0 < three_quarter_from < profile_from"):
        pose_labels([1.0], three_quarter_from=three_quarter, profile_from=profile)


def test_landmarks_of_a_box_are_looked_for_in_a_wider_square(monkeypatch):
    """Of 1.4 times the box's longer side: red tells how far right a pixel lies, green how low."""
    photo = np.zeros((240, 250, 3), np.uint8)
    photo[..., 0] = np.arange(250)
    photo[..., 1] = np.arange(240)[:, None]
    seen = []

    def look(network, crops):
        seen.extend(crops)
        return np.tile(np.r_[CANONICAL_LANDMARKS.ravel(), 9.0], (len(crops), 1))

    monkeypatch.setattr("sfpose._landmarks.ArtifactNetwork.__call__", look)
    FaceAligner(lambda _: [(100, 80, 140, 180)], policy="all").align([photo])
    first = np.asarray(seen[0], dtype=float)
    size = len(first)
    along = (np.arange(size) + 0.5) / size * 140 - 0.5
    np.testing.assert_allclose(first[size // 2, 2:-2, 0], (50 + along)[2:-2], atol=1.5)
    np.testing.assert_allclose(first[2:-2, size // 2, 1], (60 + along)[2:-2], atol=1.5)
