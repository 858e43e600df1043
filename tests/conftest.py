"""What the tests share: where the development data is, and small made-up faces."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path | None:
    """Folder of the development data: SFPOSE_DATA, or shared/data beside the checkout."""
    stated = os.environ.get("SFPOSE_DATA")
    folder = Path(stated) if stated else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("the development data is not here: set SFPOSE_DATA to its folder")
    return folder


@pytest.fixture
def photos():
    """Three images of different sizes that no test takes for more than pixels."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(80, 64), (64, 90), (120, 120)]
    ]
