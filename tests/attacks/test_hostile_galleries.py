"""Galleries whose files lie: refused with a reason, in little time and memory."""

import hashlib
import json
import os
import struct
import time

import numpy as np
import pytest

from sfpose import TemplateGallery
from sfpose.runtime.tensors import map_tensor, tensor_file


@pytest.fixture
def folder(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], np.random.default_rng(0).random((2, 6), dtype=np.float32))
    return gallery.save(tmp_path / "people")


def _replace(folder, name, data):
    """A file changed by someone who knows to change its digest too."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _change(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("place", [0, 7, 11])
def test_values_that_are_no_template_are_refused(folder, value, place):
    rows = np.ones((2, 6), np.float32)
    rows.flat[place] = value
    _replace(folder, "templates.safetensors", tensor_file("templates", rows))
    with pytest.raises(ValueError, match=r"templates must (be finite|not be negative)"):
        TemplateGallery.load(folder)


@pytest.mark.parametrize(
    "ids",
    [
        ["ann", "ann"],
        ["ann"],
        ["ann", "bo", "cy"],
        ["ann", None],
        ["ann", 1.5],
        ["ann", True],
        ["ann", ["bo"]],
        ["ann", {"bo": 1}],
        {"ann": 0, "bo": 1},
        "ab",
        None,
    ],
)
def test_ids_that_do_not_fit_are_refused(folder, ids):
    _replace(folder, "ids.json", json.dumps(ids).encode())
    for verify in (True, False):
        with pytest.raises(ValueError, match="must"):
            TemplateGallery.load(folder, verify=verify)


@pytest.mark.parametrize(
    "data", [b"", b"[" * 10**5, b'["a", NaN]', b"\xff\xfe", b'["a"', b"[1e999]"]
)
def test_ids_that_are_no_list_are_refused(folder, data):
    _replace(folder, "ids.json", data)
    with pytest.raises(ValueError, match="must"):
        TemplateGallery.load(folder)


def test_many_ids_with_one_twice_are_refused_quickly():
    gallery = TemplateGallery()
    start = time.perf_counter()
    with pytest.raises(ValueError, match="199999 is given twice"):
        gallery.add([*range(200_000), 199_999], np.ones((200_001, 1)))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {},
        {"templates.safetensors": 1},
        {"templates.safetensors": {}, "ids.json": {}},
        {"../ids.json": {"sha256": "0" * 64}},
    ],
)
def test_manifests_without_digests_are_refused(folder, files):
    _change(folder, files=files)
    with pytest.raises(ValueError, match="must have the sha256"):
        TemplateGallery.load(folder)


@pytest.mark.parametrize(
    "distance",
    [
        None,
        "chi-square",
        {"name": "cosine"},
        {
            "name": "chi-square",
            "definition": "sum((x - y)^2 / (x + y)), 0/0 = 0",
            "factor": 0.5,
        },
    ],
)
def test_galleries_for_another_distance_are_refused(folder, distance):
    _change(folder, distance=distance)
    with pytest.raises(ValueError, match="must be for the distance"):
        TemplateGallery.load(folder, verify=False)


@pytest.mark.parametrize("name", ["templates.safetensors", "ids.json", "manifest.json"])
@pytest.mark.parametrize("verify", [True, False])
def test_links_and_pipes_are_refused(folder, tmp_path, name, verify):
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises((ValueError, FileNotFoundError), match=r"symbolic link|no file of it"):
        TemplateGallery.load(folder, verify=verify)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises((ValueError, FileNotFoundError), match="must"):
        TemplateGallery.load(folder, verify=verify)


def _tensor(header, values=b"\0" * 48):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + values


GOOD = {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}


@pytest.mark.parametrize(
    "data",
    [
        _tensor({"templates": {**GOOD, "shape": [2**31, 2**31]}}),
        _tensor({"templates": {**GOOD, "shape": [2**62, 4]}}),
        _tensor({"templates": {**GOOD, "shape": [-2, -6]}}),
        _tensor({"templates": {**GOOD, "shape": [0, 6], "data_offsets": [0, 0]}}),
        _tensor({"templates": {**GOOD, "shape": [2.0, 6]}}),
        _tensor({"templates": {**GOOD, "shape": ["2", "6"]}}),
        _tensor({"templates": {**GOOD, "shape": [True, 12]}}),
        _tensor({"templates": {**GOOD, "shape": 12}}),
        _tensor({"templates": {**GOOD, "data_offsets": [-48, 0]}}),
        _tensor({"templates": {**GOOD, "data_offsets": [10**30, 10**30 + 48]}}),
        _tensor({"templates": {**GOOD, "data_offsets": [0]}}),
        _tensor({"templates": {**GOOD, "dtype": "BF16"}}),
        _tensor({"templates": None}),
        _tensor([GOOD]),
        _tensor(b'{"templates": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 1]}}'),
        _tensor(b'{"templates": 1, "templates": 2}'),
        _tensor(b"[" * 200_000),
        _tensor(b"\xff" * 20),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**20) + b"{}",
        b"",
        b"\0" * 7,
    ],
    ids=range(22),
)
def test_tensor_files_that_lie_are_refused(folder, data):
    _replace(folder, "templates.safetensors", data)
    for verify in (True, False):
        with pytest.raises(ValueError, match="must be a safetensors file"):
            TemplateGallery.load(folder, verify=verify)


def test_a_gallery_with_a_terabyte_of_nothing_is_refused_at_once(folder, tmp_path):
    """A sparse file: its size is a lie that costs nothing to tell."""
    header = {"templates": {"dtype": "F32", "shape": [2**30, 256], "data_offsets": [0, 2**40]}}
    path = tmp_path / "sparse.safetensors"
    path.write_bytes(_tensor(header, b""))
    os.truncate(path, 2**40 + path.stat().st_size)
    start = time.perf_counter()
    mapped = map_tensor(path, "templates")
    assert mapped.shape == (2**30, 256)
    path.rename(folder / "templates.safetensors")
    with pytest.raises(ValueError, match="one id a template; got 2 ids"):
        TemplateGallery.load(folder, verify=False)
    assert time.perf_counter() - start < 5
