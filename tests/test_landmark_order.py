"""Landmarks of a detector in another order than alignment needs are refused, real faces never."""

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.detectors import LibFaceDetection, YuNet, detect_faces
from sfpose.protocols import PoseFolder

ORDERS = {
    "eyes exchanged": [1, 0, 2, 3, 4],
    "mouth exchanged": [0, 1, 2, 4, 3],
    "both exchanged": [1, 0, 2, 4, 3],
}


def _with_landmarks(points):
    return lambda photo: ([(0, 0, 160, 160)], [points])


@pytest.mark.parametrize("degrees", [0, 40, 90, 180, 270])
@pytest.mark.parametrize("order", ORDERS)
def test_landmarks_in_another_order_are_refused_however_the_head_lies(portrait, order, degrees):
    upright = FaceAligner().find_landmarks([portrait])[0][0]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    points = (upright - 80) @ np.array([[cosine, -sine], [sine, cosine]]) + 80
    _, found = detect_faces(_with_landmarks(points), portrait)
    np.testing.assert_array_equal(found, points[None])
    with pytest.raises(ValueError, match="landmarks must be the eye on the image's left, the oth"):
        detect_faces(_with_landmarks(points[ORDERS[order]]), portrait)


def test_a_photo_with_exchanged_eyes_is_named(portrait, tmp_path):
    path = tmp_path / "portrait.png"
    Image.fromarray(portrait).save(path)
    points = FaceAligner().find_landmarks([portrait])[0][0]
    answers = iter([points, points[ORDERS["eyes exchanged"]]])
    aligner = FaceAligner(detector=lambda photo: _with_landmarks(next(answers))(photo))
    with pytest.raises(ValueError, match=r"image 1 \('.*portrait\.png'\): landmarks must be"):
        aligner.align([path] * 2)


def test_exchanged_eyes_would_make_another_person_of_one(portrait):
    """Why they are refused: aligned by them, a photo is far from itself."""
    from sfpose.geometry import similarity_to_canonical
    from sfpose.preprocessing import aligned_crop

    points = FaceAligner().find_landmarks([portrait])[0]
    crops = [
        aligned_crop(portrait, similarity_to_canonical(each)[0], 113)
        for each in (points, points[:, ORDERS["eyes exchanged"]])
    ]
    rows = FaceEmbedder(align="done").transform(crops)
    assert not TemplateVerifier().verify(rows[0], rows[1]).match


def test_no_face_of_fairface_is_refused(shared_data):
    """45,000 faces from frontal to profile, with the landmarks that YuNet found."""
    with np.load(shared_data / "fairface_teacher.npz") as taught:
        points = taught["landmarks"][taught["score"] > 0].astype(float)
    boxes = np.tile([0.0, 0, 128, 128], (len(points), 1))
    photo = np.zeros((128, 128, 3), np.uint8)
    assert len(detect_faces(lambda photo: (boxes, points), photo)[1]) == len(points) > 40_000
    for order in ORDERS.values():
        # A profile's eyes lie so close together that nobody can tell.
        refused = 0
        for face in points[::100]:
            try:
                detect_faces(_with_landmarks(face[order]), photo)
            except ValueError:
                refused += 1
        assert refused > 0.8 * len(points[::100])


@pytest.mark.parametrize("data", ["cfp_dev.zip", "kdef_pose.zip"])
def test_no_profile_is_refused(shared_data, data):
    """By the landmarks of the network that ships."""
    photos = PoseFolder(shared_data / data)
    rows = photos.rows("profile")[::20]
    images = [photos.images[int(row)] for row in rows]
    points, _ = FaceAligner().find_landmarks(images)
    for image, face in zip(images, points, strict=True):
        box = [(0, 0, image.shape[1], image.shape[0])]
        found = detect_faces(lambda photo, box=box, face=face: (box, face[None]), image)[1]
        np.testing.assert_array_equal(found, face[None])


class _Rectangle:
    """As dlib's: no sequence, no number."""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"boxes": [(0, 0, 9, 9)]}, "got a dict"),
        ([_Rectangle()], "got a list of _Rectangle"),
        ([{"box": (0, 0, 9, 9)}], "got a list of dict"),
        (None, "got a NoneType of shape"),
        ([(0, 0, 9, 9), (1, 2)], "got a list of tuple"),
    ],
)
def test_an_answer_of_another_kind_is_told_the_rule(portrait, answer, message):
    rule = r"image 0: a detector must give boxes of shape \(n, 4\): left, top, .* (n, 5, 2\); "
    rule = rule.replace("(n, 5", r"\(n, 5")
    with pytest.raises(ValueError, match=rule + message):
        FaceAligner(detector=lambda photo: answer).align([portrait])


def test_landmarks_of_another_kind_are_told_the_rule(portrait):
    with pytest.raises(ValueError, match=r"landmarks of shape \(1, 5, 2\).*got a list of dict"):
        detect_faces(lambda photo: ([(0, 0, 9, 9)], [{"nose": (1, 2)}]), portrait)


@pytest.mark.parametrize("detector", [LibFaceDetection, YuNet])
def test_a_class_is_no_detector(portrait, detector):
    with pytest.raises(ValueError, match=f"got the class {detector.__name__}: make an instance"):
        FaceAligner(detector=detector).align([portrait])
