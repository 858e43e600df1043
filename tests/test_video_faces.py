"""What is kept of each face of a video: its own crop, time, yaw and quality."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sfpose import FaceAligner
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


def test_a_face_that_looks_away_from_the_camera_is_worth_nothing():
    crop = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert face_quality(crop, _head(120, 20, 300, 300)[None]).tolist() == [0.0]


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
