"""Numbers of threads and images that no machine has."""

import numpy as np
import pytest

from sfpose import FaceEmbedder, TemplateGallery
from sfpose.cli import main


@pytest.mark.parametrize("n_jobs", [10**10, -(10**20), 10_001])
def test_threads_that_no_machine_has_are_refused(n_jobs):
    rule = f"n_jobs must be None or a whole number other than 0, -10000 to 10000; got {n_jobs}"
    with pytest.raises(ValueError, match=rule):
        FaceEmbedder("plain", n_jobs=n_jobs).transform([np.zeros((64, 64, 3), np.uint8)])
    gallery = TemplateGallery(n_jobs=n_jobs)
    gallery.add(["ann"], np.ones((1, 4)))
    with pytest.raises(ValueError, match=rule):
        gallery.search(np.ones((1, 4)), k=1)


@pytest.mark.parametrize("number", [2**31, 10**20, "9" * 5000])
def test_batches_that_no_memory_holds_are_refused(capsys, number):
    with pytest.raises(SystemExit):
        main(["embed", "photo.png", "--out", "out.npz", "--batch-size", str(number)])
    assert "must be a whole number" in (said := capsys.readouterr().err)
    assert "Traceback" not in said
