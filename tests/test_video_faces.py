"""What is kept of each face of a video: its own crop, time, yaw and quality."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sfpose import FaceAligner, build_templates
from sfpose.geometry import CANONICAL_LANDMARKS
from sfpose.pose import FACE_POINTS
from sfpose.video import Frame, face_quality, read_frames, track_faces


def _to_photo(points):
    """From the unit square of the canonical crop to the photo: linear least squares, inverted."""
    x, y, one, none = *points.T, np.ones(5), np.zeros(5)
    system = np.r_[np.c_[x, -y, one, none], np.c_[y, x, none, one]]
    a, b, right, down = np.linalg.lstsq(system, CANONICAL_LANDMARKS.T.ravel(), rcond=None)[0]
    return np.linalg.inv([[a, -b, right], [b, a, down], [0, 0, 1]])


def _head(yaw, size, x, y):
    turn = Rotation.from_euler("y", -yaw, degrees=True).as_matrix()
    return size * (FACE_POINTS @ turn.T)[:, :2] + [x, y]


@pytest.mark.parametrize("size", [3, 6, 12, 40])
@pytest.mark.parametrize("blur", [0.5, 1, 3])
def test_quality_is_sharpness_times_size(blur, size):
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64, 3))
    crop = ndimage.gaussian_filter(noise, (blur, blur, 0))
    crop = np.uint8(np.clip(127 + (crop - 127) * 20 / crop.std(), 0, 255))
    grey = crop.astype(np.float64).mean(2)
    edges = ndimage.laplace(grey)[1:-1, 1:-1].var()
    sharp = edges / (edges + 0.1 * grey[1:-1, 1:-1].var())
    points = _head(0, size, 300, 300)
    side = np.linalg.norm(_to_photo(points)[:2, 0])
    (found,) = face_quality(crop[None], points[None])
    assert found == pytest.approx(sharp * min(1, side / 112), rel=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_border_of_the_frame_is_no_sharpness(share):
    """What is black beyond it costs its share of the crop, and adds no edge."""
    noise = np.random.default_rng(0).uniform(40, 215, (64, 64, 3))
    crop = np.uint8(ndimage.gaussian_filter(noise, (3, 3, 0), mode="wrap"))
    cut, seen = crop.copy(), round(64 * (1 - share))
    cut[:, seen:] = 0
    points = _head(0, 300, 0, 0)[None]
    whole, less = (face_quality(each[None], points)[0] for each in (crop, cut))
    part = crop[:, :seen].astype(np.float64).mean(2)
    edges = ndimage.laplace(part)[1:-1, 1:-1].var()
    sharp = edges / (edges + 0.1 * part[1:-1, 1:-1].var())
    assert less == pytest.approx(seen / 64 * sharp, rel=1e-3)
    assert less < whole


@pytest.mark.parametrize("yaw", [85, 90, 97, 120, -93])
def test_a_face_that_looks_aside_is_worth_a_tenth(yaw):
    crop = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    ahead, aside = (face_quality(crop, _head(turn, 300, 0, 0)[None])[0] for turn in (0, yaw))
    assert aside == pytest.approx(0.1 * ahead)
    towards = face_quality(crop, _head(80, 300, 0, 0)[None])[0]
    assert towards == pytest.approx(np.cos(np.radians(80)) * ahead, rel=1e-2)


def test_profiles_are_told_apart_by_sharpness_and_size_however_far_they_turn():
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred, vague = (ndimage.gaussian_filter(sharp, (by, by, 0)) for by in (1, 2))
    crops = [vague, blurred, sharp, sharp, sharp]
    sizes, yaws = [300, 300, 300, 2, 1], [90, 94, 98, 95, 91]
    points = [_head(yaw, size, 0, 0) for yaw, size in zip(yaws, sizes, strict=True)]
    quality = face_quality(np.stack(crops), np.stack(points))
    assert (quality > 0).all()
    assert quality[0] < quality[1] < quality[2] > quality[3] > quality[4]


def test_a_track_of_profiles_makes_a_template():
    photo = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    frames = [Frame(number, number / 25, photo) for number in range(12)]
    aligner = FaceAligner(lambda _: ([(60, 60, 180, 180)], [_head(93, 10, 120, 120)]), policy="all")
    (track,) = track_faces(frames, aligner)
    assert {round(face.yaw) for face in track.faces} == {93}
    rows = np.random.default_rng(1).random((len(track.faces), 8))
    built = build_templates(rows, ["track 1"] * len(rows), weights=track.quality)
    assert built.counts.tolist() == [3]


def test_what_is_kept_of_a_frame_holds_no_other_face_of_it():
    photo = np.random.default_rng(0).integers(0, 256, (120, 300, 3), dtype=np.uint8)
    boxes = [(10 + 90 * place, 20, 90 + 90 * place, 100) for place in range(3)]
    frames = [Frame(number, number / 25, photo) for number in range(12)]
    tracks = track_faces(frames, FaceAligner(lambda _: boxes, policy="all"))
    kept = [array for track in tracks for face in track.faces for array in (face.image, face.box)]
    assert len(kept) == 3 * 3 * 2
    for array in kept:
        assert array.base is None or array.base.nbytes == array.nbytes


def test_each_track_keeps_the_crops_times_and_yaws_of_its_own_face(opencv_crop):
    """Two people of one frame, whom the detector names in either order."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.uniform(0, 255, (9, 240, 420, 3)), (0, 1, 1, 0))
    photos = np.uint8(np.clip(127 + 4 * (noise - 127), 0, 255))
    # In the half of the second person there is less to see: a plain surface with little on it.
    photos[:, :, 210:] = 127 + (photos[:, :, 210:].astype(int) - 127) // 30
    photos[:, 1::7, 210:] += 9
    points = np.stack([_head(0, 7, 100, 120), _head(-40, 7, 310, 120)])
    boxes = np.array([[50, 60, 150, 180], [260, 60, 360, 180.0]])
    orders = iter([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0]])

    def detector(_):
        order = next(orders)
        return boxes[order], points[order]

    frames = [Frame(number, 7 + number / 25, photo) for number, photo in enumerate(photos)]
    aligner = FaceAligner(detector, policy="all", size=96)
    tracks = track_faces(frames, aligner, keep=9, gap=1)
    assert [track.faces[0].box[0] for track in tracks] == [50, 260]
    for track, own, yaw in zip(tracks, points, (0, -40), strict=True):
        assert sorted(face.number for face in track.faces) == list(range(9))
        for face in track.faces:
            assert face.seconds == pytest.approx(7 + face.number / 25)
            assert face.yaw == pytest.approx(yaw, abs=0.1)
            expected = opencv_crop(photos[face.number], _to_photo(own), 96)
            assert np.abs(face.image / 255 - expected).mean() < 0.01
            (quality,) = face_quality(np.uint8(np.rint(255 * expected))[None], own[None])
            assert face.quality == pytest.approx(quality, rel=0.1)
    apart = np.abs(tracks[0].quality.mean() - tracks[1].quality.mean())
    assert apart > 0.15  # else either quality would do for both


