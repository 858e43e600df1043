"""Verifications a second with 1 to 8 worker processes, and how long each one takes.

    python benchmarks/load.py [--seconds 10] [--workers 1 2 4 8] [--kill] [--json FILE]

A verification is two encoded JPEG photos in, one decision out: decoding, landmarks,
descriptors, distance, threshold. The embedder is loaded before the workers fork, as a
preloading server does it; each worker has one request at a time and one thread. Waiting
in a queue is not part of the latency. With --kill a worker is killed every second and
another one takes its place: its request is asked again, and each answer is compared with
the one that was computed before. Linux.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from multiprocessing.connection import Connection, Pipe, wait

import numpy as np
from PIL import Image
from reliability import pictures

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.preprocessing import decode_image

EMBEDDER, VERIFIER = FaceEmbedder(), TemplateVerifier()


def encoded(count):
    photos = []
    for picture in pictures(count):
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((160, 160)).save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos


def verify(photos):
    rows = EMBEDDER.transform([decode_image(io.BytesIO(data), "photo") for data in photos])
    return VERIFIER.verify(rows[0], rows[1]).distance


class Worker:
    """A forked process that answers one request at a time."""

    def __init__(self, photos: list[bytes]) -> None:
        self.pipe, theirs = Pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                self.pipe.close()
                serve(theirs, photos)
            finally:
                os._exit(0)
        theirs.close()
        self.asked: tuple[int, int] | None = None
        self.since = 0.0

    def ask(self, request: tuple[int, int]) -> None:
        """Send the numbers of two photos."""
        self.asked, self.since = request, time.perf_counter()
        self.pipe.send(request)

    def end(self, sign: int = signal.SIGKILL) -> None:
        """Kill the process and wait until it is gone."""
        os.kill(self.process, sign)
        os.waitpid(self.process, 0)
        self.pipe.close()


def serve(pipe: Connection, photos: list[bytes]) -> None:
    while True:
        first, second = pipe.recv()
        pipe.send(verify([photos[first], photos[second]]))


def run(count, seconds, photos, expected, kill):
    rng = np.random.default_rng(0)
    workers = [Worker(photos) for _ in range(count)]
    latencies, wrong, again, killed = [], 0, 0, 0

    def request():
        return tuple(int(n) for n in rng.integers(0, len(photos), 2))

    for worker in workers:  # each makes its session before the clock starts
        worker.ask((0, 1))
    for worker in workers:
        worker.pipe.recv()
        worker.ask(request())
    start = last_kill = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        if kill and now - last_kill > 1:
            os.kill(workers[killed % count].process, signal.SIGKILL)
            last_kill, killed = now, killed + 1
        ready = wait([worker.pipe for worker in workers], timeout=0.1)
        for place, worker in enumerate(workers):
            if worker.pipe not in ready:
                continue
            asked = worker.asked
            try:
                distance = worker.pipe.recv()
                latencies.append(time.perf_counter() - worker.since)
                wrong += distance != expected[asked]
                asked = request()
                # It may have been killed after it answered.
                worker.ask(asked)
            except (EOFError, ConnectionResetError, BrokenPipeError):
                os.waitpid(worker.process, 0)
                worker.pipe.close()
                workers[place] = Worker(photos)
                workers[place].ask(asked)
                again += 1
    elapsed = time.perf_counter() - start
    for worker in workers:
        worker.end()
    milliseconds = 1000 * np.array(latencies)
    return {
        "workers": count,
        "verifications": len(latencies),
        "a second": round(len(latencies) / elapsed, 1),
        "milliseconds, median": round(float(np.median(milliseconds)), 1),
        "95 %": round(float(np.quantile(milliseconds, 0.95)), 1),
        "99 %": round(float(np.quantile(milliseconds, 0.99)), 1),
        "largest": round(float(milliseconds.max()), 1),
        "killed": killed,
        "asked again": again,
        "wrong or lost": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    photos = encoded(6)
    expected = {
        (a, b): verify([photos[a], photos[b]])
        for a in range(len(photos))
        for b in range(len(photos))
    }
    results = []
    for count in options.workers:
        results.append(run(count, options.seconds, photos, expected, options.kill))
        print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"processors": os.cpu_count(), "runs": results}, file, indent=1)
    return int(any(row["wrong or lost"] for row in results))


if __name__ == "__main__":
    sys.exit(main())
