"""What the landmark network is taught: targets, non-faces, turned faces."""

import numpy as np
import pytest
from scipy.spatial import procrustes

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")


from sfpose.pose import FACE_POINTS  # noqa: E402
from sfpose.runtime.artifact import read_artifact  # noqa: E402
from sfpose.runtime.session import OnnxModel  # noqa: E402
from sfpose.training.faces import TaughtFaces  # noqa: E402
from sfpose.training.landmarks import LandmarkObjective, LandmarkSource, train_landmarks  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage  # noqa: E402
from sfpose.training.turning import FaceTurner  # noqa: E402


def test_landmark_targets_are_where_the_crop_shows_the_landmarks(noise_faces):
    """Draw each landmark as a coloured dot and find it again in the augmented crop."""
    faces = noise_faces
    photos = np.zeros_like(faces.photos)
    whole = np.round(faces.landmarks).astype(int)
    for row in range(len(photos)):
        x, y = whole[row, 2]
        photos[row, y - 1 : y + 2, x - 1 : x + 2] = 255
    faces = TaughtFaces(
        **{**vars(faces), "photos": photos, "landmarks": (whole + 0.5).astype(np.float32)}
    )
    torch.manual_seed(0)
    source = LandmarkSource(faces, non_faces=0.0)
    crops, targets = source.batch(0, 0, 18, 64)
    seen = 0
    for crop, target in zip(crops, targets, strict=True):
        nose = target[4:6] * 64
        if not bool(((nose > 4) & (nose < 60)).all()):
            continue
        weights = (crop.mean(0) - crop.mean(0).min()) ** 3
        steps = torch.arange(64) + 0.5
        found = (
            torch.stack([(weights.sum(0) * steps).sum(), (weights.sum(1) * steps).sum()])
            / weights.sum()
        )
        if (found - nose).norm() < 2.5:
            seen += 1
    assert seen >= 12


def test_non_faces_teach_the_score_and_no_landmark(noise_faces):
    torch.manual_seed(0)
    crops, targets = LandmarkSource(noise_faces, non_faces=0.5).batch(0, 0, 10, 64)
    assert crops.shape == (10, 3, 64, 64)
    none = targets[:, 10] == 0
    assert none.sum() == 5
    assert targets[none, :10].isnan().all()
    assert targets[~none].isfinite().all()
    outputs = targets.clone()
    outputs[none, :10] = 0.3
    outputs[:, 10] = torch.where(targets[:, 10] > 0, 20.0, -20.0)
    loss, measured = LandmarkObjective()(outputs, targets)
    assert float(loss) < 1e-6
    assert measured["face_accuracy"] == 1


def test_the_face_score_is_taught_without_moving_a_landmark(tmp_path, noise_faces):
    settings = LoopSettings(stages=(Stage(64, 24, 8),), optimizer="muon", learning_rate=1e-3)
    taught = train_landmarks(
        noise_faces,
        tmp_path / "score.pt",
        start="landmarks",
        only_score=True,
        settings=settings,
        progress=False,
    )
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)
    before, after = (
        OnnxModel(artifact.model).run(images) for artifact in (read_artifact("landmarks"), taught)
    )
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert np.abs(before[:, 10] - after[:, 10]).min() > 1e-4
    assert (
        taught.manifest["min_face_score"] == read_artifact("landmarks").manifest["min_face_score"]
    )


def test_turned_faces_teach_landmarks_that_are_known(shared_data, noise_faces):
    """Beside the drawn points of the generic face there is nothing to learn from a detector."""
    surface = shared_data.parent / "models" / "canonical_face.safetensors"
    turner = FaceTurner(surface, size=96, margin=1.4, yaws=(60,), pitches=(0,))
    source = LandmarkSource(noise_faces, turner=turner, turned=0, non_faces=0)
    torch.manual_seed(0)
    _, targets = source.batch(0, 0, 18, 64)
    angle = np.deg2rad(60)
    cosine, sine = np.cos(angle), np.sin(angle)
    # sfpose.pose has z away from the viewer; up to a similarity these are the points.
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    seen = (FACE_POINTS @ turn.T)[:, :2]
    found = 0
    for points in targets[12:, :10].reshape(-1, 5, 2).numpy().astype(float):
        both = (points, (points * [-1, 1])[[1, 0, 2, 4, 3]])
        found += min(procrustes(seen, one)[2] for one in both) < 0.01
    assert 0 < found < 6


def test_landmarks_start_from_landmarks_alone(tmp_path, noise_faces):
    with pytest.raises(ValueError, match="start must be a landmark network; no layer of 'plain'"):
        train_landmarks(noise_faces, tmp_path / "a.pt", start="plain", progress=False)
