"""Scores and searches over many machines with Dask: the answers of one machine.

Needs the extra ``distributed``. May import ``_scoring`` and ``_search``; everything is
plain functions of blocks, so that a worker that dies is repeated elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import as_array, check_whole
from sfpose._scoring import check_searchable, chi2_matrix
from sfpose._search import nearest

if TYPE_CHECKING:
    import dask.array

__all__ = ["score_matrix", "search"]


def _dask_array() -> Any:
    try:
        import dask.array
    except ImportError as error:
        raise ImportError('many machines need dask: pip install "sfpose[distributed]"') from error
    return dask.array


def _rows(X: ArrayLike | dask.array.Array, name: str) -> Any:
    """``X`` as a dask array whose blocks hold whole rows, one at least."""
    array = _dask_array()
    rule = f"{name} must have shape (n, d)"
    blocks = X if isinstance(X, array.Array) else array.asarray(as_array(X, rule))
    if blocks.ndim != 2:
        raise ValueError(f"{rule}; got {blocks.shape}")
    if blocks.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers; got dtype {blocks.dtype}")
    # A filter may leave blocks without rows, of which nothing can be asked.
    filled = tuple(size for size in blocks.chunks[0] if size) or (0,)
    return blocks.rechunk({0: filled, 1: -1})


def score_matrix(
    A: ArrayLike | dask.array.Array, B: ArrayLike | dask.array.Array
) -> dask.array.Array:
    """Chi-square distance of each row of ``A`` with each row of ``B``, by blocks.

    Parameters
    ----------
    A : array or dask array of shape (n, d), values >= 0
    B : array or dask array of shape (m, d), values >= 0
        Blocks of rows of both make the blocks of the result.

    Returns
    -------
    dask array of shape (n, m)
        Not computed yet. What ``TemplateVerifier().score_matrix`` gives, of its type: to
        the bit in blocks of more than 256 pairs where no value is above 1e18, else to a
        relative 1e-6.

    Raises
    ------
    ValueError
        If widths differ or values are no numbers; when it is computed, if they are negative,
        NaN or infinite.

    Examples
    --------
    >>> import dask.array
    >>> from sfpose.distributed import score_matrix
    >>> A = dask.array.ones((4, 3), chunks=(2, 3))
    >>> score_matrix(A, A).compute().shape
    (4, 4)
    """
    left, right = _rows(A, "A"), _rows(B, "B")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"B must have {left.shape[1]} values a row; got {right.shape[1]}")
    array = _dask_array()
    # Asked of zeros, as a rule of types of its own might differ.
    kind = chi2_matrix(np.zeros((1, 1), left.dtype), np.zeros((1, 1), right.dtype)).dtype
    uncounted = np.isnan((*left.chunks[0], *right.chunks[0])).any()
    score = _score_some if uncounted else chi2_matrix
    scored: dask.array.Array = array.blockwise(
        score, "ij", left, "ik", right, "jk", dtype=kind, concatenate=True
    )
    return scored


def _score_some(A: NDArray[np.generic], B: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
    """Of blocks that a filter may have left without a row."""
    if len(A) and len(B):
        return chi2_matrix(A, B)
    return np.zeros((len(A), len(B)), np.float32)


def search(
    templates: ArrayLike | dask.array.Array, probes: ArrayLike, k: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` nearest templates of each probe, each block searched where it lies.

    Parameters
    ----------
    templates : array or dask array of shape (n, d), values >= 0
        Blocks of rows, as of a ``TemplateGallery`` (``gallery.templates``).
    probes : array of shape (m, d), values >= 0
        Sent to every block.
    k : int, default=1

    Returns
    -------
    rows : int64 array of shape (m, k)
        Numbers of the templates, nearest first; of equally near ones the earlier row.
    distances : float32 array of shape (m, k)
        Both as ``sfpose.TemplateGallery.search`` on one machine finds them.

    Raises
    ------
    ValueError
        If ``k`` is not in 1 ... n, widths differ, or values are refused.

    Examples
    --------
    >>> import dask.array
    >>> from sfpose.distributed import search
    >>> templates = dask.array.from_array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], chunks=(2, 2))
    >>> rows, distances = search(templates, [[0.0, 2.0]], k=2)
    >>> rows.tolist(), (3 * distances).round().tolist()
    ([[1, 2]], [[1.0, 4.0]])
    """
    blocks = _rows(templates, "templates")
    if np.isnan(blocks.chunks[0]).any():
        raise ValueError(
            "templates must know how many rows each block has, which a filter leaves open: "
            "call compute_chunk_sizes() of them"
        )
    from dask.base import compute
    from dask.delayed import delayed

    asked = check_searchable(probes, name="probes", width=blocks.shape[1])
    count = check_whole(k, "k", 1, len(blocks))
    sent = delayed(asked)
    parts = compute(
        *[delayed(_search_block)(block, sent, count) for block in blocks.to_delayed().ravel()]
    )
    starts = np.cumsum((0, *blocks.chunks[0][:-1]))
    rows = np.concatenate(
        [start + found for start, (found, _) in zip(starts, parts, strict=True)], 1
    )
    distances = np.concatenate([found for _, found in parts], axis=1)
    # Blocks stand in the order of their rows, so a stable sort keeps the earlier of equals.
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)


def _search_block(
    block: NDArray[np.floating[Any]], probes: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    rows = check_searchable(block, name="templates")
    return nearest(rows, probes, min(k, len(rows)), None)
