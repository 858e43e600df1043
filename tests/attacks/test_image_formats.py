"""Images as cameras, phones and editors write them, against OpenCV and colour arithmetic."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from sfpose.preprocessing import decode_image, iterate_images

cv2 = pytest.importorskip("cv2", reason="OpenCV is the independent decoder")


@pytest.fixture(scope="module")
def photo(portrait):
    """Sides that no block of pixels divides."""
    return np.ascontiguousarray(portrait[:157, :143])


def _by_pillow(image, kind, mode=None, **options):
    buffer = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    (picture if mode is None else picture.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _by_opencv(image, suffix, *flags):
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), flags)
    assert done
    return data.tobytes()


def _ours(data):
    return decode_image(io.BytesIO(data), "picture")


def _answer(data):
    try:
        return _ours(data)
    except ValueError as error:
        return str(error)


def _theirs(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _sampling(name):
    return cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}", 0)


def _with_alpha(image):
    alpha = np.arange(image[..., 0].size, dtype=np.int64).reshape(image.shape[:2]) % 256
    return np.dstack([image, alpha.astype(np.uint8)])


KINDS = {
    "jpeg": lambda p: _by_pillow(p, "JPEG"),
    "jpeg of quality 5": lambda p: _by_pillow(p, "JPEG", quality=5),
    "progressive jpeg": lambda p: _by_pillow(p, "JPEG", progressive=True),
    "jpeg 4:4:4": lambda p: _by_opencv(p, ".jpg", *_sampling("444")),
    "jpeg 4:2:2": lambda p: _by_opencv(p, ".jpg", *_sampling("422")),
    "jpeg 4:4:0": lambda p: _by_opencv(p, ".jpg", *_sampling("440")),
    "jpeg 4:2:0": lambda p: _by_opencv(p, ".jpg", *_sampling("420")),
    "jpeg 4:1:1": lambda p: _by_opencv(p, ".jpg", *_sampling("411")),
    "jpeg with restarts": lambda p: _by_opencv(p, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "grey jpeg": lambda p: _by_pillow(p, "JPEG", "L"),
    "jpeg with a thumbnail's tail": lambda p: _by_pillow(p, "JPEG") + b"\0" * 999,
    "png": lambda p: _by_pillow(p, "PNG"),
    "grey png": lambda p: _by_pillow(p, "PNG", "L"),
    "black and white png": lambda p: _by_pillow(p, "PNG", "1"),
    "palette png": lambda p: _by_pillow(Image.fromarray(p).quantize(200), "PNG"),
    "palette of 16": lambda p: _by_pillow(Image.fromarray(p).quantize(16), "PNG", bits=4),
    "transparent palette": lambda p: _by_pillow(
        Image.fromarray(p).quantize(16), "PNG", transparency=3
    ),
    "half transparent palette": lambda p: _by_pillow(
        Image.fromarray(p).quantize(16), "PNG", transparency=bytes(range(0, 256, 16))
    ),
    "alpha png": lambda p: _by_pillow(_with_alpha(p), "PNG"),
    "grey alpha png": lambda p: _by_pillow(_with_alpha(p), "PNG", "LA"),
    "webp": lambda p: _by_pillow(p, "WEBP"),
    "lossless webp": lambda p: _by_pillow(p, "WEBP", lossless=True),
    "alpha webp": lambda p: _by_pillow(_with_alpha(p), "WEBP", lossless=True),
    "mpo": lambda p: _by_pillow(
        p, "MPO", save_all=True, append_images=[Image.fromarray(p).rotate(180)]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_opencv(photo, kind):
    if "411" in kind.replace(":", "") and not hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_411"):
        pytest.skip("this OpenCV cannot write 4:1:1")
    data = KINDS[kind](photo)
    # Both call libjpeg, of different makes: a step of rounding may lie between them.
    np.testing.assert_allclose(_ours(data).astype(int), _theirs(data), atol=1)


def test_cmyk_is_ink_on_white_as_for_opencv(photo):
    data = _by_pillow(photo, "JPEG", "CMYK", quality=95)
    np.testing.assert_allclose(_ours(data).astype(int), _theirs(data), atol=2)


# How a stored picture is turned upright, by the table of the EXIF standard.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_that_of_the_standard_and_of_opencv(photo, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _by_pillow(photo, kind, exif=exif)
    stored = _theirs(_by_pillow(photo, kind))
    np.testing.assert_allclose(_ours(data).astype(int), UPRIGHT[orientation](stored), atol=1)
    if kind == "JPEG":  # older releases of OpenCV turn no others
        np.testing.assert_allclose(_ours(data).astype(int), _theirs(data), atol=1)


def _with_tag(orientation, tag, kind, count, value):
    """EXIF of two tags, the second as some programs write it."""
    tags = {0x0112: (3, 1, struct.pack("<H", orientation)), tag: (kind, count, value)}
    table, behind = struct.pack("<H", len(tags)), b""
    for name, (kind, count, value) in sorted(tags.items()):
        table += struct.pack("<HHL", name, kind, count)
        if len(value) > 4:
            table += struct.pack("<L", 8 + 2 + 12 * len(tags) + 4 + len(behind))
            behind += value
        else:
            table += value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + table + b"\0" * 4 + behind


ODD_TAGS = {
    "width as byte": (0x0100, 1, 1, b"\x07"),
    "resolution as text": (0x011A, 2, 3, b"72\0"),
    "resolution that is no number": (0x011A, 11, 1, struct.pack("<f", np.nan)),
    "resolution as whole number": (0x011A, 3, 1, struct.pack("<H", 72)),
    "unit beyond its type": (0x0128, 4, 1, struct.pack("<L", 70_000)),
    "description as fraction": (0x010E, 5, 1, struct.pack("<LL", 1, 1)),
    "XMP as whole number": (0x02BC, 3, 1, struct.pack("<H", 999)),
    "place of more tags before the file": (0x8769, 9, 1, struct.pack("<l", -20)),
}


@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("tag", ODD_TAGS)
def test_a_photo_with_an_odd_tag_is_whole_and_turned_upright_as_by_opencv(photo, tag, orientation):
    data = _by_pillow(photo, "JPEG", exif=_with_tag(orientation, *ODD_TAGS[tag]))
    stored = _theirs(_by_pillow(photo, "JPEG"))
    np.testing.assert_allclose(_ours(data).astype(int), UPRIGHT[orientation](stored), atol=1)
    np.testing.assert_allclose(_ours(data).astype(int), _theirs(data), atol=1)


@pytest.mark.parametrize("exif", [b"XX*\0\x08\0\0\0", b"II*\0", b"\xff" * 40])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_whose_orientation_cannot_be_read_lies_as_for_opencv(photo, kind, exif):
    data = _by_pillow(photo, kind, exif=b"Exif\0\0" + exif)
    np.testing.assert_allclose(_ours(data).astype(int), _theirs(data), atol=1)


@pytest.mark.parametrize("channels", [0, slice(None)])
def test_sixteen_bits_a_channel_are_refused_and_not_cut_to_eight(photo, channels):
    deep = photo[..., ::-1][..., channels].astype(np.uint16) * 257
    data = cv2.imencode(".png", np.ascontiguousarray(deep))[1].tobytes()
    with pytest.raises(ValueError, match="8 bits a channel"):
        _ours(data)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ValueError, match="8 bits a channel"):
        next(iterate_images([image]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_tail_is_refused_or_changes_no_pixel(photo, kind):
    data = _by_pillow(photo, kind)
    whole = _ours(data)
    cuts = [*range(1, 40), *range(40, len(data), len(data) // 30)]
    answers = [_answer(data[:-cut]) for cut in cuts]
    refused = [answer for answer in answers if isinstance(answer, str)]
    for answer in answers:
        if not isinstance(answer, str):
            np.testing.assert_array_equal(answer, whole)
    assert all("must be a whole JPEG, PNG or WebP" in message for message in refused)
    assert len(refused) >= 28


# The primaries of Display P3, adapted to D50 (from the profile that phones embed).
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def _profile(primaries, gamma):
    """A matrix profile of version 2, as Adobe RGB or Display P3 are: ICC.1:2001-04."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz([0.9642, 1.0, 0.8249]),
        b"rXYZ": xyz(primaries[:, 0]),
        b"gXYZ": xyz(primaries[:, 1]),
        b"bXYZ": xyz(primaries[:, 2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _as_srgb(pixels, primaries, gamma):
    """The arithmetic of the profile in float64."""
    light = (pixels / 255.0) ** gamma
    light = np.clip(light @ (np.linalg.inv(SRGB) @ primaries).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("gamma", [1.8, 2.5])
@pytest.mark.parametrize("primaries", [DISPLAY_P3, SRGB], ids=["Display P3", "sRGB"])
def test_colours_with_a_profile_become_srgb(photo, kind, primaries, gamma):
    data = _by_pillow(photo, kind, lossless=True, icc_profile=_profile(primaries, gamma))
    expected = _as_srgb(photo, primaries, gamma)
    assert np.abs(expected - photo).max() > 10
    # Deep shadows: eight bits of a steep curve.
    light = photo.min(axis=2) > 24
    np.testing.assert_allclose(_ours(data)[light], expected[light], atol=2.5)


def test_a_profile_that_is_srgb_changes_no_pixel(photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(_ours(_by_pillow(photo, "PNG", icc_profile=profile)), photo)


@pytest.mark.parametrize("gamma", [None, 1.8])
def test_a_partly_transparent_palette_warns_nobody(photo, gamma, recwarn):
    profile = None if gamma is None else _profile(DISPLAY_P3, gamma)
    coloured = Image.fromarray(photo).quantize(16)
    seen = coloured.convert("RGB")
    data = _by_pillow(coloured, "PNG", transparency=bytes(range(0, 256, 16)), icc_profile=profile)
    decoded = [_ours(data)]
    with Image.open(io.BytesIO(data)) as image:
        decoded += iterate_images([image])
    expected = _ours(_by_pillow(seen, "PNG", icc_profile=profile))
    assert np.array_equal(expected, seen) == (gamma is None)
    for picture in decoded:
        np.testing.assert_array_equal(picture, expected)
    assert not recwarn.list


def test_grey_pixels_take_the_profile_of_their_colours(photo):
    data = _by_pillow(photo, "PNG", "L", icc_profile=_profile(DISPLAY_P3, 1.8))
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None].repeat(3, 2)
    light = grey[..., 0] > 24
    expected = _as_srgb(grey, DISPLAY_P3, 1.8)
    np.testing.assert_allclose(_ours(data)[light], expected[light], atol=2.5)


def test_alpha_and_orientation_go_with_a_profile(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _by_pillow(_with_alpha(photo), "PNG", exif=exif, icc_profile=_profile(DISPLAY_P3, 2.2))
    turned = np.rot90(_as_srgb(photo, DISPLAY_P3, 2.2), -1)
    light = np.rot90(photo.min(axis=2), -1) > 24
    np.testing.assert_allclose(_ours(data)[light], turned[light], atol=2.5)


def test_a_profile_of_other_colours_than_the_pixels_is_not_applied(photo):
    """Left behind by programs that convert pixels and keep the profile."""
    grey = _profile(SRGB, 1.8).replace(b"mntrRGB ", b"mntrGRAY")
    np.testing.assert_array_equal(_ours(_by_pillow(photo, "PNG", icc_profile=grey)), photo)


@pytest.mark.parametrize("profile", [b"no profile at all", _profile(SRGB, 2.2)[:140], b"\0" * 200])
def test_a_damaged_profile_is_refused(photo, profile):
    with pytest.raises(ValueError, match="colour profile must be whole"):
        _ours(_by_pillow(photo, "PNG", icc_profile=profile))


def _png(*chunks):
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def test_interlaced_png_is_opencvs():
    """Adam7 by hand, since neither library writes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    rows = b""
    for top, left, down, right in [*passes, (1, 0, 2, 1)]:
        for row in pixels[top::down, left::right]:
            rows += b"\0" + row.tobytes() if len(row) else b""
    header = struct.pack(">IIBBBBB", 11, 9, 8, 0, 0, 0, 1)
    data = _png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    np.testing.assert_array_equal(_ours(data)[..., 0], pixels)
    np.testing.assert_array_equal(_ours(data), _theirs(data))
