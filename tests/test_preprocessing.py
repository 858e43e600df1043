"""Decoding and crop geometry against hand-made cases and OpenCV's arithmetic."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin
from scipy import sparse

from sfpose._batches import batched, name_image
from sfpose.geometry import (
    CANONICAL_LANDMARKS,
    similarity_to_canonical,
    squares_around,
    turn_matrix,
    widen_matrix,
)
from sfpose.preprocessing import (
    aligned_crop,
    as_network_input,
    count_images,
    decode_image,
    iterate_images,
    loose_crop,
    read_image,
)

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)


def _gradient(height, width):
    """An image whose red is x and whose green is y, so that geometry can be read off."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def test_every_kind_of_image_gives_the_same_pixels(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    for images in ([PHOTO], PHOTO[None], [Image.fromarray(PHOTO)], [path], [str(path)]):
        (decoded,) = iterate_images(images)
        np.testing.assert_array_equal(decoded, PHOTO)
    mixed = list(iterate_images([path, PHOTO, Image.fromarray(PHOTO)]))
    assert len(mixed) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image; got none"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one image; got none"),
        (PHOTO, "wrap a single image in a list"),
        ("photo.jpg", "got one str"),
        (
            [np.zeros((113, 113))],
            r"image 0: images must be uint8 RGB of shape \(H, W, 3\); got float64",
        ),
        (
            [PHOTO, np.ma.masked_array(PHOTO, mask=PHOTO.max() == PHOTO)],
            "image 1: images must have no masked pixels",
        ),
        ([PHOTO, PHOTO[..., 0]], r"image 1: images must be uint8 RGB .* of shape \(48, 40\)"),
        ([np.zeros((0, 5, 3), np.uint8)], "at least one pixel"),
        ([np.zeros((5, 6, 4), np.uint8)], r"image 0: .* of shape \(H, W, 3\); .* \(5, 6, 4\)"),
        (sparse.csr_array(np.eye(3)), "got a sparse csr_array"),
        (np.zeros((2, 5, 5, 3), np.float32), "got float32"),
        ([12], "an image must be .*; got int"),
        ({"a.jpg", "b.jpg"}, "got a set, which has no order: give a list"),
        (frozenset(["a.jpg"]), "got a frozenset, which has no order: give a list"),
        ({"ann": PHOTO}, r"got a dict, which goes by its keys: give list\(images.values\(\)\)"),
        ((PHOTO for _ in range(2)), r"got a generator: make a list of it by list\(\.\.\.\)$"),
        (map(str, ["a.jpg"]), r"got a map: make a list of it by list\(\.\.\.\)$"),
        (Image.fromarray(PHOTO), "got one Image: wrap a single image in a list"),
        (PHOTO[..., 0], r"got uint8 of shape \(48, 40\)$"),
    ],
)
def test_what_is_no_collection_of_images_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        list(iterate_images(images))


def test_one_column_of_a_table_is_a_collection_of_images_and_the_table_is_none(tmp_path):
    pandas = pytest.importorskip("pandas", reason="tables need pandas")
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    # Labels as they are left when others were dropped.
    table = pandas.DataFrame({"path": [str(path)] * 2, "who": ["ann", "bo"]}, index=[7, 3])
    with pytest.raises(ValueError, match=r"got a DataFrame, .* names of its columns: give one col"):
        list(iterate_images(table))
    for column in (table["path"], table["path"].to_numpy(), tuple(table["path"])):
        assert [decoded.shape for decoded in iterate_images(column)] == [PHOTO.shape] * 2
    assert name_image(table["path"], 1) == f"image 1 ({str(path)!r})"


def test_a_folder_is_told_from_what_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image 1: .* must name a file; .* is a folder"):
        list(iterate_images([PHOTO, tmp_path]))
    with pytest.raises(FileNotFoundError, match=r"must name a file; .*'nobody' does not exist"):
        read_image("nobody")


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image 0: .*nowhere\.jpg"):
        list(iterate_images([tmp_path / "nowhere.jpg"]))
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"whole JPEG, PNG or WebP; .*text\.jpg"):
        read_image(text)
    whole = io.BytesIO()
    Image.fromarray(np.repeat(PHOTO, 8, 0)).save(whole, "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.getvalue()[:2000])
    with pytest.raises(ValueError, match="whole JPEG, PNG or WebP"):
        read_image(cut)
    gif = tmp_path / "other.gif"
    Image.fromarray(PHOTO).save(gif)
    with pytest.raises(ValueError, match="whole JPEG, PNG or WebP"):
        read_image(gif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = Image.fromarray(_gradient(24, 40))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.asarray(upright))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "XMP"])
