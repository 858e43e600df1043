"""The one way to the chi-square kernels: checks, data types, contiguity, threads.

May import ``_kernels`` and numpy. A handful of pairs goes through the NumPy
reference, so that a single decision waits for no compiler; batches go through numba,
split into blocks of rows over a thread pool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, check_index, check_jobs, is_number
from sfpose._kernels import reference

__all__ = [
    "FEW_PAIRS",
    "Floats",
    "check_descriptors",
    "check_searchable",
    "chi2_matrix",
    "chi2_matrix_of_checked",
    "chi2_of_checked",
    "chi2_pairs",
    "chi2_pairs_at",
    "over_blocks",
    "threads_of",
]

FEW_PAIRS = 256
"""Up to so many pairs the NumPy reference answers: faster than a cold compiler."""

_SAFE = {np.dtype(np.float32): (1e-6, 1e18), np.dtype(np.float64): (1e-100, 1e150)}
"""Largest values of inputs that kernels take as they are: squares of what matters stay in range."""

_SEARCHABLE = (1e-12, 1e18)
"""The same for searches, which scale nothing, for each row by itself: kernels count a sum of two
values as 2^-62 at least, which has to be lost in the rounding of the others."""

_BLOCK_ROWS = 32
_BLOCK_PAIRS = 4096

Floats = NDArray[np.floating[Any]]


def check_descriptors(
    X: ArrayLike, *, name: str = "descriptors", width: int | None = None, one: bool = False
) -> Floats:
    """Return ``X`` as a C-contiguous float array of descriptors, or refuse it.

    Parameters
    ----------
    X : array of shape (n, d), or (d,) where ``one`` may stand alone
        float32 and float64 are taken as they are, without a copy if contiguous and in the
        machine's byte order; float16 becomes float32; integers, and objects that are all
        numbers, become float64.
    name : str
        What to call ``X`` in an error.
    width : int, optional
        The ``d`` that is required.

    Returns
    -------
    float32 or float64 array of shape (n, d)

    Raises
    ------
    ValueError
        If ``X`` is not two-dimensional, empty, of another width, not numeric, or
        holds a negative value, NaN, infinity or what is masked.

    Examples
    --------
    >>> from sfpose._scoring import check_descriptors
    >>> check_descriptors([[0, 1], [2, 3]]).dtype
    dtype('float64')
    """
    array = as_array(X, f"{name} must have shape (n, d)")
    if array.dtype == object and all(map(is_number, array.flat)):
        array = array.astype(np.float64)
    if one and array.ndim < 2:
        array = np.atleast_2d(array)
    native = array.dtype.newbyteorder("=")
    if native == np.float16:
        array = array.astype(np.float32)
    elif array.dtype.kind in "iub":
        array = array.astype(np.float64)
    elif native in (np.float32, np.float64):
        array = array.astype(native, copy=False)
    else:
        raise ValueError(f"{name} must be numbers; got dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (n, d); got {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{name} must hold at least one row and one value; got {array.shape}")
    if width is not None and array.shape[1] != width:
        raise ValueError(f"{name} must have {width} values a row; got {array.shape[1]}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            f"{name} must be finite; got NaN or infinity "
            "(NaN stands for an image in which no face was found)"
        )
    if low < 0:
        raise ValueError(f"{name} must not be negative; got {low}")
    return np.ascontiguousarray(array)


def first_of_each(rows: Floats, owners: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows (n,) no earlier one of the same owner equals, as those of a photo filed twice."""
    seen: dict[tuple[object, int], int] = {}
    # By hashes: the values of a million rows would be in memory once more.
    keys = ((owner, hash(row.tobytes())) for owner, row in zip(owners.tolist(), rows, strict=True))
    return np.array([seen.setdefault(key, row) == row for row, key in enumerate(keys)], np.bool_)


