"""Compiled kernels on disk, for those who ask for it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_kernels"]


def cache_kernels() -> Path:
    """Keep compiled kernels on disk, so that later processes need not compile them.

    To be called before the first batch of a process, in every process that shall gain.
    numba chooses the folder: ``__pycache__`` beside the kernels where that can be written,
    else the user's cache folder; the environment variable ``NUMBA_CACHE_DIR`` overrides
    both. Files are replaced whole, so that processes may start together; a change of
    numba, of the kernels or of the processor makes new ones.

    Returns
    -------
    Path
        Where they are kept.

    Raises
    ------
    RuntimeError
        If there is no folder that can be written, or numba is told to compile nothing.

    Examples
    --------
    >>> from sfpose import cache_kernels
    >>> folder = cache_kernels()  # doctest: +SKIP
    """
    from sfpose._kernels.chi2 import chi2_block, chi2_pairs
    from sfpose._kernels.topk import keep_nearest

    if not hasattr(keep_nearest, "enable_caching"):
        raise RuntimeError("numba must be let compile; NUMBA_DISABLE_JIT is set")
    for kernel in (chi2_block, chi2_pairs, keep_nearest):
        kernel.enable_caching()
    return Path(str(keep_nearest.stats.cache_path))
