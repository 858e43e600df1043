"""Compiled kernels on disk: only by wish, safe for processes that start together."""

import os
import subprocess
import sys
from pathlib import Path

import sfpose

SCRIPT = """
import numpy as np
import sfpose
from sfpose._kernels.chi2 import chi2_block
if {cached}:
    print(sfpose.cache_kernels())
rows = np.random.default_rng(0).random((40, 30), dtype=np.float32)
print(float(sfpose.TemplateVerifier().score_matrix(rows, rows).sum()))
print(sum(chi2_block.stats.cache_hits.values()))
"""


def _start(folder, cached=True):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    environment["PYTHONPATH"] = str(Path(sfpose.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(cached=cached)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.split("\n")[:-1]


def test_nothing_is_cached_unasked(tmp_path):
    total, hits = _finish(_start(tmp_path, cached=False))
    assert hits == "0"
    assert not list(tmp_path.rglob("*.nb*"))
    assert float(total) > 0


def test_processes_that_start_together_share_what_one_compiled(tmp_path):
    first = [_finish(process) for process in [_start(tmp_path) for _ in range(3)]]
    assert all(Path(folder).is_relative_to(tmp_path) for folder, _, _ in first)
    assert list(tmp_path.rglob("*.nbc"))
    _, total, hits = _finish(_start(tmp_path))
    assert hits == "1"
    assert {result[1] for result in first} == {total}


def test_without_a_folder_to_write_the_wish_is_refused(tmp_path):
    script = (
        "import sfpose\n"
        "from unittest import mock\n"
        "from numba.core import caching\n"
        "with mock.patch.object(caching.CacheImpl, '_locator_classes', []):\n"
        "    sfpose.cache_kernels()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(sfpose.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RuntimeError: cannot cache function" in done.stderr


def test_where_nothing_is_compiled_the_wish_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import sfpose; sfpose.cache_kernels()"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RuntimeError: numba must be let compile; NUMBA_DISABLE_JIT is set" in done.stderr
