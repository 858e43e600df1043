"""Galleries on disk: they come back, others read them, and what is none is refused."""

import json
import mmap
import pickle
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
from test_gallery import rows_of

from sfpose import TemplateGallery
from sfpose._gallery_files import MOST_IMAGES
from sfpose.runtime.files import read_file
from sfpose.runtime.tensors import map_tensor, tensor_file


def test_galleries_go_to_disk_and_come_back(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann", 7, "bö"], rows_of(3), counts=[5, 1, 2])
    folder = gallery.save(tmp_path / "people")
    loaded = TemplateGallery.load(folder)
    assert list(loaded) == ["ann", 7, "bö"]
    assert loaded.counts.tolist() == [5, 1, 2]
    assert not loaded.templates.flags.owndata
    assert isinstance(loaded.templates.base.base, memoryview | mmap.mmap)
    np.testing.assert_array_equal(
        loaded.search(rows_of(2), 3).distances, gallery.search(rows_of(2), 3).distances
    )
    loaded.add(["cy"], rows_of(1, seed=5))
    loaded.update(["ann"], rows_of(1, seed=6))
    assert len(loaded) == 4
    np.testing.assert_array_equal(TemplateGallery.load(folder).templates, gallery.templates)
    with pytest.raises(FileExistsError, match="must not exist"):
        loaded.save(folder)
    loaded.save(folder, overwrite=True)
    assert list(TemplateGallery.load(folder)) == ["ann", 7, "bö", "cy"]
    assert [path.name for path in tmp_path.iterdir()] == ["people"]
    assert len(pickle.loads(pickle.dumps(loaded))) == 4


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("weights", [None, "default"])
def test_the_last_person_is_deleted_from_the_disk(tmp_path, verify, weights):
    gallery = TemplateGallery(weights=weights)
    rows = rows_of(2, width=256)
    gallery.add(["ann"], rows[:1])
    folder = gallery.save(tmp_path / "people")
    gallery.remove(["ann"])
    gallery.save(folder, overwrite=True)
    assert not any(rows[0].tobytes() in file.read_bytes() for file in folder.iterdir())
    assert not any(b"ann" in file.read_bytes() for file in folder.iterdir())
    empty = TemplateGallery.load(folder, verify=verify, weights=weights)
    assert len(empty) == len(list(empty)) == len(empty.counts) == 0
    with pytest.raises(ValueError, match="it is empty"):
        empty.search(rows)
    # Nobody is in it whom other weights would not find.
    other = TemplateGallery.load(folder, weights="small")
    assert len(other) == 0
    other.add(["cy"], rows[1:])
    with pytest.raises(ValueError, match="must be of the network of weights 'default'"):
        TemplateGallery.load(other.save(tmp_path / "others"), weights="default")
    shutil.rmtree(tmp_path / "others")
    empty.add(["bo"], rows[1:])
    empty.save(folder, overwrite=True)
    assert list(TemplateGallery.load(folder)) == ["bo"]
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_a_gallery_of_nobody_holds_no_templates(tmp_path):
    folder = TemplateGallery().save(tmp_path / "people")
    (folder / "templates.safetensors").write_bytes(tensor_file("templates", rows_of(1)))
    with pytest.raises(ValueError, match=r"templates\.safetensors must have the sha256"):
        TemplateGallery.load(folder)
    with pytest.raises(ValueError, match=r"one id a template; got 0 ids"):
        TemplateGallery.load(folder, verify=False)


def test_a_gallery_of_the_first_format_still_loads():
    old = TemplateGallery.load(Path(__file__).parent / "data" / "gallery_format_1")
    assert list(old) == ["ann", 7]
    assert old.counts.tolist() == [1, 1]
    np.testing.assert_array_equal(old.templates, [[0, 1, 2, 3], [4, 3, 2, 1]])


def test_other_libraries_read_the_templates(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="only a peer here")
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], rows_of(2))
    folder = gallery.save(tmp_path / "people")
    stored = safetensors.load_file(folder / "templates.safetensors")
    np.testing.assert_array_equal(stored["templates"], gallery.templates)
    safetensors.save_file({"templates": rows_of(5)}, tmp_path / "theirs.safetensors")
    np.testing.assert_array_equal(
        map_tensor(tmp_path / "theirs.safetensors", "templates"), rows_of(5)
    )


