"""Dask gives the answers of one machine, also when a worker dies."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

array = pytest.importorskip("dask.array", reason="needs the [distributed] extra")

from sfpose import TemplateGallery, TemplateVerifier  # noqa: E402
from sfpose.distributed import score_matrix, search  # noqa: E402


def _rows(count, seed=0, width=40):
    rows = np.maximum(np.random.default_rng(seed).normal(size=(count, width)), 0) + 1e-6
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("call", [score_matrix, search])
def test_without_dask_it_is_said_how_to_get_it(call, monkeypatch):
    for name in ("dask", "dask.array", "dask.base", "dask.delayed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "sfpose\[distributed\]"'):
        call(_rows(2), _rows(3))


@pytest.mark.parametrize("chunks", [(100, 40), (37, 11)])
def test_scores_are_those_of_one_machine(chunks):
    a, b = _rows(150), _rows(90, 1)
    scored = score_matrix(array.from_array(a, chunks=chunks), array.from_array(b, chunks=chunks))
    assert scored.dtype == np.float32
    found, expected = scored.compute(scheduler="synchronous"), TemplateVerifier().score_matrix(a, b)
    if min(chunks) > 16:
        np.testing.assert_array_equal(found, expected)
    # Blocks of a few pairs go through the float64 reference.
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("first", ["float16", "float32", "float64", "int32", "bool"])
@pytest.mark.parametrize("second", ["float16", "float32", "float64", "uint8"])
@pytest.mark.parametrize("chunk", [3, 20])
def test_the_type_that_is_declared_comes(first, second, chunk):
    """Of one machine's answer, also where a block holds so few pairs that NumPy answers."""
    a, b = (1000 * _rows(20)).astype(first), (1000 * _rows(18, 1)).astype(second)
    scored = score_matrix(array.from_array(a, chunks=chunk), array.from_array(b, chunks=chunk))
    found, expected = scored.compute(scheduler="synchronous"), TemplateVerifier().score_matrix(a, b)
    assert scored.dtype == found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_a_search_is_that_of_a_gallery(k):
    templates, probes = _rows(300), _rows(40, 1)
    templates[150:170] = templates[:20]  # equals in different blocks
    probes[:5] = templates[:5]
    gallery = TemplateGallery()
    gallery.add(range(300), templates)
    expected = gallery.search(probes, k)
    rows, distances = search(array.from_array(templates, chunks=(50, 40)), probes, k)
    np.testing.assert_array_equal(rows, expected.ids.astype(int))
    np.testing.assert_array_equal(distances, expected.distances)


@pytest.mark.parametrize("chunks", [((20, 0, 30, 10), (40,)), ((25, 35, 0), (11, 29))])
def test_blocks_without_rows_and_of_some_columns_change_nothing(chunks):
    """As a filter leaves them, and whoever cuts a table both ways."""
    templates, probes = _rows(60), _rows(7, 1)
    blocks = array.from_array(templates, chunks=chunks)
    gallery = TemplateGallery()
    gallery.add(range(60), templates)
    expected = gallery.search(probes, 4)
    rows, distances = search(blocks, probes, 4)
    np.testing.assert_array_equal(rows, expected.ids.astype(int))
    np.testing.assert_array_equal(distances, expected.distances)
    scored = score_matrix(blocks, probes).compute(scheduler="synchronous")
    np.testing.assert_allclose(scored, TemplateVerifier().score_matrix(templates, probes), 1e-6)


def test_scores_of_rows_that_a_filter_has_not_counted_yet():
    templates, probes = _rows(60), _rows(20, 1)
    kept = np.arange(60) % 3 > 0
    blocks = array.from_array(templates, chunks=(30, 40))
    scored = score_matrix(blocks[array.from_array(kept, chunks=30)], probes)
    expected = TemplateVerifier().score_matrix(templates[kept], probes)
    np.testing.assert_allclose(scored.compute(scheduler="synchronous"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search(_rows(5), _rows(2), 6), r"k must be a whole number in 1 \.\.\. 5; got 6"),
        (lambda: search(_rows(5), _rows(2, width=3)), "probes must have 40 values a row; got 3"),
        (lambda: search(-_rows(5), _rows(2)), "templates must not be negative"),
        (lambda: search(_rows(0), _rows(2)), r"k must be a .* in 1 \.\.\. 0; got 1"),
        (
            lambda: score_matrix(array.zeros((0, 40)), _rows(2)).compute(),
            "A must hold at least one",
        ),
        (lambda: search(np.ones(3), _rows(2)), r"templates must have shape \(n, d\)"),
        (lambda: score_matrix(_rows(2), _rows(2, width=3)), "B must have 40 values a row; got 3"),
        (lambda: score_matrix(_rows(2), _rows(2) * 1j), "B must be numbers; got dtype complex64"),
        (lambda: score_matrix(-_rows(2), _rows(2)).compute(), "A must not be negative"),
    ],
)
def test_what_one_machine_refuses_many_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _slow(block):
    time.sleep(0.3)
    return block


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the [distributed] extra")
    templates, probes = _rows(400), _rows(30, 1)
    gallery = TemplateGallery()
    gallery.add(range(400), templates)
    expected = gallery.search(probes, 5)
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        blocks = array.from_array(templates, chunks=(20, 40)).map_blocks(_slow)
        killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
        killer.start()
        rows, distances = search(blocks, probes, 5)
        killer.join()
        assert victim not in client.run(os.getpid).values()
    np.testing.assert_array_equal(rows, expected.ids.astype(int))
    np.testing.assert_array_equal(distances, expected.distances)


def test_tables_are_welcome_and_no_numbers_are_not():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    rows = _rows(20)
    table = pandas.DataFrame(rows)
    np.testing.assert_array_equal(
        score_matrix(table, table).compute(scheduler="synchronous"),
        TemplateVerifier().score_matrix(rows, rows),
    )
    found = search(table, table, k=2)
    np.testing.assert_array_equal(found[0], search(rows, rows, k=2)[0])
    words = array.from_array(np.full((3, 2), "1", object), chunks=(3, 2))
    with pytest.raises(ValueError, match="A must be numbers; got dtype object"):
        score_matrix(words, words)


def test_a_filter_may_leave_nothing_of_a_block():
    """How many rows it leaves is known when it has run, and the first block has none then."""
    templates, probes = _rows(60), _rows(7, 1)
    blocks = array.from_array(templates, chunks=(20, 40))
    some = blocks[array.from_array(np.arange(60) >= 25, chunks=20)]
    expected = TemplateVerifier().score_matrix(templates[25:], probes)
    scored = score_matrix(some, probes).compute(scheduler="synchronous")
    assert scored.dtype == expected.dtype
    np.testing.assert_allclose(scored, expected, 1e-6)
    with pytest.raises(ValueError, match="must know how many rows each block has"):
        search(some, probes, 3)
    rows, _ = search(some.compute_chunk_sizes(), probes, 3)
    np.testing.assert_array_equal(rows, np.argsort(expected.T, axis=1, kind="stable")[:, :3])
