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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFilter

from sfpose import FaceAligner, FaceEmbedder, TemplateVerifier
from sfpose.geometry import (
    MIRROR,
    similarity_to_canonical,
    squares_around,
    turn_matrix,
    widen_matrix,
)
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
# What a test does in the page: choose photos as a hand does, and look at the answer.
HAND = """<script>
  const answer = document.getElementById("answer");
  const answers = [];
  const unhandled = [];
  new MutationObserver(() => answers.push(answer.textContent)).observe(answer, { childList: true });
  addEventListener("unhandledrejection", (event) => unhandled.push(String(event.reason)));
  const photo = async (name) => (await fetch(`/photos/${name}.png`)).blob();
  const shown = (number) => document.getElementById(`image${number}`).hasAttribute("src");

  function choose(number, blob) {
    const files = new DataTransfer();
    if (blob) files.items.add(new File([blob], "photo"));
    const input = document.getElementById(`file${number}`);
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
  }

  async function until(said) {
    for (let waited = 0; waited < 30 && !said.test(answer.textContent); waited += 0.05)
      await new Promise((wake) => setTimeout(wake, 50));
    return [answer.textContent, answer.className];
  }

  addEventListener("load", async () => {
    const told = await (async () => { ACTS })();
    await fetch("/report", { method: "POST", body: JSON.stringify({ ...told, unhandled }) });
  });
</script></html>"""