def test_a_file_without_pictures_is_refused(tmp_path):
    av = pytest.importorskip("av", reason="videos need the [video] extra")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 16_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a video must hold pictures; .*sound\.mp4' holds none"):
        next(read_frames(tmp_path / "sound.mp4"))


def test_as_many_faces_are_kept_as_is_documented():
    """Five, five frames apart, of boxes that overlap by three tenths."""
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    frames = [Frame(number, number / 25, photo) for number in range(60)]
    aligner = FaceAligner(lambda _: [(30, 20, 110, 100)], policy="all")
    (track,) = track_faces(frames, aligner)
    assert [face.number for face in track.faces] == [0, 5, 10, 15, 20]
    # A box that is the same whole box: an overlap of 1 is reached.
    (track,) = track_faces(frames[:3], aligner, min_overlap=1.0)
    assert track.seen == 3


def test_faces_in_the_way_of_better_ones_leave_enough_of_others(monkeypatch):
    """Of three that lie too near to each other one is kept: five of those need fifteen."""
    quality = np.full(75, 0.1)
    for group in range(5):
        quality[15 * group + np.array([4, 7, 10])] = np.array([0.88, 0.9, 0.88]) - 0.15 * group
    told = iter(quality)
    monkeypatch.setattr("sfpose.video.face_quality", lambda *_: np.array([next(told)]))
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    frames = [Frame(number, number / 25, photo) for number in range(75)]
    aligner = FaceAligner(lambda _: [(30, 20, 110, 100)], policy="all")
    (track,) = track_faces(frames, aligner, keep=5, gap=5)
    assert [face.number for face in track.faces] == [7, 22, 37, 52, 67]