def check_searchable(
    X: ArrayLike, *, name: str = "descriptors", width: int | None = None
) -> NDArray[np.float32]:
    """Return ``X`` as ``check_descriptors`` does, as float32 that a search is exact for.

    A search scales nothing, so squares of what matters must stay in the range of float32.

    Parameters
    ----------
    X, name, width
        As for ``check_descriptors``.

    Returns
    -------
    float32 array of shape (n, d)

    Raises
    ------
    ValueError
        If ``X`` is refused by ``check_descriptors``, or the largest value of a row is above
        1e18, or below 1e-12 without being 0.

    Examples
    --------
    >>> from sfpose._scoring import check_searchable
    >>> check_searchable([[0.0, 1.0]]).dtype
    dtype('float32')
    """
    rows = check_descriptors(X, name=name, width=width)
    largest = rows.max(axis=1)
    lowest, highest = _SEARCHABLE
    odd = ((largest > 0) & (largest < lowest)) | (largest > highest)
    if odd.any():
        raise ValueError(
            f"the largest value of each row of {name} must be 0 or between {lowest:g} and "
            f"{highest:g}; got {largest[odd][0]:g}"
        )
    return rows.astype(np.float32, copy=False)


def _check_two(A: ArrayLike, B: ArrayLike) -> tuple[Floats, Floats]:
    first = check_descriptors(A, name="A")
    return first, first if B is A else check_descriptors(B, name="B", width=first.shape[1])


class _InRange(NamedTuple):
    """Both inputs as one type; by what their distances must grow, and of which type they are."""

    first: Floats
    second: Floats
    factor: float
    kind: np.dtype[np.floating[Any]]

    def distances(self, found: Floats) -> Floats:
        """What was found between the inputs, as that of what was given."""
        if self.factor != 1.0:
            found *= self.factor
        return found.astype(self.kind, copy=False)


def _in_range(first: Floats, second: Floats) -> _InRange:
    """Both inputs in the range of squares: all of float32 is in that of float64.

    The distance is homogeneous, so that of float64 is divided by a power of two, which is exact.
    """
    common = np.result_type(first, second)
    first, second = first.astype(common, copy=False), second.astype(common, copy=False)
    largest = float(max(first.max(), second.max()))
    lowest, highest = _SAFE[common]
    if largest == 0 or lowest <= largest <= highest:
        return _InRange(first, second, 1.0, common)
    # No distance exceeds the sum of all values of both.
    most = float(np.finfo(common).max) / (2 * first.shape[1])
    if largest > most:
        raise ValueError(
            f"values must be at most {most:.3g} for distances of {first.shape[1]} values to fit "
            f"into {common}; got {largest:.3g}"
        )
    if common == np.float32:
        # One row would take all others out of the range, if they were divided with it.
        return _InRange(first.astype(np.float64), second.astype(np.float64), 1.0, common)
    exponent = np.frexp(largest)[1]
    scaled = np.ldexp(first, -exponent), np.ldexp(second, -exponent)
    return _InRange(*scaled, float(np.ldexp(1.0, exponent)), common)


def threads_of(n_jobs: int | None) -> int:
    """Threads of ``n_jobs``: None is one or what ``joblib.parallel_config`` says, -1 all."""
    # Where joblib is not loaded nobody has configured it, and one decision need not load it.
    if n_jobs is None and "joblib" not in sys.modules:
        return 1
    from joblib import effective_n_jobs

    return int(effective_n_jobs(check_jobs(n_jobs)))


def over_blocks(work: Callable[[slice], None], count: int, block: int, n_jobs: int | None) -> None:
    """Call ``work`` for each block of ``count`` rows; blocks do not depend on ``n_jobs``."""
    blocks = [slice(start, start + block) for start in range(0, count, block)]
    threads = min(threads_of(n_jobs), len(blocks))
    if threads == 1:
        for part in blocks:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, blocks):
            pass


def chi2_matrix(A: ArrayLike, B: ArrayLike, *, n_jobs: int | None = None) -> Floats:
    """Chi-square distance of each row of ``A`` with each row of ``B``.

    ``sum((x - y)^2 / (x + y))`` with factor 1 and 0/0 = 0.

    Parameters
    ----------
    A : array of shape (n, d), values >= 0
    B : array of shape (m, d), values >= 0
    n_jobs : int, default=None
        Threads. None means one unless in a ``joblib.parallel_config``, -1 means all
        processors; the result has the same bits for any number.

    Returns
    -------
    array of shape (n, m)
        float32 if both inputs are float32 (relative error below 1e-6 for 1000
        values), else float64 (below 1e-13). In a batch, values smaller than 1e-12 times the
        largest of the call may count as zero, in float64 smaller than 1e-50 times it.

    Raises
    ------
    ValueError
        If an input is refused by ``check_descriptors``, widths differ, or values are
        so large that a distance might not fit into its type.

    Examples
    --------
    >>> from sfpose._scoring import chi2_matrix
    >>> chi2_matrix([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    array([[2., 0.]])
    """
    return chi2_matrix_of_checked(*_check_two(A, B), n_jobs=n_jobs)


