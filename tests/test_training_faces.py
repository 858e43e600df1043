"""What is kept of photos belongs to these photos, and is there whole or not at all."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
onnx = pytest.importorskip("onnx", reason="training needs the [train] extra")

from sfpose.alignment import FaceAligner  # noqa: E402
from sfpose.geometry import (  # noqa: E402
    CANONICAL_LANDMARKS,
    LANDMARK_CROP_SCALE,
    similarity_to_canonical,
)
from sfpose.runtime.artifact import write_artifact  # noqa: E402
from sfpose.training import landmarks as module  # noqa: E402
from sfpose.training.export import to_manifest  # noqa: E402
from sfpose.training.faces import (  # noqa: E402
    decode_archives,
    known_matrices,
    load_taught_faces,
    pass_order,
)
from sfpose.training.landmarks import find_own_landmarks  # noqa: E402


def _photos(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)


def _encoded(photo):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "png")
    return file.getvalue()


def _zipped(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    return path


def _data_set(folder, photos):
    """Photos in two archives, and a teacher's outputs of each that are the photo's number."""
    folder.mkdir()
    names = [f"{'val' if row % 3 == 2 else 'train'}/{row}.jpg" for row in range(len(photos))]
    images = {name: _encoded(photo) for name, photo in zip(names, photos, strict=True)}
    for part in range(2):
        own = {name: images[name] for name in names[part::2]}
        _zipped(folder / f"fairface_128_{part}.zip", own)
    rows = np.arange(len(photos), dtype=np.float32)
    looks = {"embedding": np.tile(rows[:, None], 4), "embedding_flip": -np.tile(rows[:, None], 4)}
    points = np.tile(rows[:, None, None], (5, 2))
    np.savez(folder / "fairface_teacher.npz", files=names, landmarks=points, score=rows, **looks)
    return folder


def _kept(cache):
    return sorted(path.name for path in cache.iterdir())


@pytest.mark.parametrize("count", [5, 4])
def test_each_data_set_has_its_own_photos(tmp_path, count):
    cache = tmp_path / "cache"
    sets = {"A": _photos(5), "B": _photos(count, 1)}
    keys = set()
    for name, photos in sets.items():
        faces = load_taught_faces(_data_set(tmp_path / name, photos), cache)
        np.testing.assert_array_equal(faces.photos, photos)
        rows = np.arange(len(photos))
        np.testing.assert_array_equal(faces.landmarks[:, 0, 0], rows)
        np.testing.assert_array_equal(faces.scores, rows)
        np.testing.assert_array_equal(faces.embeddings, np.tile(rows[:, None], 4))
        np.testing.assert_array_equal(faces.mirror_embeddings, -faces.embeddings)
        assert np.flatnonzero(faces.held_out).tolist() == [2, 5][: 1 + len(photos) // 6]
        keys.add(faces.photos_key)
    assert len(keys) == len(_kept(cache)) == 2


def test_photos_are_decoded_once(tmp_path, monkeypatch):
    folder, photos = _data_set(tmp_path / "A", _photos(5)), _photos(5)
    first = load_taught_faces(folder, tmp_path / "cache")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    again = load_taught_faces(folder, tmp_path / "cache")
    np.testing.assert_array_equal(again.photos, photos)
    assert again.photos_key == first.photos_key


def test_another_order_and_another_image_of_the_same_name_are_other_photos(tmp_path):
    red, green, blue = _photos(3)
    file = tmp_path / "cache.npy"
    path = _zipped(tmp_path / "a.zip", {"a": _encoded(red), "b": _encoded(green)})
    for names, expected in ((["a", "b"], [red, green]), (["b", "a"], [green, red])):
        np.testing.assert_array_equal(decode_archives([path], names, file), expected)
    np.testing.assert_array_equal(decode_archives([path], ["a", "b", "a"], file), [red, green, red])
    later = _zipped(tmp_path / "b.zip", {"b": _encoded(blue)})
    found = decode_archives([path, later], ["a", "b"], file)
    np.testing.assert_array_equal(found, [red, blue])


def test_what_breaks_off_leaves_nothing(tmp_path):
    photos = _photos(3)
    images = {str(row): _encoded(photo) for row, photo in enumerate(photos)}
    cache = tmp_path / "cache"
    broken = _zipped(tmp_path / "broken.zip", {**images, "2": images["2"][:-30]})
    with pytest.raises(OSError, match="truncated"):
        decode_archives([broken], list(images), cache / "photos.npy")
    assert _kept(cache) == []


@pytest.mark.parametrize(
    ("largest", "method", "message"),
    [
        (1000, zipfile.ZIP_DEFLATED, r"must have at most 1000 bytes; '1' has 1001$"),
        (10**6, zipfile.ZIP_LZMA, r"must be readable; '1' is not: it is neither stored nor"),
    ],
)
def test_entries_that_unpack_to_more_than_an_image_needs_are_refused(
    tmp_path, monkeypatch, largest, method, message
):
    monkeypatch.setattr("sfpose.protocols.files._LARGEST", largest)
    path, cache = _zipped(tmp_path / "a.zip", {"0": _encoded(_photos(1)[0])}), tmp_path / "cache"
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("1", bytes(1001))
    assert len(decode_archives([path], ["0"], cache / "photos.npy")) == 1
    with pytest.raises(ValueError, match=message):
        decode_archives([path], ["0", "1"], cache / "photos.npy")
    assert len(_kept(cache)) == 1


def test_each_seed_has_an_order_of_its_own_however_it_is_cut():
    orders = {seed: pass_order(50, seed, 0, 120).tolist() for seed in range(4)}
    assert len({tuple(order) for order in orders.values()}) == 4
    for seed, order in orders.items():
        parts = [pass_order(50, seed, first, 8) for first in range(0, 120, 8)]
        assert np.concatenate(parts).tolist() == order


def test_matrices_of_known_faces_stand_in_their_own_rows():
    landmarks = np.random.default_rng(0).uniform(0, 90, (5, 5, 2)).astype(np.float32)
    known = np.array([False, True, False, True, True])
    landmarks[~known] = 0
    found = known_matrices(similarity_to_canonical, landmarks, known, torch.device("cpu")).numpy()
    for row, matrix in enumerate(found):
        expected = similarity_to_canonical(landmarks[row : row + 1])[0] if known[row] else 0
        np.testing.assert_allclose(matrix, np.zeros((3, 3)) + expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def finder(tmp_path):
    """Path of a landmark network that takes a line through the mean colours of four quarters."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.016, (12, 11)).astype(np.float32)
    weight[:, 10] *= 500
    places = 0.5 + (CANONICAL_LANDMARKS - 0.5) / LANDMARK_CROP_SCALE
    bias = np.append(places, 0).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["images"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["outputs"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "finder",
        [helper.make_tensor_value_info("images", kind, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("outputs", kind, ["n", 11])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, ir_version=8, opset_imports=[opset])
    manifest = to_manifest(
        name="finder",
        kind="landmarks",
        network="facelandmarknet",
        size=16,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    return str(write_artifact(tmp_path / "finder", model.SerializeToString(), manifest))


def _smooth(count, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 3, 4, 4))
    large = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=40, mode="bilinear")
    return large.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def test_landmarks_are_those_of_the_photos_at_hand(taught_faces, finder, tmp_path):
    cache = tmp_path / "cache"
    for seed in (0, 1, 0):
        faces = replace(taught_faces(4), photos=_smooth(12, seed))
        expected, _ = FaceAligner(weights=finder).find_landmarks(faces.photos)
        found = find_own_landmarks(faces, finder, cache)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(_kept(cache)) == 2


def test_photos_that_have_a_key_are_not_read(taught_faces, finder, tmp_path):
    cache = tmp_path / "cache"
    faces = replace(taught_faces(4), photos=_smooth(12), photos_key="a")
    found = find_own_landmarks(faces, finder, cache)
    unread = replace(faces, photos=None)
    np.testing.assert_array_equal(find_own_landmarks(unread, finder, cache), found)
    other = replace(faces, photos=_smooth(12, 1), photos_key="b")
    assert np.abs(find_own_landmarks(other, finder, cache) - found).max() > 0.1


def test_another_way_of_finding_finds_anew(taught_faces, finder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    faces = replace(taught_faces(4), photos=_smooth(12))
    found = find_own_landmarks(faces, finder, cache)
    (file,) = cache.iterdir()
    np.save(file, np.zeros_like(found))
    assert not find_own_landmarks(faces, finder, cache).any()
    monkeypatch.setattr(module, "_FINDING", module._FINDING + 1)
    np.testing.assert_array_equal(find_own_landmarks(faces, finder, cache), found)


def test_landmarks_half_written_are_found_anew(taught_faces, finder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    faces = replace(taught_faces(4), photos=_smooth(12))

    def half(path, array):
        path.write_bytes(array.tobytes()[:100])
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", half)
        with pytest.raises(OSError, match="no space left"):
            find_own_landmarks(faces, finder, cache)
    assert _kept(cache) == []
    expected, _ = FaceAligner(weights=finder).find_landmarks(faces.photos)
    np.testing.assert_allclose(find_own_landmarks(faces, finder, cache), expected, rtol=1e-6)


def test_a_finder_that_finds_otherwise_has_another_number(finder):
    """Where this fails, what caches hold is no longer found: raise ``_FINDING``, and renew this.

    The first face is in doubt, the third moves far from look to look, the fourth does neither and
    the others lie on their side.
    """
    found, _ = FaceAligner(weights=finder).find_landmarks(_smooth(6))
    eyes = [
        *([15.94, 21.38], [18.09, 21.72], [15.76, 11.57]),
        *([14.69, 20.47], [21.10, 15.13], [21.15, 25.76]),
    ]
    np.testing.assert_allclose(found[:, 0], eyes, atol=0.05)
    assert module._FINDING == 2
