"""Landmarks and face scores: two looks, looks again where they are in doubt, alignment."""

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder
from sfpose.geometry import CANONICAL_LANDMARKS, similarity_to_canonical, turn_matrix, widen_matrix
from sfpose.preprocessing import aligned_crop
from sfpose.runtime.artifact import read_artifact


def test_the_face_score_decides_what_is_embedded(photos, nothing):
    landmarks = read_artifact("landmarks")
    limit = landmarks.manifest["min_face_score"]
    images = [*photos, nothing]
    _, scores = FaceAligner().find_landmarks(images)
    assert (scores[:3] > limit).all()
    assert scores[3] < limit
    assert np.isnan(FaceEmbedder().transform(images)).all(axis=1).tolist() == [False] * 3 + [True]
    # Nothing is refused at 0, and what is embedded does not depend on the limit.
    whole = FaceEmbedder(min_face_score=0).transform(images)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[:3], FaceEmbedder().transform(photos))
    middle = np.sort(scores)[1:3].mean()
    kept = ~np.isnan(FaceEmbedder(min_face_score=middle).transform(images)).any(axis=1)
    np.testing.assert_array_equal(kept, scores >= middle)


@pytest.mark.parametrize("score", [-0.1, 1.1, np.nan, "all"])
def test_face_scores_are_shares(photos, score):
    for estimator in (FaceEmbedder(min_face_score=score), FaceAligner(min_face_score=score)):
        with pytest.raises(ValueError, match="min_face_score must be 0 to 1 or 'auto'; got"):
            estimator.transform(photos)


def _plain_look(photo):
    """One look by plain onnxruntime: from a matrix to points (5, 2) and a logit."""
    artifact = read_artifact("landmarks")
    session = onnxruntime.InferenceSession(artifact.model)
    settings = artifact.network_input

    def look(matrix, flip=False):
        crop = aligned_crop(photo, matrix, settings.size)
        # Rounded once: what an image in doubt shows may hang on the last digit.
        scaled = (crop - 255 * np.array(settings.mean)) / (255 * np.array(settings.std))
        pixels = scaled.transpose(2, 0, 1)[None]
        pixels = pixels[..., ::-1] if flip else pixels
        output = session.run(None, {"images": pixels.astype(np.float32)})[0][0].astype(float)
        points = output[:10].reshape(5, 2)
        if flip:
            points = np.c_[1 - points[:, 0], points[:, 1]][[1, 0, 2, 4, 3]]
        return (np.c_[points, np.ones(5)] @ matrix.T)[:, :2], output[10]

    return look


def _plain_looks(look, matrix, count, flip=False):
    """Points of each look and logits, each look being at what the one before found."""
    found = []
    for _ in range(count):
        found.append(look(matrix, flip))
        matrix = similarity_to_canonical(found[-1][0][None])[0] @ widen_matrix(1.4)
    points, logits = zip(*found, strict=True)
    return np.array(points), np.array(logits)


def test_the_face_score_is_that_of_both_looks(portrait):
    """Against plain onnxruntime: the mean of the two logits, as a probability."""
    look = _plain_look(portrait)
    landmarks, scores = FaceAligner().find_landmarks([portrait])
    points, logits = _plain_looks(look, np.diag([160.0, 160.0, 1.0]), 2)
    np.testing.assert_allclose(landmarks[0], points[1], atol=1e-3)
    assert np.log(scores[0] / (1 - scores[0])) == pytest.approx(logits.mean())
    assert scores[0] > 0.99


def _plainly_found_again(look, side):
    """Mean of what is found in a square of an image turned to either side, by its likelihood."""
    found = []
    for degrees in (-30, 0, 30):
        square = np.diag([side, side, 1.0])
        found.append(_plain_looks(look, square @ turn_matrix(degrees), 3))
    weights = np.exp([logits.mean() for _, logits in found])
    return np.average([points[-1] for points, _ in found], axis=0, weights=weights)


