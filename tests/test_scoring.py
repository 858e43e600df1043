"""Chi-square scoring against float64 arithmetic, scikit-learn and its own invariants."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics.pairwise import additive_chi2_kernel

from sfpose import TemplateGallery, TemplateVerifier, _scoring, _search
from sfpose._kernels import chi2, reference
from sfpose._scoring import (
    FEW_PAIRS,
    check_descriptors,
    chi2_matrix,
    chi2_pairs,
    chi2_pairs_at,
    threads_of,
)

BOUNDS = {np.float32: 1e-6, np.float64: 1e-13}


def _relu_like(rows, width=1000, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return np.maximum(values, 0).astype(dtype)


def _exact(x, y):
    """In plain Python, one value at a time: an arithmetic that shares no code."""
    return sum((a - b) ** 2 / (a + b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if a + b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrix_equals_scikit_learn_and_the_reference(dtype):
    a, b = _relu_like(70, dtype=dtype), _relu_like(33, dtype=dtype, seed=1)
    got = chi2_matrix(a, b)
    assert got.dtype == dtype
    expected = -additive_chi2_kernel(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=BOUNDS[dtype])
    np.testing.assert_allclose(got, reference.chi2_matrix(a, b), rtol=BOUNDS[dtype])
    assert got[3, 5] == pytest.approx(_exact(a[3], b[5]), rel=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, FEW_PAIRS, FEW_PAIRS + 1, 9000])
def test_pairs_equal_the_reference_on_both_sides_of_the_switch(dtype, count):
    a, b = _relu_like(count, 40, dtype), _relu_like(count, 40, dtype, seed=1)
    got = chi2_pairs(a, b)
    assert (got.dtype, got.shape) == (dtype, (count,))
    np.testing.assert_allclose(got, reference.chi2_pairs(a, b), rtol=BOUNDS[dtype])


def test_pairs_by_index_are_the_gathered_pairs():
    a, b = _relu_like(60, 50), _relu_like(45, 50, seed=2)
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 60, 5000), rng.integers(0, 45, 5000)
    got = chi2_pairs_at(a, rows, columns, b)
    np.testing.assert_array_equal(got, chi2_matrix(a, b)[rows, columns])
    own = chi2_pairs_at(a, rows, rows)
    assert not own.any()


@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_bits_do_not_depend_on_threads(n_jobs):
    a, b = _relu_like(101), _relu_like(37, seed=1)
    np.testing.assert_array_equal(chi2_matrix(a, b), chi2_matrix(a, b, n_jobs=n_jobs))
    rows = np.arange(101).repeat(100)
    columns = np.tile(np.arange(37), 273)[: len(rows)]
    one = chi2_pairs_at(a, rows, columns, b)
    np.testing.assert_array_equal(one, chi2_pairs_at(a, rows, columns, b, n_jobs=n_jobs))


@pytest.mark.parametrize("n_jobs", [None, 1, 2, 3, -1])
def test_threads_are_those_that_joblib_would_start(n_jobs):
    assert threads_of(n_jobs) == joblib.effective_n_jobs(n_jobs)
    with joblib.parallel_config(n_jobs=3, backend="threading"):
        assert threads_of(n_jobs) == joblib.effective_n_jobs(n_jobs)
        assert threads_of(None) == 3
    assert threads_of(None) == 1


def _pools(monkeypatch):
    """Sizes of the thread pools that scoring and search start from now on."""
    sizes = []

    def start(count):
        sizes.append(count)
        return pool(count)

    pool = _scoring.ThreadPoolExecutor
    for module in (_scoring, _search):
        monkeypatch.setattr(module, "ThreadPoolExecutor", start)
    return sizes


def test_a_parallel_config_reaches_verifier_and_gallery(monkeypatch):
    rows = _relu_like(400, 60)
    rows /= rows.sum(axis=1, keepdims=True)
    verifier, gallery = TemplateVerifier(), TemplateGallery()
    gallery.add([str(row) for row in range(400)], rows)
    calls = [
        lambda: verifier.score_matrix(rows, rows[:90]),
        lambda: verifier.score_pairs(np.tile(rows, (30, 1)), np.tile(rows[::-1], (30, 1))),
        lambda: gallery.search(rows, 3).distances,
    ]
    sizes = _pools(monkeypatch)
    for call in calls:
        expected = call()
        sizes.clear()
        with joblib.parallel_config(n_jobs=2):
            np.testing.assert_array_equal(call(), expected)
        assert sizes == [2]


def test_one_decision_starts_no_thread(monkeypatch):
    sizes = _pools(monkeypatch)
    rows = np.full((2, 256), 1 / 256, np.float32)
    with joblib.parallel_config(n_jobs=2):
        TemplateVerifier().verify(rows[0], rows[1])
    assert sizes == []


def test_scoring_on_one_thread_loads_no_joblib():
    code = (
        "import sys, numpy as np; from sfpose._scoring import chi2_matrix;"
        "chi2_matrix(np.ones((40, 3)), np.ones((40, 3))); print('joblib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_bits_do_not_depend_on_the_company():
    a, b = _relu_like(101), _relu_like(37, seed=1)
    whole = chi2_matrix(a, b)
    np.testing.assert_array_equal(whole[40:99, 3:30], chi2_matrix(a[40:99], b[3:30]))


@pytest.mark.parametrize("scale", [1e-38, 1e19, 1e25, 1e34])
def test_distances_hold_beside_a_row_of_any_scale(scale):
    a, b = _relu_like(300, 64), _relu_like(300, 64, seed=1)
    pairs, matrix = chi2_pairs(a, b), chi2_matrix(a[:20], b)
    a[0] *= np.float32(scale)
    np.testing.assert_allclose(chi2_pairs(a, b)[1:], pairs[1:], rtol=1e-6)
    np.testing.assert_allclose(chi2_matrix(a[:20], b)[1:], matrix[1:], rtol=1e-6)
    assert chi2_pairs(a, b).dtype == np.float32


def test_read_only_strided_and_mapped_input_is_welcome(tmp_path):
    a, b = _relu_like(64, 20), _relu_like(64, 20, seed=1)
    expected = chi2_matrix(a, b)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(chi2_matrix(mapped, b), expected)
    np.testing.assert_array_equal(chi2_matrix(np.asfortranarray(a), b[::-1])[:, ::-1], expected)
    assert check_descriptors(mapped).base is not None


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e10, 1e30])
def test_no_overflow_and_no_underflow_far_from_one(scale):
    a, b = _relu_like(40, 64), _relu_like(40, 64, seed=1)
    got = chi2_matrix(a * np.float32(scale), b * np.float32(scale)) / scale
    np.testing.assert_allclose(got, chi2_matrix(a, b), rtol=1e-5)


# Zero, or within the range in which the stated relative error holds; what lies far below
# the largest value has a test of its own.
values = st.one_of(st.just(0.0), st.floats(2.0**-20, 1e6, width=32))


@st.composite
def two_batches(draw):
    width = draw(st.integers(1, 9))
    rows = draw(st.integers(1, 40))
    array = npst.arrays(np.float32, (rows, width), elements=values)
    return draw(array), draw(array)


@given(st.floats(1e-30, 1e-12), st.sampled_from([1e-5, 1.0, 1e15]))
@settings(max_examples=60, deadline=None)
def test_values_far_below_the_largest_are_lost_at_most(share, largest):
    a, b = np.zeros((20, 9), np.float32), np.full((20, 9), share * largest, np.float32)
    b[0] = largest
    exact = reference.chi2_matrix(a, b)
    np.testing.assert_allclose(chi2_matrix(a, b), exact, rtol=1e-6, atol=9e-12 * largest)


@given(two_batches())
@settings(max_examples=60, deadline=None)
def test_distance_is_a_bounded_symmetric_dissimilarity(batches):
    a, b = batches
    matrix = chi2_matrix(a, b).astype(np.float64)
    np.testing.assert_array_equal(matrix, chi2_matrix(b, a).T)
    assert (matrix >= 0).all()
    assert not np.diag(chi2_matrix(a, a)).any()
    roots = ((np.sqrt(a.astype(float))[:, None] - np.sqrt(b.astype(float))[None]) ** 2).sum(2)
    slack = 1e-5 * matrix + 1e-30
    assert (roots <= matrix + slack).all()
    assert (matrix <= 2 * roots + slack).all()
    totals = a.astype(float).sum(1)[:, None] + b.astype(float).sum(1)[None]
    assert (matrix <= totals * (1 + 1e-5)).all()


@given(two_batches(), st.sampled_from([0.25, 2.0, 64.0]), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_distance_is_homogeneous_and_blind_to_order(batches, factor, random):
    a, b = batches
    expected = chi2_matrix(a, b)
    np.testing.assert_allclose(
        chi2_matrix(a * np.float32(factor), b * np.float32(factor)), factor * expected, rtol=1e-5
    )
    order = list(range(a.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        chi2_matrix(a[:, order], b[:, order]), expected, rtol=1e-5, atol=1e-30
    )


@given(
    npst.arrays(np.float32, 7, elements=st.floats(-12, 0, width=32)),
    npst.arrays(bool, 7),
    st.sampled_from([1e-6, 1.0, 9.9e17]),
)
@settings(max_examples=60, deadline=None)
def test_values_that_are_not_far_below_the_largest_count(exponents, held, largest):
    """Down to the 1e-12th part of it, at both ends of what is not scaled."""
    row = np.float32(largest) * np.float32(10) ** exponents
    a, b = np.tile(np.where(held, row, 0), (20, 1)), np.tile(np.where(held, 0, row), (20, 1))
    b[0, 0] = largest
    np.testing.assert_allclose(chi2_matrix(a, b), reference.chi2_matrix(a, b), rtol=1e-6)


@given(two_batches())
@settings(max_examples=40, deadline=None)
def test_kernel_and_reference_agree_on_any_input(batches):
    a, b = batches
    out = np.empty((len(a), len(b)), np.float32)
    chi2.chi2_block(a, b, chi2.LOWEST[out.dtype], out)
    np.testing.assert_allclose(out, reference.chi2_matrix(a, b), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, -2.0]], r"A must not be negative; got -2\.0"),
        ([[1.0, np.nan]], "A must be finite; got NaN or infinity"),
        ([[1.0, np.inf]], "A must be finite"),
        ([1.0, 2.0], r"A must have shape \(n, d\); got \(2,\)"),
        (np.zeros((0, 2)), r"at least one row and one value; got \(0, 2\)"),
        ([["a", "b"]], "A must be numbers"),
        (np.array([[1.0, "2"]], object), "A must be numbers"),
        ([[1 + 2j, 0]], "A must be numbers"),
    ],
)
@pytest.mark.parametrize("score", [chi2_matrix, chi2_pairs])
def test_what_is_no_descriptor_is_refused(score, bad, message):
    with pytest.raises(ValueError, match=message):
        score(bad, [[1.0, 2.0]])


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="B must have 3 values a row; got 2"):
        chi2_matrix(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="as many rows as each other; got 2 and 3"):
        chi2_pairs(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"rows must lie in 0 \.\.\. 1; got 0 \.\.\. 2"):
        chi2_pairs_at(np.ones((2, 3)), [0, 2], [0, 1])
    with pytest.raises(ValueError, match="equally long"):
        chi2_pairs_at(np.ones((2, 3)), [0], [0, 1])
    with pytest.raises(ValueError, match="whole numbers"):
        chi2_pairs_at(np.ones((2, 3)), [0.5], [0])


def test_other_number_types_are_cast_as_stated():
    whole = np.array([[3, 1], [0, 2]])
    assert chi2_matrix(whole, whole).dtype == np.float64
    half = whole.astype(np.float16)
    assert chi2_matrix(half, half).dtype == np.float32
    mixed = chi2_matrix(whole.astype(np.float32), whole.astype(np.float64))
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed, [[0, 3 + 1 / 3], [3 + 1 / 3, 0]])


@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (np.float32, 1e-44),
        (np.float32, 1e-40),
        (np.float32, 1e-38),
        (np.float32, 3e36),
        (np.float64, 5e-324),
        (np.float64, 1e-310),
        (np.float64, 1e306),
    ],
)
def test_the_ends_of_the_range_keep_the_bound(dtype, scale, count):
    """Against long double; below the smallest normal number, its spacing is all there is."""
    rng = np.random.default_rng(0)
    a, b = ((rng.random((count, 40)) * scale).astype(dtype) for _ in range(2))
    b[: count // 2] = a[: count // 2]
    wide = a.astype(np.longdouble)[:, None], b.astype(np.longdouble)[None]
    sums, squares = wide[0] + wide[1], (wide[0] - wide[1]) ** 2
    exact = np.divide(squares, sums, out=np.zeros_like(sums), where=sums > 0).sum(axis=2)
    got = chi2_matrix(a, b)
    assert got.dtype == dtype
    spacing = float(np.finfo(dtype).smallest_subnormal)
    assert np.all(np.abs(got - exact) <= BOUNDS[dtype] * exact + spacing)
    assert not np.diag(got)[: count // 2].any()


@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 3e38), (np.float64, 1e308)])
def test_values_whose_distances_might_not_fit_are_refused(dtype, scale, count):
    rows = np.full((count, 40), scale, dtype)
    for score in (chi2_matrix, chi2_pairs):
        with pytest.raises(ValueError, match=r"values must be at most .* for distances of 40"):
            score(rows, rows)


@given(two_batches())
@settings(max_examples=40, deadline=None)
def test_float32_and_float64_agree_within_the_bound(batches):
    a, b = batches
    exact = chi2_matrix(a.astype(np.float64), b.astype(np.float64))
    largest = float(max(a.max(), b.max()))
    np.testing.assert_allclose(chi2_matrix(a, b), exact, rtol=1e-6, atol=1e-11 * largest)


def test_numbers_in_the_byte_order_of_other_machines_are_numbers():
    a, b = _relu_like(4, 6), _relu_like(4, 6, seed=1)
    expected = chi2_matrix(a, b.astype(np.float64))
    np.testing.assert_array_equal(chi2_matrix(a.astype(">f4"), b.astype(">f8")), expected)


def test_a_pair_has_the_distance_alone_that_it_has_among_many_to_a_millionth():
    a, b = _relu_like(1000, 256), _relu_like(1000, 256, seed=1)
    alone = np.concatenate([chi2_pairs(a[k : k + 1], b[k : k + 1]) for k in range(1000)])
    np.testing.assert_allclose(chi2_pairs(a, b), alone, rtol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_the_larger_side_says_whether_squares_fit_whichever_it_is(order):
    small, large = np.ones((20, 30), np.float32), np.full((20, 30), 1e25, np.float32)
    sides = (small, large)[::order]
    # Of each value (1e25 - 1)^2 / (1e25 + 1), whose square is beyond float32.
    np.testing.assert_allclose(chi2_matrix(*sides), 30 * 1e25, rtol=1e-6)


@pytest.mark.parametrize("count", [1, FEW_PAIRS + 1])
@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (-1, 0, r"rows must lie in 0 \.\.\. 4; got -1 \.\.\. -1"),
        (5, 0, r"rows must lie in 0 \.\.\. 4; got 5 \.\.\. 5"),
        (0, -1, r"columns must lie in 0 \.\.\. 1; got -1 \.\.\. -1"),
        (0, 3, r"columns must lie in 0 \.\.\. 1; got 3 \.\.\. 3"),
        (True, 0, "rows must be whole numbers"),
        (0, False, "columns must be whole numbers"),
    ],
)
def test_an_index_names_a_row_of_its_own_side(count, row, column, message):
    """Compiled code would read past the end of an array, and answer."""
    five, two = np.ones((5, 3)), np.ones((2, 3))
    with pytest.raises(ValueError, match=message):
        chi2_pairs_at(five, [row] * count, [column] * count, two)


def test_numbers_in_an_array_of_objects_are_numbers():
    """As pandas gives those of its own types, which know missing values."""
    pd = pytest.importorskip("pandas", reason="needs pandas")
    a, b = _relu_like(3), _relu_like(3, seed=1)
    expected = chi2_pairs(a.astype(np.float64), b)
    np.testing.assert_array_equal(chi2_pairs(a.astype(object), b), expected)
    nullable = pd.DataFrame(a.astype(np.float64)).astype("Float64")
    np.testing.assert_array_equal(chi2_pairs(nullable, b), expected)
    nullable.iloc[0, 0] = pd.NA
    with pytest.raises(ValueError, match="A must be numbers; got dtype object"):
        chi2_pairs(nullable, b)
