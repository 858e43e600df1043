"""What the tests share: where the development data is, and small made-up faces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

# Tests that import onnxruntime before the library does are to send nothing either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path | None:
    """Folder of the development data: SFPOSE_DATA, or shared/data beside the checkout."""
    stated = os.environ.get("SFPOSE_DATA")
    folder = Path(stated) if stated else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("the development data is not here: set SFPOSE_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def portrait():
    """A public-domain portrait, cropped as a face detector would: (160, 160, 3)."""
    skimage = pytest.importorskip("skimage", reason="the portrait comes with scikit-image")
    image = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return np.asarray(image)[45:205, 150:310, :3]


@pytest.fixture(scope="session")
def opencv_crop():
    """OpenCV's crop (side, side, 3), values 0 to 1, by a map from the unit square to pixels."""
    cv2 = pytest.importorskip("cv2")
    # OpenCV counts from the centre of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])

    def crop(photo, matrix, side):
        inverse = np.linalg.inv(half) @ matrix @ np.diag([1 / side, 1 / side, 1]) @ half
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(photo, inverse[:2], (side, side), flags=flags) / 255

    return crop


@pytest.fixture
def photos(portrait):
    """Three images of one face, of different sizes."""
    return [portrait, np.ascontiguousarray(portrait[:, ::-1]), portrait[10:140, 20:150]]


@pytest.fixture(scope="session")
def street(portrait):
    """A photo as a camera takes it: (480, 900, 3), two people, one of them twice.

    Boxes of the faces, left to right: Collins upright, Hopper small, Collins with her
    head turned by 25 degrees in the image.
    """
    matplotlib = pytest.importorskip("matplotlib", reason="a portrait comes with matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    hopper = Image.open(path).convert("RGB").crop((100, 60, 430, 400))
    collins = Image.fromarray(portrait)
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 140, (12, 22, 3), dtype=np.uint8)
    canvas = Image.fromarray(noise).resize((900, 480), Image.Resampling.BICUBIC)
    canvas.paste(collins.resize((240, 240)), (40, 60))
    canvas.paste(hopper.resize((120, 124)), (370, 200))
    turned = collins.resize((300, 300)).rotate(-25, Image.Resampling.BICUBIC)
    canvas.paste(turned.crop((40, 40, 260, 260)), (600, 130))
    return np.asarray(canvas)


@pytest.fixture(scope="session")
def nothing():
    """An image that shows no face: (64, 90, 3), magenta."""
    return np.full((64, 90, 3), (255, 0, 255), np.uint8)


@pytest.fixture
def taught_faces():
    """Makes twelve photos of noise, two of them held out, with so many values of a teacher."""
    from sfpose.training.faces import TaughtFaces

    def make(values):
        rng = np.random.default_rng(0)
        points = np.array([[26, 26], [54, 26], [40, 42], [29, 57], [51, 57]], np.float32)
        count = 12
        return TaughtFaces(
            photos=rng.integers(0, 256, (count, 80, 80, 3), dtype=np.uint8),
            landmarks=np.tile(points, (count, 1, 1)),
            scores=np.ones(count, np.float32),
            embeddings=rng.normal(size=(count, values)).astype(np.float32),
            mirror_embeddings=rng.normal(size=(count, values)).astype(np.float32),
            held_out=np.arange(count) >= 10,
        )

    return make


@pytest.fixture
def gaussian_scores():
    """Makes distances two standard deviations apart, and which of them are genuine."""

    def make(count=4000, seed=0, genuine_share=0.3):
        rng = np.random.default_rng(seed)
        genuine = rng.random(count) < genuine_share
        return rng.normal(np.where(genuine, 1.0, 3.0)), genuine

    return make


@pytest.fixture(scope="session")
def korn_graubard():
    """The binomial interval of as many trials as vary as much, by scipy."""

    def interval(rate, variance, people, confidence=0.95):
        tail = (1 - confidence) / 2
        known = (stats.norm.isf(tail) / stats.t.isf(tail, people - 1)) ** 2
        trials = rate * (1 - rate) / variance * known
        wrong = rate * trials
        low = stats.beta(wrong, trials - wrong + 1).ppf(tail)
        return low, stats.beta(wrong + 1, trials - wrong).isf(tail)

    return interval


@pytest.fixture
def noise_faces():
    """Photos of noise with eight values of a teacher: two without a face, four held out."""
    from sfpose.training.faces import TaughtFaces

    count = 24
    rng = np.random.default_rng(0)
    base = np.array([[16, 18], [32, 18], [24, 26], [18, 33], [30, 33]], np.float32)
    embeddings = rng.normal(size=(count, 8)).astype(np.float32)
    return TaughtFaces(
        photos=rng.integers(0, 256, (count, 48, 48, 3), dtype=np.uint8),
        landmarks=base + rng.normal(0, 1, (count, 5, 2)).astype(np.float32),
        scores=np.r_[np.zeros(2), np.full(count - 2, 0.9)].astype(np.float32),
        embeddings=embeddings,
        mirror_embeddings=embeddings + 0.1,
        held_out=np.arange(count) >= count - 4,
    )


@pytest.fixture(scope="session")
def random_mapped():
    """Artifacts of networks that end in a map and places, as the random numbers make them."""
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    from sfpose.networks import build_network
    from sfpose.runtime.artifact import Artifact
    from sfpose.training.export import to_manifest, to_onnx

    def made(architecture, *, name="mapped", seed=0, size=None):
        torch.manual_seed(seed)
        network = build_network(architecture, batch_norm=False, input_size=size).eval()
        torch.nn.init.normal_(network.placed.weight, std=0.01)
        manifest = to_manifest(
            name=name,
            kind="descriptor",
            network=architecture,
            size=network.input_size,
            descriptor={"size": 256, "normalization": "l1"},
        )
        return Artifact(to_onnx(network, network.input_size), manifest)

    return made


@pytest.fixture
def any_crop_is_a_face(monkeypatch):
    """For made-up images: nothing is refused because it shows no face."""
    monkeypatch.setattr("sfpose._landmarks._stated_face_score", lambda artifact: 0.0)


@pytest.fixture(scope="session")
def hopper():
    matplotlib = pytest.importorskip("matplotlib", reason="a portrait comes with matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"))[90:345, 140:390]


@pytest.fixture
def people(tmp_path, portrait, hopper):
    """Two people, three photos each: PERSON/photo."""
    root = tmp_path / "people"
    for name, face in (("collins", portrait), ("hopper", hopper)):
        (root / name).mkdir(parents=True)
        for number, photo in enumerate((face, face[:, ::-1], face[8:, 5:])):
            Image.fromarray(np.ascontiguousarray(photo)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def noise(tmp_path, nothing):
    path = tmp_path / "noise.png"
    Image.fromarray(nothing).save(path)
    return path


@pytest.fixture(scope="session")
def faces(portrait, hopper):
    """Photos of made-up different looks of two real faces."""
    return {
        "collins": [portrait, portrait[8:, 5:], portrait[:, ::-1]],
        "hopper": [hopper, hopper[8:, 5:], hopper[:, ::-1]],
    }


@pytest.fixture(scope="module")
def service():
    """The module of the example service."""
    example = str(ROOT / "examples" / "service")
    sys.path.insert(0, example)
    try:
        import service

        yield service
    finally:
        sys.path.remove(example)
        for name in ("service", "store"):
            sys.modules.pop(name, None)
