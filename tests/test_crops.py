"""Crops of photos where they are turned, shrunk, or at the edge of what is cut out."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sfpose.geometry import squares_around, widen_matrix
from sfpose.preprocessing import MAX_PIXELS, aligned_crop, decode_image, iterate_images

QUARTER = np.array([[0.0, -1, 1], [1, 0, 0], [0, 0, 1]])


def _square(side, left, top):
    return np.array([[side, 0, left], [0, side, top], [0, 0, 1.0]])


@pytest.mark.parametrize("side", [60, 150, 290])
def test_a_crop_turned_by_quarters_is_the_crop_turned(side):
    """Also where it shrinks: fine stripes become grey, whichever way they run."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    crop = aligned_crop(photo, _square(side, 4, 5), 50).astype(int)
    turned = _square(side, 4, 5)
    for quarters in range(1, 4):
        turned = turned @ QUARTER
        found = aligned_crop(photo, turned, 50).astype(int)
        # The unit square's first axis runs down after a quarter to the right.
        np.testing.assert_allclose(found, np.rot90(crop, quarters), atol=2)


@pytest.mark.parametrize("degrees", [0, 45, 90, 200])
@pytest.mark.parametrize("step", [1.7, 2.0, 2.3, 4.0])
def test_stripes_that_a_crop_is_too_small_for_become_grey(step, degrees):
    photo = np.zeros((400, 400, 3), np.uint8)
    photo[:, ::2] = 255
    angle, side = np.radians(degrees), 60 * step
    turn = side * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    # Half a pixel aside: each place that is looked at is the middle of a stripe.
    matrix[:2, 2] = [200.5, 200.5] - turn @ [0.5, 0.5]
    assert aligned_crop(photo, matrix, 60).std() < 50


def test_a_crop_that_grows_is_opencvs_up_to_its_edges(opencv_crop):
    """The first and last pixels lie between one that is in the square and one that is not."""
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for left, top in ((20.1, 30.2), (40.9, 10.95), (20.7, 30.7), (33.0, 44.0)):
        matrix = _square(9.1, left, top)
        found = aligned_crop(photo, matrix, 40) / 255
        np.testing.assert_allclose(found, opencv_crop(photo, matrix, 40), atol=0.02)


def test_a_crop_of_less_than_a_pixel_of_a_line_is_drawn():
    """What is left of a photo of one row, where the square is many times as large."""
    row = np.full((1, 40, 3), 200, np.uint8)
    crop = aligned_crop(row, _square(4000, -1980, -2000), 20)
    assert crop.shape == (20, 20, 3)
    column = aligned_crop(np.full((40, 1, 3), 200, np.uint8), _square(4000, -2000, -1980), 20)
    assert column.shape == (20, 20, 3)


def test_a_square_lies_about_the_middle_of_its_box():
    boxes = np.array([[10.0, 20, 30, 60], [0, 0, 90, 30]])
    for scale in (0.5, 1.0, 1.4):
        for box, matrix in zip(boxes, squares_around(boxes, scale), strict=True):
            corners = (matrix @ np.array([[0, 1], [0, 1], [1, 1]]))[:2]
            np.testing.assert_allclose(corners.mean(1), (box[:2] + box[2:]) / 2)
            np.testing.assert_allclose(np.diff(corners)[:, 0], scale * (box[2:] - box[:2]).max())


@pytest.mark.parametrize("scale", [0, -1.4, float("nan")])
def test_a_square_of_no_width_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale > 0; got {scale}"):
        widen_matrix(scale)


def test_as_many_pixels_as_are_allowed_are_decoded(monkeypatch):
    """A picture of exactly so many, and one of a row more."""
    assert MAX_PIXELS == 64_000_000
    monkeypatch.setattr("sfpose.preprocessing.MAX_PIXELS", 40 * 30)
    for height, fits in ((30, True), (31, False)):
        file = io.BytesIO()
        Image.new("RGB", (40, height)).save(file, "PNG")
        file.seek(0)
        if fits:
            assert decode_image(file, "a.png").shape == (30, 40, 3)
        else:
            with pytest.raises(ValueError, match="at most 1200 pixels; got 40 x 31"):
                decode_image(file, "a.png")


def test_floats_are_no_eight_bits():
    for mode in ("F", "I", "I;16"):
        with pytest.raises(ValueError, match="must have 8 bits a channel"):
            list(iterate_images([Image.new(mode, (5, 4))]))


def test_a_missing_file_stays_a_missing_file(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(FileNotFoundError, match="image 1: an image path must name a file"):
        list(iterate_images([image, tmp_path / "none.png"]))


def test_shrinking_keeps_what_is_smooth_in_its_place():
    """A smooth photo, drawn four times as small, is that photo at the middles of the pixels."""
    noise = np.random.default_rng(0).uniform(0, 255, (320, 320))
    smooth = ndimage.gaussian_filter(noise, 12)
    smooth = 127 + (smooth - smooth.mean()) * 40 / smooth.std()
    photo = np.repeat(np.uint8(np.clip(smooth, 0, 255))[..., None], 3, axis=2)
    crop = aligned_crop(photo, _square(240, 31.3, 42.7), 60)[..., 0]
    steps = (np.arange(60) + 0.5) * 4
    places = np.meshgrid(42.7 + steps - 0.5, 31.3 + steps - 0.5, indexing="ij")
    expected = ndimage.map_coordinates(photo[..., 0].astype(float), places, order=1)
    assert np.abs(crop - expected).mean() < 1


@pytest.mark.parametrize("size", [5, 10, 20])
def test_a_square_that_just_misses_the_image_is_black(size):
    """Of 10 x 10 pixels, past each side by steps of one: at no place is there nothing to cut."""
    photo = np.full((40, 60, 3), 255, np.uint8)
    for past in range(9):
        for left, top in ((-10 - past, 9), (60 + past, 9), (9, -10 - past), (9, 40 + past)):
            assert not aligned_crop(photo, _square(10, left, top), size).any()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(320, 100), (100, 320)])
def test_a_long_photo_shrinks_as_much_either_way(shape, axis):
    """Waves of six pixels of the crop, of a photo that leaves most of the square black."""
    wave = 127 + 90 * np.sin(2 * np.pi * (np.arange(shape[axis]) + 0.5) / 24)
    photo = np.uint8(np.rint(np.broadcast_to(wave[:, None] if axis == 0 else wave, shape)))
    crop = aligned_crop(np.repeat(photo[..., None], 3, 2), _square(320, 0, 0), 80)[..., 0]
    shown = crop[: shape[0] // 4, : shape[1] // 4]
    places = (np.arange(shown.shape[axis]) + 0.5) * 4
    # Means over about eight pixels, as the triangle of the filter has them, lessen the waves.
    weights = np.bartlett(9)[1:-1] / 4
    softened = np.convolve(np.pad(wave - 127, 3, mode="reflect"), weights, mode="valid")
    expected = 127 + np.interp(places - 0.5, np.arange(len(wave)), softened)
    expected = expected[:, None] if axis == 0 else expected
    assert np.abs(shown - expected)[1:-1, 1:-1].max() < 6
    assert not crop[shape[0] // 4 + 1 :].any()
    assert not crop[:, shape[1] // 4 + 1 :].any()
