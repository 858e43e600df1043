"""Large photos are held one at a time, however many of them one call is given."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder

PROGRAM = """
import resource, sys
import numpy as np
from sfpose import FaceAligner, FaceEmbedder
path, kind = sys.argv[1:]
work = {
    "aligned": FaceEmbedder("small").transform,
    "loose": FaceEmbedder("small", align=False).transform,
    "crops": FaceAligner().align,
    "landmarks": FaceAligner().find_landmarks,
    "boxes": FaceAligner(detector=lambda photo: [(100, 100, 2900, 2900)]).align,
}[kind]
# The network's own memory for a batch comes first.
FaceEmbedder("small").transform(np.zeros((12, 160, 160, 3), np.uint8))
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
# From the second on, what was freed is kept for the next.
for _ in range(3):
    work([path])
before = used()
work([path] * 12)
print(used() - before)
"""


@pytest.fixture(scope="module")
def large(portrait, tmp_path_factory):
    """A JPEG of 9 million pixels: 27 MB when it is decoded."""
    path = tmp_path_factory.mktemp("large") / "photo.jpg"
    Image.fromarray(portrait).resize((3000, 3000)).save(path)
    return path


@pytest.mark.parametrize("kind", ["aligned", "loose", "crops", "landmarks", "boxes"])
def test_twelve_photos_take_hardly_more_memory_than_one(large, kind):
    pytest.importorskip("resource", reason="this system does not tell memory in this way")
    command = [sys.executable, "-c", PROGRAM, str(large), kind]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The twelve of them decoded take 309 MiB.
    assert float(told) < 20


def test_large_and_small_photos_in_one_call_are_embedded_as_each_alone(large, photos):
    images = [photos[0], large, photos[1], large, large, photos[2]]
    embedder = FaceEmbedder("small")
    alone = np.concatenate([embedder.transform([image]) for image in images])
    np.testing.assert_allclose(embedder.transform(images), alone, rtol=1e-4, atol=1e-7)
    faces = FaceAligner(policy="all", batch_size=4).align(images)
    assert faces.index.tolist() == list(range(6))
    for row, image in enumerate(images):
        assert np.abs(faces.landmarks[row] - FaceAligner().align([image]).landmarks[0]).max() < 0.1