def test_a_face_in_doubt_is_asked_and_looked_for_again(portrait):
    """Against plain onnxruntime: six ways of three looks each; three for the landmarks."""
    masked = portrait.copy()
    masked[42:54] = 0
    look = _plain_look(masked)
    whole = np.diag([160.0, 160.0, 1.0])
    assert abs(_plain_looks(look, whole, 2)[1].mean()) < np.log(99)
    expected = np.mean(
        [
            _plain_looks(look, whole @ widen_matrix(size), 3, flip)[1].mean()
            for size in (1.0, 0.8, 1.25)
            for flip in (False, True)
        ]
    )
    landmarks, scores = FaceAligner().find_landmarks([portrait, masked])
    assert np.log(scores[1] / (1 - scores[1])) == pytest.approx(expected, abs=0.15)
    np.testing.assert_allclose(landmarks[1], _plainly_found_again(look, 160.0), atol=0.01)
    assert scores[1] > read_artifact("landmarks").manifest["min_face_score"]
    # Others in the batch are not changed by it.
    alone, _ = FaceAligner().find_landmarks([portrait])
    np.testing.assert_allclose(landmarks[0], alone[0], atol=1e-3)


def test_landmarks_that_the_second_look_moves_far_are_looked_for_again(portrait):
    """Those of a face beyond doubt whose head lies to one side, against plain onnxruntime."""
    photo = np.asarray(Image.fromarray(portrait).rotate(-38, Image.Resampling.BICUBIC))
    look = _plain_look(photo)
    points, logits = _plain_looks(look, np.diag([160.0, 160.0, 1.0]), 2)
    side = np.linalg.norm(similarity_to_canonical(points[1][None])[0, :2, 0])
    assert np.linalg.norm(points[1] - points[0], axis=1).mean() > 0.04 * side
    assert logits.mean() > np.log(99)
    landmarks, scores = FaceAligner().find_landmarks([photo])
    assert np.log(scores[0] / (1 - scores[0])) == pytest.approx(logits.mean(), abs=1e-3)
    np.testing.assert_allclose(landmarks[0], _plainly_found_again(look, 160.0), atol=0.01)


def test_landmarks_turn_with_the_photo(portrait):
    """Within 0.02 of the canonical crop's side, up to 60 degrees; two looks miss by 0.18 there."""
    upright = FaceAligner().find_landmarks([portrait])[0][0]
    for degrees in (-60, -50, -40, -30, 30, 40, 50, 60):
        photo = np.asarray(Image.fromarray(portrait).rotate(degrees, Image.Resampling.BICUBIC))
        found = FaceAligner().find_landmarks([photo])[0][0]
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        expected = (upright - 80) @ np.array([[cosine, -sine], [sine, cosine]]) + 80
        side = np.linalg.norm(similarity_to_canonical(expected[None])[0, :2, 0])
        assert np.linalg.norm(found - expected, axis=1).mean() < 0.02 * side


def test_alignment_undoes_turning_and_scaling(portrait):
    """Wherever the face lies in the crop, the canonical crop shows it the same way."""
    aligner = FaceAligner()
    landmarks, scores = aligner.find_landmarks([portrait])
    assert scores[0] > 0.9
    canvas = Image.new("RGB", (320, 320))
    canvas.paste(Image.fromarray(portrait).rotate(12, Image.Resampling.BICUBIC), (70, 90))
    turned, _ = aligner.find_landmarks([np.asarray(canvas)[70:270, 60:260]])
    angle = np.deg2rad(-12)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = (landmarks[0] - 80) @ rotation.T + 80 + [10, 20]
    eye_distance = np.linalg.norm(landmarks[0, 0] - landmarks[0, 1])
    error = np.linalg.norm(turned[0] - expected, axis=1).mean()
    assert error < 0.15 * eye_distance


def test_aligned_crops_put_the_eyes_where_the_template_has_them(portrait):
    crop = FaceAligner(size=224).transform([portrait])
    again, _ = FaceAligner().find_landmarks(crop)
    np.testing.assert_allclose(again[0] / 224, CANONICAL_LANDMARKS, atol=0.08)


def test_a_changed_limit_of_the_face_score_counts_at_the_next_call(portrait, nothing):
    embedder = FaceEmbedder("small")
    for limit, lost in [("auto", True), (0, False), (1, True)]:
        rows = embedder.set_params(min_face_score=limit).transform([portrait, nothing])
        assert np.isnan(rows[1]).any() == lost
