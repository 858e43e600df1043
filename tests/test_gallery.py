"""Exact search against brute force, and galleries that survive what may happen."""

import copy
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sfpose._search as search_module
from sfpose import TemplateGallery
from sfpose._kernels import reference
from sfpose._scoring import chi2_matrix
from sfpose.runtime.tensors import map_tensor, tensor_file


def _people(count, width=40, seed=0, spread=0.3):
    """Clustered, sparse rows that sum to 1, as descriptors are."""
    rng = np.random.default_rng(seed)
    centres = np.maximum(rng.normal(size=(max(1, count // 3), width)), 0)
    rows = centres[rng.integers(0, len(centres), count)]
    rows = np.maximum(rows + spread * rng.normal(size=rows.shape), 0) + 1e-6
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


def _brute(gallery, probes, k):
    distances = chi2_matrix(probes, gallery)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(search_module, "BLOCK_ROWS", 64)
    monkeypatch.setattr(search_module, "BLOCK_PROBES", 8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spread", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_search_is_brute_force_however_loose_the_bound(spread, k):
    templates, probes = _people(300, spread=spread), _people(50, seed=1, spread=spread)
    probes[:20] = templates[40:60]
    gallery = TemplateGallery()
    gallery.add(range(300), templates)
    ids, distances = gallery.search(probes, k=k)
    order, expected = _brute(templates, probes, k)
    np.testing.assert_array_equal(ids.astype(int), order)
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_allclose(
        distances[:, 0], reference.chi2_matrix(probes, templates).min(1), rtol=1e-5, atol=1e-9
    )


@given(
    st.integers(1, 90), st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**31), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_any_search_is_brute_force(rows, probes, k, seed, ties):
    rng = np.random.default_rng(seed)
    templates, asked = (
        # Few distinct values make many equal distances, and rows of zeros.
        rng.integers(0, 2, (count, 3)).astype(np.float32)
        if ties
        else rng.random((count, 9), dtype=np.float32)
        for count in (rows, probes)
    )
    k = min(k, rows)
    gallery = TemplateGallery(n_jobs=2)
    gallery.add(range(rows), templates)
    ids, distances = gallery.search(asked, k)
    exact = reference.chi2_matrix(asked, templates)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :k], rtol=1e-5, atol=1e-12)
    found = np.take_along_axis(exact, ids.astype(int), axis=1)
    np.testing.assert_allclose(found, distances, rtol=1e-5, atol=1e-12)
    if ties:
        np.testing.assert_array_equal(ids, np.argsort(exact, axis=1, kind="stable")[:, :k])
    radius = float(np.median(exact)) * (1 + 1e-4)
    for row, near in zip(exact, gallery.search_within(asked, radius), strict=True):
        assert sorted(near.ids) == np.flatnonzero(row <= radius).tolist()


@pytest.mark.usefixtures("small_blocks")
def test_the_bound_really_spares_work(monkeypatch):
    import sfpose._kernels.chi2 as kernels

    scored = []
    whole, pairs = kernels.chi2_block, kernels.chi2_pairs
    monkeypatch.setattr(
        kernels, "chi2_block", lambda a, b, t, o: (scored.append(o.size), whole(a, b, t, o))
    )
    monkeypatch.setattr(
        kernels,
        "chi2_pairs",
        lambda a, b, r, c, t, o: (scored.append(len(r)), pairs(a, b, r, c, t, o)),
    )
    templates = _people(2000, 200, spread=0.05)
    gallery = TemplateGallery()
    gallery.add(range(2000), templates)
    ids, _ = gallery.search(templates[:40], k=1)
    assert ids[:, 0].tolist() == list(range(40))
    assert sum(scored) < 0.5 * 40 * 2000


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads_do_not_change_the_answer(n_jobs):
    gallery = TemplateGallery()
    gallery.add(range(300), _people(300))
    other = TemplateGallery(n_jobs=n_jobs)
    other.add(range(300), _people(300))
    for one, two in zip(
        gallery.search(_people(90, seed=3), 4), other.search(_people(90, seed=3), 4), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_memory_of_a_search_is_that_of_its_blocks_not_of_the_gallery():
    width, probes = 100, _people(1500, 100, seed=1)
    peaks = []
    for rows in (20_000, 40_000):
        gallery = TemplateGallery()
        gallery.add(range(rows), _people(rows, width))
        gallery.search(probes[:64], k=3)  # compile
        tracemalloc.start()
        gallery.search(probes, k=3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert abs(peaks[1] - peaks[0]) < 2**18
    product, roots, distances = 1024 * 4096 * 4, (4096 + 1500) * width * 4, 64 * 4096 * 4
    # Distances of one thread, once as bounds and while they are compared.
    assert peaks[1] < product + roots + 4 * distances + 2**20


def test_equal_templates_are_found_in_the_order_they_came():
    row = _people(1)
    gallery = TemplateGallery()
    gallery.add(["c", "a", "b"], np.repeat(row, 3, axis=0))
    assert gallery.search(row, k=3).ids[0].tolist() == ["c", "a", "b"]


@pytest.mark.usefixtures("small_blocks")
def test_radius_search_finds_all_and_no_one_else():
    templates, probes = _people(300), _people(20, seed=1)
    gallery = TemplateGallery()
    gallery.add(range(300), templates)
    matrix = chi2_matrix(probes, templates)
    radius = float(np.quantile(matrix, 0.05))
    for row, (ids, distances) in zip(matrix, gallery.search_within(probes, radius), strict=True):
        assert sorted(ids) == np.flatnonzero(row <= radius).tolist()
        assert (np.diff(distances) >= 0).all()
    assert len(gallery.search_within(probes[:1], 0.0)[0].ids) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "update", "extend"]),
            st.integers(0, 5),
            st.integers(0, 99),
        ),
        max_size=25,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_gallery_behaves_as_a_dictionary(steps):
    gallery, expected = TemplateGallery(), {}
    for action, name, seed in steps:
        row = np.random.default_rng(seed).random((1, 4), dtype=np.float32)
        present = name in expected
        try:
            if action == "add":
                gallery.add([name], row, counts=[1 + seed % 3])
            elif action == "update":
                gallery.update([name], row, counts=[1 + seed % 3])
            elif action == "extend":
                gallery.extend([name], row)
            else:
                gallery.remove([name])
        except (KeyError, ValueError):
            assert present == (action == "add")
        else:
            assert present != (action == "add")
            if action == "remove":
                del expected[name]
            elif action == "extend":
                expected[name].append(row[0])
            else:
                expected[name] = [row[0]] * (1 + seed % 3)
    assert list(gallery) == list(expected)
    assert gallery.counts.tolist() == [len(images) for images in expected.values()]
    if expected:
        means = [np.mean(images, axis=0) for images in expected.values()]
        np.testing.assert_allclose(gallery.templates, np.stack(means), rtol=1e-5)


def test_refused_changes_change_nothing():
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], _people(2))
    before = gallery.templates.copy()
    for change, message in [
        (lambda: gallery.add(["cy", "ann"], _people(2)), "'ann' is in the gallery: use update"),
        (lambda: gallery.add(["cy", "cy"], _people(2)), "'cy' is given twice"),
        (lambda: gallery.add(["cy"], _people(2)), "one id a template; got 1 and 2"),
        (lambda: gallery.add(["cy"], -_people(1)), "templates must not be negative"),
        (
            lambda: gallery.add(["cy"], _people(1, width=7)),
            "templates must have 40 values a row; got 7",
        ),
        (lambda: gallery.add("cy", _people(2)), "sequence of ids; got one str"),
        (lambda: gallery.update(["ann", "ann"], _people(2)), "'ann' is given twice"),
        (lambda: gallery.extend(["ann"], -_people(1)), "templates must not be negative"),
        (lambda: gallery.add(["cy"], _people(1), counts=[0]), "whole numbers above 0"),
        (lambda: gallery.add(["cy"], _people(1), counts=[1.0]), "got float64"),
        (lambda: gallery.update(["bo"], _people(1), counts=[1, 2]), r"of shape \(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            change()
    for change in (
        lambda: gallery.remove(["ann", "cy"]),
        lambda: gallery.update(["cy"], _people(1)),
        lambda: gallery.extend(["ann", "cy"], _people(2)),
    ):
        with pytest.raises(KeyError, match="'cy' is not in the gallery"):
            change()
    assert list(gallery) == ["ann", "bo"]
    np.testing.assert_array_equal(gallery.templates, before)
    assert gallery.counts.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        gallery.templates[0] = 1


def test_searches_that_have_no_answer_are_refused():
    gallery = TemplateGallery()
    with pytest.raises(ValueError, match="it is empty"):
        gallery.search(_people(1))
    gallery.add(["ann", "bo"], _people(2))
    for k in (0, 3, 1.5, True):
        with pytest.raises(ValueError, match=r"k must be a whole number in 1 \.\.\. 2"):
            gallery.search(_people(1), k=k)
    for radius in (-1, np.nan, None, "0.5", [0.5]):
        with pytest.raises(ValueError, match="radius must be a number, at least 0; got"):
            gallery.search_within(_people(1), radius)
    with pytest.raises(ValueError, match="probes must have 40 values a row; got 3"):
        gallery.search(np.ones((1, 3)))
    with pytest.raises(ValueError, match="probes must be finite"):
        gallery.search(np.full((1, 40), np.nan))


def test_galleries_go_to_disk_and_come_back(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann", 7, "bö"], _people(3), counts=[5, 1, 2])
    folder = gallery.save(tmp_path / "people")
    loaded = TemplateGallery.load(folder)
    assert list(loaded) == ["ann", 7, "bö"]
    assert loaded.counts.tolist() == [5, 1, 2]
    assert isinstance(loaded.templates.base, np.memmap) or isinstance(loaded.templates, np.memmap)
    np.testing.assert_array_equal(
        loaded.search(_people(2), 3).distances, gallery.search(_people(2), 3).distances
    )
    loaded.add(["cy"], _people(1, seed=5))
    loaded.update(["ann"], _people(1, seed=6))
    assert len(loaded) == 4
    np.testing.assert_array_equal(TemplateGallery.load(folder).templates, gallery.templates)
    with pytest.raises(FileExistsError, match="must not exist"):
        loaded.save(folder)
    loaded.save(folder, overwrite=True)
    assert list(TemplateGallery.load(folder)) == ["ann", 7, "bö", "cy"]
    assert [path.name for path in tmp_path.iterdir()] == ["people"]
    assert len(pickle.loads(pickle.dumps(loaded))) == 4


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("change", ["add", "update", "extend", "remove", "remove all"])
@pytest.mark.parametrize("changed", ["copy", "original"])
def test_a_copy_and_its_original_change_apart(tmp_path, loaded, change, changed):
    gallery = TemplateGallery(weights="default")
    rows = _people(7, width=256)
    gallery.add(["ann", "bo"], rows[:2], counts=[2, 3])
    gallery.add(["cy"], rows[2:3])
    if loaded:
        gallery = TemplateGallery.load(gallery.save(tmp_path / "people"), weights="default")
    other = copy.copy(gallery)
    assert (other.weights, type(other)) == ("default", TemplateGallery)
    one, left = (other, gallery) if changed == "copy" else (gallery, other)
    {
        "add": lambda: one.add(["di", "eve"], rows[3:5]),
        "update": lambda: one.update(["ann"], rows[5:6]),
        "extend": lambda: one.extend(["bo"], rows[6:]),
        "remove": lambda: one.remove(["ann"]),
        "remove all": lambda: one.remove(["ann", "bo", "cy"]),
    }[change]()
    assert list(left) == ["ann", "bo", "cy"]
    assert "di" not in left
    assert left.counts.tolist() == [2, 3, 1]
    np.testing.assert_array_equal(left.templates, rows[:3])
    assert left.search(rows[:3]).ids[:, 0].tolist() == ["ann", "bo", "cy"]
    left.add(["di"], rows[3:4])
    np.testing.assert_array_equal(left.templates, rows[:4])
    assert len(one) == {"add": 5, "remove": 2, "remove all": 0}.get(change, 3)


def test_a_copy_of_nobody_is_empty():
    gallery = TemplateGallery()
    other = copy.copy(gallery)
    other.add(["ann"], _people(1))
    assert (len(gallery), len(other)) == (0, 1)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("weights", [None, "default"])
def test_the_last_person_is_deleted_from_the_disk(tmp_path, verify, weights):
    gallery = TemplateGallery(weights=weights)
    rows = _people(2, width=256)
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
    if weights:
        with pytest.raises(ValueError, match="must be of the network of weights 'small'"):
            TemplateGallery.load(folder, weights="small")
    empty.add(["bo"], rows[1:])
    empty.save(folder, overwrite=True)
    assert list(TemplateGallery.load(folder)) == ["bo"]
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_a_gallery_of_nobody_holds_no_templates(tmp_path):
    folder = TemplateGallery().save(tmp_path / "people")
    (folder / "templates.safetensors").write_bytes(tensor_file("templates", _people(1)))
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
    gallery.add(["ann", "bo"], _people(2))
    folder = gallery.save(tmp_path / "people")
    stored = safetensors.load_file(folder / "templates.safetensors")
    np.testing.assert_array_equal(stored["templates"], gallery.templates)
    safetensors.save_file({"templates": _people(5)}, tmp_path / "theirs.safetensors")
    np.testing.assert_array_equal(
        map_tensor(tmp_path / "theirs.safetensors", "templates"), _people(5)
    )


def test_what_is_no_gallery_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there must be a gallery at"):
        TemplateGallery.load(tmp_path)
    gallery = TemplateGallery()
    gallery.add(["ann", "bo"], _people(2))
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


@pytest.mark.parametrize("scale", [1e-14, 1e-6, 1e6, 1e17])
@pytest.mark.parametrize("probes", [3, 40])
def test_search_is_exact_wherever_it_takes_values(scale, probes):
    rows = np.random.default_rng(0).random((600, 20)).astype(np.float32)
    gallery = TemplateGallery()
    gallery.add(range(600), rows * np.float32(scale))
    asked = np.random.default_rng(1).random((probes, 20)).astype(np.float32)
    found = gallery.search(asked * np.float32(scale), k=3)
    expected = np.sort(reference.chi2_matrix(asked, rows), axis=1)[:, :3]
    np.testing.assert_allclose(found.distances / scale, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-16, 2e18, 1e30, 1e40])
def test_values_that_a_search_would_be_wrong_for_are_refused(scale):
    rows = np.random.default_rng(0).uniform(0.9, 1, (3, 20))
    gallery = TemplateGallery()
    with pytest.raises(ValueError, match=r"largest value of each row of templates must be 0 or"):
        gallery.add(["a", "b", "c"], rows * scale)
    assert len(gallery) == 0
    gallery.add(["a", "b", "c"], rows)
    with pytest.raises(ValueError, match=r"largest value of each row of probes must be 0 or"):
        gallery.search(rows * scale)


def test_a_radius_may_be_of_any_size(recwarn):
    gallery = TemplateGallery()
    gallery.add(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])
    for radius in (1e39, 1e300, float("inf")):
        assert gallery.search_within([[1.0, 0.0]], radius)[0].ids.tolist() == ["a", "b"]
    assert not recwarn.list
