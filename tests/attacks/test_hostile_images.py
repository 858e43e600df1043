"""Images that were made to harm: refused with a reason, in little time and memory."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder
from sfpose.preprocessing import decode_image, iterate_images, read_image

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)


def _encoded(kind, image=PHOTO, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width, height, *chunks, depth=8, colour=2):
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _refused(data, message="must be a whole JPEG, PNG or WebP"):
    with pytest.raises(ValueError, match=message):
        decode_image(io.BytesIO(data), "picture.jpg")


@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (20_000, 20_000), (2**31 - 1, 2)])
def test_bombs_are_refused_by_their_header(width, height):
    _refused(_png(width, height, _chunk(b"IDAT", zlib.compress(b"\0" * 1000))), "at most|whole")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_bombs_of_other_kinds_are_refused_by_their_header(kind):
    if kind == "JPEG":
        data = bytearray(_encoded("JPEG"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 65_000, 65_000)
        _refused(bytes(data), "must have at most 64000000 pixels")
    else:
        body = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xfe\xff\xff" * 2
        _refused(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, "at most|whole")


def test_the_memory_of_a_bomb_is_never_taken():
    """64 million pixels are allowed, so memory is bounded by them and not by the file."""
    program = """
import io, resource, struct, sys, zlib
import numpy as np
from PIL import Image
from sfpose.preprocessing import decode_image
decode_image(io.BytesIO(sys.stdin.buffer.read(int(sys.argv[1]))), "warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_image(sys.stdin.buffer, "bomb")
except ValueError:
    pass
else:
    raise SystemExit("not refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    warm = _encoded("PNG")
    text = zlib.compress(b"a" * 30_000_000)
    for bomb in (
        _png(60_000, 60_000, _chunk(b"IDAT", zlib.compress(b"\0" * 30_000_000))),
        _png(4, 4, _chunk(b"zTXt", b"key\0\0" + text), _chunk(b"IDAT", b"")),
        _png(4, 4, _chunk(b"iCCP", b"icc\0\0" + text), _chunk(b"IDAT", b"")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, str(len(warm))],
            input=warm + bomb,
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert int(done.stdout) < 20_000  # kilobytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"GIF89a" + b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7 ",
        b"II*\0" + b"\0" * 100,
        _png(0, 5, _chunk(b"IDAT", zlib.compress(b""))),
        _png(5, 0, _chunk(b"IDAT", zlib.compress(b""))),
        _png(4, 4),
        _png(4, 4, _chunk(b"IDAT", b"no deflate")),
        _png(4, 4, _chunk(b"IDAT", zlib.compress(b"\0" * 10))),
        _encoded("PNG").replace(b"IDAT", b"IDAX"),
        _encoded("JPEG").replace(b"\xff\xda", b"\xff\xfe"),
    ],
    ids=range(16),
)
def test_what_is_no_whole_picture_is_refused(data):
    _refused(data, r"must be a whole JPEG, PNG or WebP|at least one pixel")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_animations_are_refused(kind):
    more = Image.fromarray(255 - PHOTO)
    _refused(_encoded(kind, save_all=True, append_images=[more], duration=40), "still|whole")


def test_the_contents_decide_and_not_the_name(tmp_path):
    for kind in ("PNG", "WEBP"):
        path = tmp_path / f"{kind}.jpg"
        path.write_bytes(_encoded(kind, lossless=True))
        np.testing.assert_array_equal(read_image(path), PHOTO)


def test_metadata_that_lies_does_not_harm():
    hostile = [
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x09\0\0" * 5,
        b"Exif\0\0" + b"\xff" * 500,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x08\0\0\0\0\0\0\0",
    ]
    plain = decode_image(io.BytesIO(_encoded("JPEG")), "plain")
    for exif in hostile:
        try:
            got = decode_image(io.BytesIO(_encoded("JPEG", exif=exif)), "hostile")
        except ValueError:
            continue
        np.testing.assert_array_equal(got, plain)


def test_paths_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", "/dev/zero", tmp_path / "loop.jpg", "", "\0.jpg"):
        with pytest.raises((FileNotFoundError, ValueError), match="image 0"):
            list(iterate_images([path]))


def test_pillow_images_are_held_to_the_same_rules():
    cut = Image.open(io.BytesIO(_encoded("PNG", np.repeat(PHOTO, 9, 0))[:3000]))
    with pytest.raises(ValueError, match=r"image 0: a Pillow image must be whole"):
        list(iterate_images([cut]))
    with pytest.raises(ValueError, match="at most 64000000 pixels"):
        list(iterate_images([Image.new("1", (9000, 9000))]))
    with pytest.raises(ValueError, match="8 bits a channel"):
        list(iterate_images([Image.new("F", (9, 9))]))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 40_000), (20, 4000)]
)
def test_every_shape_has_a_descriptor_or_is_a_failure_to_acquire(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for embedder in (FaceEmbedder(min_face_score=0), FaceEmbedder(align=False)):
        (row,) = embedder.transform([image])
        assert np.isnan(row).all() or row.sum() == pytest.approx(1, rel=1e-4)
    assert np.isnan(FaceEmbedder().transform([image])).all()
    assert FaceAligner(min_face_score=0).transform([image]).shape == (1, 113, 113, 3)


def test_one_bad_image_among_many_is_named(photos):
    bad = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="image 3: images must be uint8 RGB"):
        FaceEmbedder(batch_size=2).transform([*photos, bad])