def test_sound_files_are_turned_as_pillow_turns_them(orientation, kind):
    """Which writes the other tags anew as well, as is not to be done here."""
    file, options = io.BytesIO(), {}
    if kind == "XMP":
        note = f'<rdf:Description tiff:Orientation="{orientation}"/>'
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", note)
    else:
        options["exif"] = exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "maker"
    Image.fromarray(PHOTO).save(file, "PNG" if kind == "XMP" else kind, **options)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        assert (expected.shape == PHOTO.shape) == (orientation not in (5, 6, 7, 8))
        np.testing.assert_array_equal(decode_image(file, "photo"), expected)
    with Image.open(file) as image:
        np.testing.assert_array_equal(next(iterate_images([image])), expected)


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError, None), (MemoryError, MemoryError), (UserWarning, ValueError)]
)
def test_a_photo_whose_orientation_cannot_be_read_is_taken_as_it_lies(monkeypatch, error, raised):
    """Not for want of memory, nor where a caller makes an error of a warning."""

    def odd(image):
        raise error("odd")

    monkeypatch.setattr(Image.Image, "getexif", odd)
    with pytest.raises(raised) if raised else contextlib.nullcontext():
        np.testing.assert_array_equal(next(iterate_images([Image.fromarray(PHOTO)])), PHOTO)


def test_sixteen_bits_animation_and_bombs_are_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        read_image(tmp_path / "deep.png")
    frames = [Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (0, 255)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="still image"):
        read_image(tmp_path / "moving.webp")
    monkeypatch.setattr("sfpose.preprocessing.MAX_PIXELS", 1000)
    Image.fromarray(PHOTO).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="at most 1000 pixels; got 40 x 48"):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    picture = Image.fromarray(_gradient(48, 40) * 5).convert(mode)
    if "A" in mode:
        picture.putalpha(Image.fromarray(PHOTO[..., 0]))
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture.save(path, quality=100)
    decoded = read_image(path)
    # What is seen through does not count; JPEG rounds.
    expected = np.asarray(picture.convert("RGB")).astype(int)
    np.testing.assert_allclose(decoded.astype(int), expected, atol=4 if mode == "CMYK" else 0)
    assert np.ptp(decoded) > 150


def test_loose_crop_is_the_papers_centre():
    # 256 x 256: the shorter side needs no scaling, the centre is 16 ... 240.
    crop = loose_crop(_gradient(256, 256), 224).astype(int)
    np.testing.assert_allclose(crop[100, :, 0], np.arange(16, 240), atol=1)
    np.testing.assert_allclose(crop[:, 100, 1], np.arange(16, 240), atol=1)
    small = loose_crop(_gradient(256, 200), 113).astype(float)
    expected = 100 + (np.arange(113) + 0.5 - 56.5) * (200 * 224 / 256 / 113) - 0.5
    np.testing.assert_allclose(small[56, :, 0], expected, atol=1.5)


def test_aligned_crop_follows_its_matrix():
    angle = np.deg2rad(20)
    turn = 60 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = np.array([90, 80]) - turn @ [0.5, 0.5]
    crop = aligned_crop(_gradient(160, 180), matrix, 64)
    for x, y in [(3, 5), (32, 32), (60, 11)]:
        where = matrix @ [(x + 0.5) / 64, (y + 0.5) / 64, 1] - 0.5
        np.testing.assert_allclose(crop[y, x, :2], where[:2], atol=1.01)


def test_a_crop_that_shrinks_does_not_alias():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = aligned_crop(stripes, np.diag([512, 512, 1.0]), 64)
    assert np.abs(crop[4:-4, 4:-4].astype(int) - 127).max() <= 2


def test_a_square_outside_of_the_image_is_black():
    matrix = np.array([[10, 0, 500], [0, 10, 500], [0, 0, 1.0]])
    outside = aligned_crop(PHOTO, matrix, 16)
    assert outside.shape == (16, 16, 3)
    assert not outside.any()
    # From -1 to 2 pixels in both directions, ten pixels of the crop for each.
    half = aligned_crop(np.full((20, 20, 3), 255, np.uint8), widen_matrix(3), 30)
    expected = np.zeros((30, 30, 3), np.uint8)
    expected[10:, 10:] = 255
    np.testing.assert_array_equal(half, expected)


@pytest.mark.parametrize("degrees", [-90, -30, 0, 45, 200])
def test_turning_is_opencvs(degrees):
    cv2 = pytest.importorskip("cv2")
    # OpenCV turns the other way.
    expected = cv2.getRotationMatrix2D((0.5, 0.5), -degrees, 1)
    np.testing.assert_allclose(turn_matrix(degrees)[:2], expected, atol=1e-12)


@given(
    scale=st.floats(2, 400),
    angle=st.floats(-3.1, 3.1),
    x=st.floats(-100, 500),
    y=st.floats(-100, 500),
)
def test_alignment_recovers_any_similarity(scale, angle, x, y):
    matrix = np.array(
        [
            [scale * np.cos(angle), -scale * np.sin(angle), x],
            [scale * np.sin(angle), scale * np.cos(angle), y],
            [0, 0, 1],
        ]
    )
    points = np.c_[CANONICAL_LANDMARKS, np.ones(5)] @ matrix.T
    found = similarity_to_canonical(points[None, :, :2])[0]
    np.testing.assert_allclose(found, matrix, rtol=1e-9, atol=1e-7)