@pytest.mark.parametrize("roll", [-135, -40, 30, 90, 180])
def test_a_head_on_one_side_is_worth_as_much(roll):
    """Its crop is the same, and its size counts along the turned axes too."""
    crop = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    points = _head(25, 3, 0, 0)
    turn = Rotation.from_euler("z", roll, degrees=True).as_matrix()[:2, :2]
    upright, turned = face_quality(np.repeat(crop, 2, 0), 300 + np.stack([points, points @ turn.T]))
    assert 0.2 < upright < 0.7  # so small that its size counts
    assert turned == pytest.approx(upright, rel=1e-3)


def _tracks(boxes, **settings):
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    frames = [Frame(number, number / 25, photo) for number in range(len(boxes))]
    told = iter(boxes)
    return track_faces(frames, FaceAligner(lambda _: [next(told)], policy="all"), **settings)


@pytest.mark.parametrize("x", [-120, 0, 120])
@pytest.mark.parametrize("y", [-120, 0, 120])
def test_boxes_that_lie_apart_both_ways_are_of_two_people(x, y):
    """By twice their side: neither length in common is above zero."""
    boxes = [(130, 130, 190, 190), (130 + x, 130 + y, 190 + x, 190 + y)]
    assert len(_tracks(boxes)) == (1 if x == y == 0 else 2)


@pytest.mark.parametrize(("shift", "tracks"), [(32, 1), (33, 2)])
def test_three_tenths_of_two_boxes_are_enough_unless_told_otherwise(shift, tracks):
    """Squares of 60: 28 of 92 columns are in both, or 27 of 93."""
    boxes = [(50, 50, 110, 110), (50 + shift, 50, 110 + shift, 110)]
    assert len(_tracks(boxes)) == tracks


@pytest.mark.parametrize("least", [-0.1, 1.01, float("nan")])
def test_an_overlap_that_no_boxes_have_is_refused(least):
    with pytest.raises(ValueError, match="min_overlap must be above 0 and at most 1; got"):
        _tracks([(50, 50, 110, 110)], min_overlap=least)


@pytest.mark.parametrize(
    "aligner", [FaceAligner(lambda _: [], policy="largest"), FaceAligner(policy="all")]
)
def test_tracking_needs_a_detector_and_every_face(aligner):
    with pytest.raises(ValueError, match=r'tracking needs FaceAligner\(detector=..., policy="all"'):
        track_faces([], aligner)


def test_an_overlap_that_does_not_count_takes_no_track_from_another():
    first = [(100, 50, 200, 150), (208, 50, 308, 150)]
    # The first overlaps both by 0.32 and 0.28, the second the first of them alone, by 0.28.
    second = [(152, 50, 252, 150), (44, 50, 144, 150)]
    shown = iter([first, second])
    aligner = FaceAligner(lambda photo: next(shown), policy="all")
    photo = np.full((200, 400, 3), 90, np.uint8)
    tracks = list(track_faces([Frame(n, n / 25, photo) for n in range(2)], aligner))
    assert sorted(track.seen for track in tracks) == [1, 1, 2]


def test_a_face_stays_with_its_own_track_though_two_lesser_overlaps_are_more_together():
    """One who is gone left a box beside it, and somebody new comes on its other side."""
    boxes = [
        [(175, 50, 275, 150)],
        [(100, 50, 200, 150)],
        [(125, 50, 225, 150), (50, 50, 150, 150)],
    ]
    shown = iter(boxes)
    aligner = FaceAligner(lambda photo: next(shown), policy="all")
    photo = np.full((200, 400, 3), 90, np.uint8)
    tracks = track_faces([Frame(n, n / 25, photo) for n in range(3)], aligner, gap=1)
    lefts = [sorted(float(face.box[0]) for face in track.faces) for track in tracks]
    assert lefts == [[175], [100, 125], [50]]


def test_what_is_wrong_with_a_frame_is_told_with_its_number():
    frames = [Frame(number, number / 25, np.zeros((60, 80, 3), np.uint8)) for number in (0, 2, 4)]
    boxes = iter([[(10, 10, 50, 50)], [(50, 10, 20, 50)]])
    aligner = FaceAligner(lambda _: next(boxes), policy="all")
    with pytest.raises(ValueError, match=r"^frame 2: a box must be left < right"):
        track_faces(frames, aligner)
    with pytest.raises(ValueError, match=r"Frame\(number, seconds, image\); got a ndarray"):
        track_faces([frame.image for frame in frames], aligner)