def test_what_is_no_gallery_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there must be a gallery at"):
        TemplateGallery.load(tmp_path)
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], rows_of(2))
    folder = gallery.save(tmp_path / "people")
    manifest = json.loads((folder / "manifest.json").read_text())

    def tamper(name, data, message):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            TemplateGallery.load(folder)
        (folder / name).write_bytes(original)

    tamper("manifest.json", b"{", "must be JSON")
    tamper("manifest.json", json.dumps({**manifest, "format": "x"}).encode(), "must be a gallery")
    tamper("manifest.json", json.dumps({**manifest, "format_version": 3}).encode(), "1 to 2; got 3")
    tamper("ids.json", b'["ann", "cy"]', r"ids\.json must have the sha256")
    tamper("templates.safetensors", b"\0" * 400, r"templates\.safetensors must have the sha256")
    (folder / "ids.json").write_bytes(b'["ann"]')
    with pytest.raises(ValueError, match=r"got 1 ids for templates of shape \(2, 40\)"):
        TemplateGallery.load(folder, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:4],
        lambda d: b"\xff" * 8 + d[8:],
        lambda d: d[:-4],
        lambda d: d.replace(b"F32", b"F16"),
        lambda d: d.replace(b"[2, 3]", b"[9, 3]"),
        lambda d: d.replace(b"templates", b"something"),
        lambda d: d.replace(b"[0, 24]", b"[8, 32]"),
        lambda d: d.replace(b"{", b"x", 1),
    ],
)
def test_tensor_files_that_lie_are_refused(tmp_path, change):
    data = tensor_file("templates", np.ones((2, 3), np.float32))
    (tmp_path / "t.safetensors").write_bytes(change(data))
    with pytest.raises(ValueError, match="must be a safetensors file with a float32 array"):
        map_tensor(tmp_path / "t.safetensors", "templates")


@pytest.mark.parametrize("ids", [{"ann", "bo"}, frozenset(["ann", "bo"])])
def test_ids_without_an_order_are_refused(ids):
    with pytest.raises(ValueError, match=r"ids must be a sequence of ids; got one (frozen)?set"):
        TemplateGallery().add(ids, np.eye(2))


def test_an_id_that_the_disk_would_change_is_refused(tmp_path):
    gallery = TemplateGallery()
    with pytest.raises(ValueError, match="JSON gives back as they are"):
        gallery.add(["\ud83d\ude00"], np.eye(1))
    gallery.add(["\U0001f600", "file\udcff"], np.eye(2))
    again = TemplateGallery.load(gallery.save(tmp_path / "door"))
    assert list(again) == ["\U0001f600", "file\udcff"]


def test_workers_search_the_gallery_that_was_loaded_whatever_is_on_disk_by_then(tmp_path):
    rows = rows_of(2_001)
    gallery = TemplateGallery()
    gallery.add([f"p{number}" for number in range(2_000)], rows[:2_000])
    path = gallery.save(tmp_path / "door")
    loaded = TemplateGallery.load(path)
    with TemplateGallery.changing(path) as changed:
        changed.remove(["p0"])
        changed.add(["p2000"], rows[2_000:])
    chosen = [0, 500, 501]
    search = joblib.delayed(loaded.search)
    found = joblib.Parallel(n_jobs=2)(search(rows[row : row + 1]) for row in chosen)
    assert [each.ids[0, 0] for each in found] == ["p0", "p500", "p501"]
    np.testing.assert_array_equal([each.distances[0, 0] for each in found], 0)


def test_a_file_is_read_in_as_much_memory_as_it_has_bytes(tmp_path):
    """And not in as much as it might have: ids may be long, and people many."""
    (tmp_path / "ids.json").write_bytes(b"[1]")
    assert read_file(tmp_path, "ids.json", 10**15) == b"[1]"
    with pytest.raises(ValueError, match="at most 2 bytes; got 3"):
        read_file(tmp_path, "ids.json", 2)


@pytest.mark.parametrize(
    ("template", "count", "image", "message"),
    [
        ([1, 1], MOST_IMAGES, [1, 1], "counts must be whole numbers above 0, up to"),
        ([1e-12, 0], 1, [0, 0], "largest value of each row"),
    ],
)
def test_nothing_is_extended_to_what_could_not_be_loaded(tmp_path, template, count, image, message):
    gallery = TemplateGallery()
    gallery.add(["ann"], [template], counts=[count])
    with pytest.raises(ValueError, match=message):
        gallery.extend(["ann"], [image])
    loaded = TemplateGallery.load(gallery.save(tmp_path / "door"))
    assert loaded.counts.tolist() == [count]
    np.testing.assert_array_equal(loaded.templates, np.float32([template]))