def test_alignment_is_the_least_squares_similarity():
    rng = np.random.default_rng(1)
    points = CANONICAL_LANDMARKS * 90 + rng.normal(0, 4, (5, 2))
    rows = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in points]
    a, b, c, d = np.linalg.lstsq(np.concatenate(rows), CANONICAL_LANDMARKS.ravel(), rcond=None)[0]
    to_crop = np.array([[a, -b, c], [b, a, d], [0, 0, 1]])
    expected = np.linalg.inv(to_crop)
    np.testing.assert_allclose(similarity_to_canonical(points[None])[0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((5, 2)), r"shape \(n, 5, 2\); got \(5, 2\)"),
        (np.full((1, 5, 2), np.nan), "must be finite"),
        (np.ones((1, 5, 2)), "must tell its size"),
    ],
)
def test_landmarks_that_align_nothing_are_refused(landmarks, message):
    with pytest.raises(ValueError, match=message):
        similarity_to_canonical(landmarks)


def test_the_square_around_an_image_has_its_centre_and_its_longer_side():
    (matrix,) = squares_around([(0, 0, 60, 100)])
    np.testing.assert_allclose(matrix @ [0.5, 0.5, 1], [30, 50, 1])
    np.testing.assert_allclose(matrix @ [0, 0, 1], [-20, 0, 1])


def test_network_input_is_standardised_and_channels_first():
    batch = as_network_input([PHOTO, PHOTO], (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    expected = (PHOTO / 255.0 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]
    np.testing.assert_allclose(batch[1], expected.transpose(2, 0, 1), atol=1e-5)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous


@given(count=st.integers(0, 20), size=st.integers(1, 7))
@settings(max_examples=30)
def test_batches_keep_order_and_lose_nothing(count, size):
    images = [np.full((1, 1, 3), n, np.uint8) for n in range(count)]
    batches = list(batched(images, size))
    assert [int(i[0, 0, 0]) for batch in batches for i in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])


def test_a_batch_of_large_photos_is_a_small_one():
    """Each of 2 million pixels: the fourth makes eight."""
    photo = np.zeros((1000, 2000, 3), np.uint8)
    assert [len(batch) for batch in batched([photo] * 9, 32)] == [4, 4, 1]
    assert [len(batch) for batch in batched([photo] * 5, 3)] == [3, 2]
    assert [len(batch) for batch in batched([PHOTO] * 40, 32)] == [32, 8]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_batch_size_must_be_a_positive_whole_number(size):
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1"):
        list(batched([PHOTO], size))


def test_count_images_counts():
    assert count_images([PHOTO] * 3) == 3
    assert count_images(np.zeros((2, 5, 5, 3), np.uint8)) == 2


@pytest.mark.parametrize(
    "single", [np.array("a.png"), b"bytes", memoryview(np.zeros((2, 2, 3), np.uint8))]
)
def test_what_is_no_collection_of_images_is_told_so(single):
    with pytest.raises(ValueError, match="images must be a list of images or an array"):
        list(iterate_images(single))


def test_a_name_that_no_file_can_have_is_told_with_the_number_of_the_image():
    with pytest.raises(FileNotFoundError, match=r"image 1: .*must name a file"):
        list(iterate_images([np.zeros((2, 2, 3), np.uint8), "a" * 300 + ".png"]))


def test_colours_that_are_multiplied_by_alpha_are_those_before():
    straight = Image.new("LA", (4, 4), (200, 128))
    (plain,) = iterate_images([straight])
    (multiplied,) = iterate_images([straight.convert("La")])
    np.testing.assert_allclose(multiplied.astype(int), plain.astype(int), atol=1)


@pytest.mark.parametrize(("x", "y"), [(0, 1), (1, 0), (0.25, 0.5)])
def test_a_place_is_told_from_the_left_and_from_the_top(x, y):
    """Half of the shorter side of 60 x 100 pixels: 70 are left over in width, 30 in height."""
    crop = loose_crop(_gradient(60, 100), 30, share=0.5, place=(x, y)).astype(int)
    np.testing.assert_allclose(crop[:, :, 0], np.arange(30) + np.full((30, 1), 70 * x), atol=1)
    np.testing.assert_allclose(crop[:, :, 1], np.arange(30)[:, None] + np.full(30, 30 * y), atol=1)


def test_arrays_of_objects_may_hold_images_of_several_sizes():
    images = np.empty(2, object)
    images[:] = [PHOTO, PHOTO[:5]]
    assert count_images(images) == 2
    for decoded, image in zip(iterate_images(images), images, strict=True):
        np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("kind", ["U", "T", "O"])
def test_arrays_may_hold_paths(tmp_path, kind):
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    if kind == "T":
        strings = pytest.importorskip("numpy.dtypes", reason="texts of any length need NumPy 2")
        kind = getattr(strings, "StringDType", str)()
    for decoded in iterate_images(np.array([str(path)] * 2, dtype=kind)):
        np.testing.assert_array_equal(decoded, PHOTO)


def test_want_of_memory_is_no_fault_of_the_image(tmp_path, monkeypatch):
    def full(image):
        raise MemoryError

    monkeypatch.setattr("sfpose.preprocessing.to_srgb", full)
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    with pytest.raises(MemoryError):
        list(iterate_images([tmp_path / "photo.png"]))