def chi2_matrix_of_checked(first: Floats, second: Floats, *, n_jobs: int | None = None) -> Floats:
    """``chi2_matrix`` of what ``check_descriptors`` gave already, of one width."""
    both = _in_range(first, second)
    first, second = both.first, both.second
    if len(first) * len(second) <= FEW_PAIRS:
        return both.distances(reference.chi2_matrix(first, second))
    from sfpose._kernels.chi2 import LOWEST, chi2_block

    lowest = LOWEST[first.dtype]
    out = np.empty((len(first), len(second)), first.dtype)
    over_blocks(
        lambda rows: chi2_block(first[rows], second, lowest, out[rows]),
        len(first),
        _BLOCK_ROWS,
        n_jobs,
    )
    return both.distances(out)


def chi2_pairs(A: ArrayLike, B: ArrayLike, *, n_jobs: int | None = None) -> Floats:
    """Chi-square distance of row i of ``A`` with row i of ``B``.

    Parameters
    ----------
    A, B : arrays of shape (n, d), values >= 0
    n_jobs : int, default=None
        As for ``chi2_matrix``.

    Returns
    -------
    array of shape (n,)
        Of the type that ``chi2_matrix`` gives.

    Raises
    ------
    ValueError
        If an input is refused by ``check_descriptors`` or shapes differ.

    Examples
    --------
    >>> from sfpose._scoring import chi2_pairs
    >>> chi2_pairs([[3.0, 1.0]], [[1.0, 1.0]])
    array([1.])
    """
    return chi2_of_checked(*_check_two(A, B), n_jobs=n_jobs)


def chi2_of_checked(first: Floats, second: Floats, *, n_jobs: int | None = None) -> Floats:
    """``chi2_pairs`` of what ``check_descriptors`` gave already, of one width."""
    if len(first) != len(second):
        raise ValueError(
            f"A and B must have as many rows as each other; got {len(first)} and {len(second)}"
        )
    rows = np.arange(len(first))
    return _pairs(_in_range(first, second), rows, rows, n_jobs)


def chi2_pairs_at(
    X: ArrayLike,
    rows: ArrayLike,
    columns: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    n_jobs: int | None = None,
) -> Floats:
    """Chi-square distance of pairs given by index, without copies of the descriptors.

    Parameters
    ----------
    X : array of shape (n, d), values >= 0
    rows, columns : int arrays of shape (p,)
        Pair k compares ``X[rows[k]]`` with ``Y[columns[k]]``.
    Y : array of shape (m, d), default=None
        ``X`` if not given.
    n_jobs : int, default=None
        As for ``chi2_matrix``.

    Returns
    -------
    array of shape (p,)

    Raises
    ------
    ValueError
        If an input is refused by ``check_descriptors``, the index arrays differ
        in length, or an index is out of range.

    Examples
    --------
    >>> from sfpose._scoring import chi2_pairs_at
    >>> chi2_pairs_at([[1.0, 0.0], [0.0, 1.0]], [0, 1], [1, 1])
    array([2., 0.])
    """
    both = _in_range(*_check_two(X, X if Y is None else Y))
    left = check_index(rows, "rows", len(both.first))
    right = check_index(columns, "columns", len(both.second))
    if len(left) != len(right):
        raise ValueError(f"rows and columns must be equally long; got {len(left)} and {len(right)}")
    return _pairs(both, left, right, n_jobs)


def _pairs(
    both: _InRange, rows: NDArray[np.int64], columns: NDArray[np.int64], n_jobs: int | None
) -> Floats:
    first, second = both.first, both.second
    if len(rows) <= FEW_PAIRS:
        return both.distances(reference.chi2_pairs(first[rows], second[columns]))
    from sfpose._kernels import chi2

    lowest = chi2.LOWEST[first.dtype]
    out = np.empty(len(rows), first.dtype)
    over_blocks(
        lambda part: chi2.chi2_pairs(first, second, rows[part], columns[part], lowest, out[part]),
        len(rows),
        _BLOCK_PAIRS,
        n_jobs,
    )
    return both.distances(out)
