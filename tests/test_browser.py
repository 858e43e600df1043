"""The browser example in headless Chromium answers as Python does."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.geometry import similarity_to_canonical
from sfpose.preprocessing import aligned_crop
from sfpose.runtime.artifact import read_manifest

EXAMPLE = Path(__file__).parents[1] / "examples" / "browser"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def _ort():
    stated = os.environ.get("SFPOSE_ORT_WEB")
    folder = Path(stated) if stated else EXAMPLE / "node_modules" / "onnxruntime-web" / "dist"
    if not (folder / "ort.wasm.min.mjs").is_file():
        pytest.skip("onnxruntime-web is not here: npm install --prefix examples/browser")
    return folder


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """From two photos to what the page answers."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("the browser example is tested in Chromium, which is not here")
    ort = _ort()
    sys.path.insert(0, str(EXAMPLE))
    import serve

    photos = tmp_path_factory.mktemp("photos")
    reports = queue.Queue()
    shown = "default"

    class Handler(serve.Handler):
        def translate_path(self, path):
            name = path.partition("?")[0].rpartition("/")[2]
            if path.startswith("/photos/"):
                return str(photos / name)
            return super().translate_path(path.replace("/weights/default/", f"/weights/{shown}/"))

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    server = serve.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, ort=ort))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(first, second, weights="default"):
        nonlocal shown
        shown = weights
        for name, image in (("a.png", first), ("b.png", second)):
            Image.fromarray(np.ascontiguousarray(image)).save(photos / name)
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        query = "?a=/photos/a.png&b=/photos/b.png&report=/report"
        # Its children may still write to the profile when it ends.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [chromium, *FLAGS, f"--user-data-dir={profile}", address + query]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                return reports.get(timeout=90)
            finally:
                process.terminate()
                process.wait(20)

    yield ask
    server.shutdown()
    thread.join()
    server.server_close()
    sys.path.remove(str(EXAMPLE))
    sys.modules.pop("serve", None)


@pytest.fixture(scope="module")
def hopper():
    matplotlib = pytest.importorskip("matplotlib", reason="a portrait comes with matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"))[90:345, 140:390]


def test_the_page_answers_as_python_does(browse, portrait, hopper):
    """A crop that is shrunk, one that is not, one turned, one looked for again, one in doubt."""
    turned, moved, lying = (
        np.asarray(Image.fromarray(portrait).rotate(degrees, Image.Resampling.BICUBIC))
        for degrees in (20, -40, 60)
    )
    embedder, verifier = FaceEmbedder(), TemplateVerifier()
    of_crops = FaceEmbedder(align="done")
    # Landmarks a hundred thousandth of a pixel apart turn some bytes of what is looked at next:
    # up to 0.001 of a pixel after two looks, 0.01 after three.
    for first, second, pixels, loose in [
        (portrait, hopper, 0.001, 1),
        (turned, portrait, 0.001, 1),
        (moved, hopper, 0.02, 10),
        (lying, hopper, 0.02, 10),
    ]:
        told = browse(first, second)
        landmarks, scores = FaceAligner().find_landmarks([first])
        np.testing.assert_allclose(told["landmarks"], landmarks[0], atol=pixels)
        assert told["score"] == pytest.approx(scores[0], abs=1e-4 * loose)
        # From its own landmarks on, the page is held to every byte: what is left of the
        # difference is landmarks a ten thousandth of a pixel apart, which change some bytes.
        crop = np.array(told["crop"], np.uint8)
        side = round((len(crop) / 3) ** 0.5)
        crop = crop.reshape(side, side, 3)
        square = similarity_to_canonical(np.array(told["landmarks"])[None])[0]
        np.testing.assert_array_equal(crop, aligned_crop(first, square, side))
        page = np.array(told["descriptor"], np.float32)
        np.testing.assert_allclose(page, of_crops.transform([crop])[0], atol=1e-7)
        rows = embedder.transform([first, second])
        expected = verifier.verify(rows[0], rows[1])
        assert verifier.verify(page, rows[0]).distance < 1e-4 * loose
        assert told["distance"] == pytest.approx(expected.distance, abs=1e-3 * loose)
        assert told["threshold"] == expected.threshold
        assert told["match"] == expected.match


def test_values_that_are_lessened_are_so_there_too(browse, portrait, hopper):
    told = browse(portrait, hopper, weights="plain")
    assert read_manifest("plain")["descriptor"]["less_mean"] > 0
    crop = np.array(told["crop"], np.uint8).reshape(64, 64, 3)
    of_crops = FaceEmbedder("plain", align="done").transform([crop])[0]
    np.testing.assert_allclose(np.float32(told["descriptor"]), of_crops, atol=1e-6)
    rows = FaceEmbedder("plain").transform([portrait, hopper])
    expected = TemplateVerifier(weights="plain").verify(rows[0], rows[1])
    assert told["distance"] == pytest.approx(expected.distance, abs=1e-3)


def test_a_photo_of_nothing_is_refused_there_too(browse, portrait, nothing):
    told = browse(nothing, portrait)
    assert "nothing was found" in told["error"]
    _, scores = FaceAligner().find_landmarks([nothing])
    assert told["score"] == pytest.approx(scores[0], abs=1e-4)
    assert np.isnan(FaceEmbedder().transform([nothing])).all()