def _ort():
    stated = os.environ.get("SFPOSE_ORT_WEB")
    folder = Path(stated) if stated else EXAMPLE / "node_modules" / "onnxruntime-web" / "dist"
    if not (folder / "ort.wasm.min.mjs").is_file():
        pytest.skip("onnxruntime-web is not here: npm install --prefix examples/browser")
    return folder


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """``ask``: from two photos to what the page answers; ``act``: what comes of acts in it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("the browser example is tested in Chromium, which is not here")
    ort = _ort()
    sys.path.insert(0, str(EXAMPLE))
    import serve

    photos = tmp_path_factory.mktemp("photos")
    reports = queue.Queue()
    weights_may_go = threading.Event()
    shown, acts = "default", ""

    class Handler(serve.Handler):
        def translate_path(self, path):
            name = path.partition("?")[0].rpartition("/")[2]
            if path.startswith("/photos/"):
                return str(photos / name)
            return super().translate_path(path.replace("/weights/default/", f"/weights/{shown}/"))

        def do_GET(self):
            if self.path.startswith("/weights/"):
                weights_may_go.wait(60)
            if self.path.partition("?")[0] != "/acts.html":
                return super().do_GET()
            page = (EXAMPLE / "index.html").read_text(encoding="utf-8")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.replace("</html>", HAND.replace("ACTS", acts)).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/weights-may-go":
                weights_may_go.set()
            else:
                reports.put(json.loads(body))
            self.send_response(204)
            self.end_headers()

    server = serve.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, ort=ort))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def visit(path, images):
        for name, image in zip("ab", images, strict=True):
            Image.fromarray(np.ascontiguousarray(image)).save(photos / f"{name}.png")
        address = f"http://127.0.0.1:{server.server_port}/{path}"
        # Its children may still write to the profile when it ends.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [chromium, *FLAGS, f"--user-data-dir={profile}", address]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                return reports.get(timeout=120)
            finally:
                process.terminate()
                process.wait(20)

    def ask(first, second, weights="default"):
        nonlocal shown
        shown = weights
        weights_may_go.set()
        return visit("index.html?a=/photos/a.png&b=/photos/b.png&report=/report", (first, second))

    def act(what, *images, weights="default", held=False, query=""):
        nonlocal shown, acts
        shown, acts = weights, what
        weights_may_go.clear() if held else weights_may_go.set()
        return visit(f"acts.html?{query}", images)

    yield SimpleNamespace(ask=ask, act=act)
    weights_may_go.set()
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


def _as_picture(values):
    side = round((len(values) / 3) ** 0.5)
    return np.array(values, np.uint8).reshape(side, side, 3)


def test_the_page_answers_as_python_does(browse, portrait, hopper):
    """Crops that are shrunk, or not, or turned, or end at half a pixel, or lie, or are in doubt."""
    turned, lying = (
        np.asarray(Image.fromarray(portrait).rotate(degrees, Image.Resampling.BICUBIC))
        for degrees in (20, 70)
    )
    part = portrait[40:120, 50:110]  # The second look moves its landmarks far.
    hidden = portrait.copy()  # Is in doubt.
    hidden[:, :80] = 0
    # It is shrunk to a quarter of its width, 42.5, which Python rounds down.
    tall = np.asarray(Image.fromarray(portrait).resize((170, 256)))
    embedder, verifier = FaceEmbedder(), TemplateVerifier()
    of_crops = FaceEmbedder(align="done")
    # Landmarks a hundred thousandth of a pixel apart turn some bytes of what is looked at next:
    # up to 0.00002 of the longer side after two looks, ten times that after three.
    for first, second, loose in [
        (portrait, hopper, 1),
        (turned, portrait, 1),
        (tall, portrait, 1),
        (lying, hopper, 1),
        (part, hopper, 10),
        (hidden, hopper, 10),
    ]:
        told = browse.ask(first, second)
        landmarks, scores = FaceAligner().find_landmarks([first])
        pixels = loose * 2e-5 * max(first.shape)
        np.testing.assert_allclose(told["landmarks"], landmarks[0], atol=pixels)
        assert told["score"] == pytest.approx(scores[0], abs=1e-4 * loose)
        # From its own landmarks on, the page is held to every byte: what is left of the
        # difference is landmarks a ten thousandth of a pixel apart, which change some bytes.
        crop = _as_picture(told["crop"])
        square = similarity_to_canonical(np.array(told["landmarks"])[None])[0]
        np.testing.assert_array_equal(crop, aligned_crop(first, square, len(crop)))
        page = np.array(told["descriptor"], np.float32)
        np.testing.assert_allclose(page, of_crops.transform([crop])[0], atol=1e-7)
        rows = embedder.transform([first, second])
        expected = verifier.verify(rows[0], rows[1])
        assert verifier.verify(page, rows[0]).distance < 1e-4 * loose
        assert told["distance"] == pytest.approx(expected.distance, abs=1e-3 * loose)
        assert told["threshold"] == expected.threshold
        assert told["match"] == expected.match


def test_values_that_are_lessened_are_so_there_too(browse, portrait, hopper):
    told = browse.ask(portrait, hopper, weights="plain")
    assert read_manifest("plain")["descriptor"]["less_mean"] > 0
    crop = _as_picture(told["crop"])
    of_crops = FaceEmbedder("plain", align="done").transform([crop])[0]
    np.testing.assert_allclose(np.float32(told["descriptor"]), of_crops, atol=1e-6)
    rows = FaceEmbedder("plain").transform([portrait, hopper])
    expected = TemplateVerifier(weights="plain").verify(rows[0], rows[1])
    assert told["distance"] == pytest.approx(expected.distance, abs=1e-3)


def test_what_shows_no_face_or_little_of_one_is_refused_there_too(browse, portrait, nothing):
    blurred = np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(9)))
    for photo in (nothing, blurred, portrait[54:]):
        told = browse.ask(photo, portrait)
        assert "nothing was found" in told["error"]
        _, scores = FaceAligner().find_landmarks([photo])
        assert told["score"] == pytest.approx(scores[0], abs=1e-4)
        assert np.isnan(FaceEmbedder().transform([photo])).all()
    cut = portrait[35:]  # less of the forehead, which is enough
    assert browse.ask(cut, portrait)["match"]


def test_alpha_is_dropped_there_too(browse, portrait):
    """Colours are taken as they are in the file, where nothing of them is seen too."""
    alpha = np.random.default_rng(0).integers(0, 256, portrait.shape[:2], dtype=np.uint8)
    alpha[:20] = 0
    told = browse.ask(np.dstack([portrait, alpha]), portrait)
    landmarks, _ = FaceAligner().find_landmarks([portrait])
    np.testing.assert_allclose(told["landmarks"], landmarks[0], atol=2e-5 * max(portrait.shape))
    assert told["distance"] < 1e-4
    crop = _as_picture(told["crop"])
    square = similarity_to_canonical(np.array(told["landmarks"])[None])[0]
    np.testing.assert_array_equal(crop, aligned_crop(portrait, square, len(crop)))


@pytest.mark.parametrize(
    "size",
    [
        (170, 256),
        (425, 640),
        pytest.param(
            (100, 400),
            marks=pytest.mark.skipif(
                int(PIL.__version__.partition(".")[0]) < 13,
                reason="Pillow shrinks tall pictures down before across since 13",
            ),
        ),
    ],
)
def test_crops_are_pythons_to_the_byte(browse, size):
    photo = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (whole,) = squares_around([(0, 0, photo.shape[1], photo.shape[0])])
    squares = [whole, whole @ MIRROR, whole @ widen_matrix(0.8), whole @ turn_matrix(17.0)]
    told = browse.act(
        f"""
        const {{ alignedCrop, readPhoto }} = await import("/sfpose.js");
        const picture = await readPhoto(await photo("a"));
        const squares = {json.dumps([square.ravel().tolist() for square in squares])};
        return {{ crops: squares.map((one) => Array.from(alignedCrop(picture, one, 64).data)) }};
        """,
        photo,
        photo,
    )
    for crop, square in zip(told["crops"], squares, strict=True):
        np.testing.assert_array_equal(_as_picture(crop), aligned_crop(photo, square, 64))


def test_the_page_answers_about_the_photos_that_it_shows(browse, portrait, hopper):
    told = browse.act(
        """
        const [a, b] = [await photo("a"), await photo("b")];
        await until(/Ready/);
        choose(0, a); choose(1, a);
        const alike = await until(/Same/);
        choose(1, new Blob(["no image"]));
        const damaged = await until(/must be/);
        choose(1, null);
        const taken = await until(/Ready/), left = shown(1);
        answers.length = 0;
        choose(1, a); choose(1, b);
        const other = await until(/Different/);
        return { alike, damaged, taken, left, other, answers };
        """,
        portrait,
        hopper,
    )
    assert told["alike"][0].startswith("Same person: distance 0.0000")
    assert told["alike"][1] == "same"
    assert "a photo must be an image that this browser can read" in told["damaged"][0]
    assert told["damaged"][1] == ""
    assert (told["taken"], told["left"]) == (["Ready.", ""], False)
    assert told["other"][0].startswith("Different people")
    assert told["other"][1] == "other"
    assert not [answer for answer in told["answers"] if answer.startswith("Same")]
    assert told["unhandled"] == []


def test_photos_may_be_chosen_while_the_network_loads(browse, portrait):
    told = browse.act(
        """
        choose(0, await photo("a")); choose(1, await photo("b"));
        await until(/Loading/);
        await new Promise((wake) => setTimeout(wake, 500));
        const early = answer.textContent;
        await fetch("/weights-may-go", { method: "POST", body: "go" });
        return { early, answer: await until(/Same/) };
        """,
        portrait,
        portrait[:, ::-1],
        held=True,
    )
    assert told["early"].startswith("Loading the network")
    assert told["answer"][0].startswith("Same person")
    assert told["unhandled"] == []


def test_what_is_in_a_photo_is_told_to_no_other_server(browse, portrait):
    """Anybody can make a link to the page; a port of its own makes another origin."""
    came = threading.Event()

    class Stranger(BaseHTTPRequestHandler):
        def handle(self):
            came.set()

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever).start()
        report = f"http://127.0.0.1:{stranger.server_port}/report"
        told = browse.act(
            """
            let stopped = false;
            for (const kind of ["error", "unhandledrejection"])
              addEventListener(kind, () => { stopped = true; });
            const answer = await until(/Same/);
            for (let waited = 0; waited < 20 && !stopped; waited += 0.05)
              await new Promise((wake) => setTimeout(wake, 50));
            return { answer, stopped };
            """,
            portrait,
            portrait,
            query=f"a=/photos/a.png&b=/photos/b.png&report={report}",
        )
        stranger.shutdown()
    assert told["answer"][0].startswith("Same person")
    assert told["stopped"]
    assert not came.is_set()


def test_the_page_says_so_if_the_network_cannot_be_loaded(browse, portrait):
    told = browse.act("return { answer: await until(/404/) };", portrait, portrait, weights="none")
    assert "/weights/default/" in told["answer"][0]
    assert "must be there; the server answered 404" in told["answer"][0]
    assert told["unhandled"] == []
