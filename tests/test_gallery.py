"""Exact search against brute force, and galleries that survive what may happen."""

import copy
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sfpose._search as search_module
from sfpose import TemplateGallery
from sfpose._kernels import reference
from sfpose._scoring import chi2_matrix


def rows_of(count, width=40, seed=0, spread=0.3):
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
    templates, probes = rows_of(300, spread=spread), rows_of(50, seed=1, spread=spread)
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


@pytest.mark.parametrize("width", [3, 64])
def test_the_smallest_rows_that_a_gallery_takes_are_found(width):
    """Sums of two values below 2^-62 count as so much, and are lost beside the largest one."""
    rng = np.random.default_rng(0)

    def rows(count):
        found = rng.uniform(0, 5e-20, (count, width)).astype(np.float32)
        found[np.arange(count), rng.integers(0, width, count)] = 1.01e-12
        return found

    templates, probes = rows(600), rows(64)
    gallery = TemplateGallery()
    gallery.add(range(600), templates)
    distances = gallery.search(probes, k=2).distances
    exact = reference.chi2_matrix(probes, templates)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :2], rtol=1e-5, atol=1e-17)
    radius = 1e-13  # Whose largest values lie in the same place.
    for row, near in zip(exact, gallery.search_within(probes, radius), strict=True):
        assert sorted(near.ids) == np.flatnonzero(row <= radius).tolist()
        assert len(near.ids)


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
    templates = rows_of(2000, 200, spread=0.05)
    gallery = TemplateGallery()
    gallery.add(range(2000), templates)
    ids, _ = gallery.search(templates[:40], k=1)
    assert ids[:, 0].tolist() == list(range(40))
    assert sum(scored) < 0.5 * 40 * 2000


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads_do_not_change_the_answer(n_jobs):
    gallery = TemplateGallery()
    gallery.add(range(300), rows_of(300))
    other = TemplateGallery(n_jobs=n_jobs)
    other.add(range(300), rows_of(300))
    for one, two in zip(
        gallery.search(rows_of(90, seed=3), 4), other.search(rows_of(90, seed=3), 4), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_memory_of_a_search_is_that_of_its_blocks_not_of_the_gallery():
    width, probes = 100, rows_of(1500, 100, seed=1)
    peaks = []
    for rows in (20_000, 40_000):
        gallery = TemplateGallery()
        gallery.add(range(rows), rows_of(rows, width))
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
    row = rows_of(1)
    gallery = TemplateGallery()
    gallery.add(["c", "a", "b"], np.repeat(row, 3, axis=0))
    assert gallery.search(row, k=3).ids[0].tolist() == ["c", "a", "b"]


@pytest.mark.usefixtures("small_blocks")
def test_radius_search_finds_all_and_no_one_else():
    templates, probes = rows_of(300), rows_of(20, seed=1)
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
    gallery.add(["ann", "bo"], rows_of(2))
    before = gallery.templates.copy()
    for change, message in [
        (lambda: gallery.add(["cy", "ann"], rows_of(2)), "'ann' is in the gallery: use update"),
        (lambda: gallery.add(["cy", "cy"], rows_of(2)), "'cy' is given twice"),
        (lambda: gallery.add(["cy"], rows_of(2)), "one id a template; got 1 and 2"),
        (lambda: gallery.add(["cy"], -rows_of(1)), "templates must not be negative"),
        (
            lambda: gallery.add(["cy"], rows_of(1, width=7)),
            "templates must have 40 values a row; got 7",
        ),
        (lambda: gallery.add("cy", rows_of(2)), "sequence of ids; got one str"),
        (lambda: gallery.update(["ann", "ann"], rows_of(2)), "'ann' is given twice"),
        (lambda: gallery.extend(["ann"], -rows_of(1)), "templates must not be negative"),
        (lambda: gallery.add(["cy"], rows_of(1), counts=[0]), "whole numbers above 0"),
        (lambda: gallery.add(["cy"], rows_of(1), counts=[1.0]), "got float64"),
        (lambda: gallery.update(["bo"], rows_of(1), counts=[1, 2]), r"of shape \(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            change()
    for change in (
        lambda: gallery.remove(["ann", "cy"]),
        lambda: gallery.update(["cy"], rows_of(1)),
        lambda: gallery.extend(["ann", "cy"], rows_of(2)),
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
        gallery.search(rows_of(1))
    gallery.add(["ann", "bo"], rows_of(2))
    for k in (0, 3, 1.5, True):
        with pytest.raises(ValueError, match=r"k must be a whole number in 1 \.\.\. 2"):
            gallery.search(rows_of(1), k=k)
    for radius in (-1, np.nan, None, "0.5", [0.5]):
        with pytest.raises(ValueError, match="radius must be a number, at least 0; got"):
            gallery.search_within(rows_of(1), radius)
    with pytest.raises(ValueError, match="probes must have 40 values a row; got 3"):
        gallery.search(np.ones((1, 3)))
    with pytest.raises(ValueError, match="probes must be finite"):
        gallery.search(np.full((1, 40), np.nan))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("change", ["add", "update", "extend", "remove", "remove all"])
@pytest.mark.parametrize("changed", ["copy", "original"])
def test_a_copy_and_its_original_change_apart(tmp_path, loaded, change, changed):
    gallery = TemplateGallery(weights="default")
    rows = rows_of(7, width=256)
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
    other.add(["ann"], rows_of(1))
    assert (len(gallery), len(other)) == (0, 1)


@pytest.mark.parametrize("scale", [1e-11, 1e-6, 1e6, 1e17])
@pytest.mark.parametrize("probes", [3, 40])
def test_search_is_exact_wherever_it_takes_values(scale, probes):
    rows = np.random.default_rng(0).random((600, 20)).astype(np.float32)
    gallery = TemplateGallery()
    gallery.add(range(600), rows * np.float32(scale))
    asked = np.random.default_rng(1).random((probes, 20)).astype(np.float32)
    found = gallery.search(asked * np.float32(scale), k=3)
    expected = np.sort(reference.chi2_matrix(asked, rows), axis=1)[:, :3]
    np.testing.assert_allclose(found.distances / scale, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 2e18, 1e30, 1e40])
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


@pytest.mark.parametrize("probes", [2, 30])
def test_many_nearest_are_those_of_a_stable_sort(probes, monkeypatch):
    """By sorting blocks, and by putting each in its place; equals stay in their order."""
    monkeypatch.setattr(search_module, "BLOCK_ROWS", 64)
    templates = np.repeat(rows_of(150), 2, axis=0)
    gallery = TemplateGallery()
    gallery.add(list(range(300)), templates)
    asked = rows_of(probes, seed=3)
    for many in (1, 1024):
        monkeypatch.setattr(search_module, "_MANY", many)
        found = gallery.search(asked, k=200)
        exact = chi2_matrix(asked, templates)
        order = np.argsort(exact, axis=1, kind="stable")[:, :200]
        np.testing.assert_array_equal(found.ids, order)
        np.testing.assert_array_equal(found.distances, np.take_along_axis(exact, order, 1))
