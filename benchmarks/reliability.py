"""What the table in docs/reliability.md says, again, as often as you like.

    python benchmarks/reliability.py kill gallery --rounds 500     # or artifact, checkpoint, bundle
    python benchmarks/reliability.py kill-everywhere gallery       # before each system call
    python benchmarks/reliability.py full gallery                  # a disk that fills up
    python benchmarks/reliability.py read-only gallery
    python benchmarks/reliability.py saving gallery                # a little of these four
    python benchmarks/reliability.py writers --seconds 30          # several writers, one gallery
    python benchmarks/reliability.py threads --calls 2000          # 16 threads, one embedder
    python benchmarks/reliability.py memory --transforms 10000
    python benchmarks/reliability.py determinism
    python benchmarks/reliability.py fuzz --minutes 10

Each prints one JSON object; exit code 1 if something was lost, let in or hung. The tests
in tests/attacks run the same with small numbers. Linux; killing needs fork.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SMALL_BUNDLE = ROOT / "tests" / "data" / "bundle-v1.zip"
WIDTH = 1000
KINDS = ("gallery", "artifact", "checkpoint", "bundle")
NAMES = {"checkpoint": "state.pt", "bundle": "saved.zip"}


class Subject:
    """Something that is saved: version n of it, and which version lies on the disk."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / NAMES.get(kind, "saved")
        if kind == "checkpoint":  # torch before the first fork, and without its threads
            import torch

            torch.set_num_threads(1)
            from sfpose.training import checkpoints  # noqa: F401
        if kind == "bundle":
            from sfpose.bundle import VerificationBundle

            self.bundle = VerificationBundle.load(SMALL_BUNDLE)

    def save(self, version: int) -> None:
        """Write a version over what is there."""
        if self.kind == "gallery":
            from sfpose import TemplateGallery

            gallery = TemplateGallery()
            ids = [f"person {n} of {version}" for n in range(50)]
            gallery.add(ids, np.full((50, WIDTH), version, np.float32))
            gallery.save(self.path, overwrite=True)
        elif self.kind == "artifact":
            from sfpose.runtime.artifact import write_artifact

            manifest = {"version": version}
            write_artifact(self.path, bytes([version % 256]) * 200_000, manifest, overwrite=True)
        elif self.kind == "bundle":
            from sfpose import TemplateGallery

            # So many random values that a zip file of them has more than any limit below.
            rows = np.random.default_rng(0).random((3000, self.bundle.embedder.n_features_out))
            ids = [f"person {n} of {version}" for n in range(len(rows))]
            self.bundle.gallery = TemplateGallery()
            self.bundle.gallery.add(
                ids, rows / rows.sum(1, keepdims=True), counts=np.full(len(rows), version + 1)
            )
            self.bundle.save(self.path, overwrite=True)
        else:
            import torch

            from sfpose.training.checkpoints import save_checkpoint

            weights = torch.full((50, WIDTH), float(version))
            save_checkpoint(self.path, {"weights": weights, "seen": version})

    def load(self) -> int:
        """Version on the disk; an error if it is not one version, whole."""
        if self.kind == "gallery":
            from sfpose import TemplateGallery

            gallery = TemplateGallery.load(self.path)
            versions = {int(str(name).rsplit(" ", 1)[1]) for name in gallery}
            versions |= set(np.unique(gallery.templates).astype(int).tolist())
        elif self.kind == "artifact":
            from sfpose.runtime.artifact import read_artifact

            artifact = read_artifact(self.path)
            (version,) = {int(str(artifact.manifest["version"]))}
            if set(artifact.model) != {version % 256}:
                raise ValueError(f"version {version} has the network of another")
            return version
        elif self.kind == "bundle":
            from sfpose.bundle import VerificationBundle

            gallery = VerificationBundle.load(self.path).gallery
            versions = {int(str(name).rsplit(" ", 1)[1]) for name in gallery}
            versions |= set((gallery.counts - 1).tolist())
        else:
            from sfpose.training.checkpoints import load_checkpoint

            state = load_checkpoint(self.path)
            versions = {state["seen"], *state["weights"].unique().int().tolist()}
        if len(versions) != 1:
            raise ValueError(f"a mixture of the versions {sorted(versions)}")
        return int(versions.pop())

    def left_over(self) -> list[str]:
        """Names beside what was saved."""
        return sorted({path.name for path in self.path.parent.iterdir()} - {self.path.name})


def in_child(work: Callable[[], None]) -> int:
    """Fork, work, and be gone; the process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def kill(kind: str, folder: Path, rounds: int, seed: int = 0) -> dict[str, object]:
    """Kill a process that saves one version after the other, at random moments."""
    subject, rng = Subject(kind, folder), np.random.default_rng(seed)
    subject.save(0)
    version = old = new = 0
    lost: list[str] = []
    for _ in range(rounds):
        reading, writing = os.pipe()

        def work(start: int = version + 1, writing: int = writing) -> None:
            for number in range(start, start + 10**6):
                subject.save(number)
                os.write(writing, b"%d\n" % number)

        child = in_child(work)
        os.close(writing)
        time.sleep(float(rng.uniform(0, 0.1)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as said:
            saved = [version, *map(int, said.read().split())][-1]
        try:
            version = subject.load()
        except Exception as error:
            lost.append(f"{type(error).__name__}: {error}")
            version = saved + 1
            subject.save(version)
            continue
        if version not in (saved, saved + 1):
            lost.append(f"version {version} where {saved} or {saved + 1} must be")
        old, new = old + (version == saved), new + (version == saved + 1)
    subject.save(version + 1)
    return {
        "kills": rounds,
        "saved in all": version,
        "old version": old,
        "new version": new,
        "lost": lost,
        "left over after the next save": subject.left_over(),
    }


EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def kill_everywhere(kind: str, folder: Path) -> dict[str, object]:
    """Kill a save before its first, second, ... call that opens, makes, moves or removes."""
    subject = Subject(kind, folder)
    subject.save(0)
    version, lost, left, step = 0, [], set(), 0
    old = new = 0
    while True:
        step += 1

        def work(start: int = version + 1, stop: int = step) -> None:
            count = 0

            def hook(event: str, _: object) -> None:
                nonlocal count
                count += event in EVENTS
                if event in EVENTS and count == stop:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            subject.save(start)

        _, status = os.waitpid(in_child(work), 0)
        found = subject.load()
        if found not in (version, version + 1):
            lost.append(f"version {found} where {version} or {version + 1} must be")
        old, new = old + (found == version), new + (found == version + 1)
        version = found + 1
        subject.save(version)
        if subject.load() != version:
            lost.append(f"nothing could be saved after step {step}")
        left.update(subject.left_over())
        if not os.WIFSIGNALED(status):
            break
    return {
        "kills": step - 1,
        "old version": old,
        "new version": new,
        "lost": lost,
        "left over after the next save": sorted(left),
    }


def full(kind: str, folder: Path) -> dict[str, object]:
    """Save where files may not grow beyond a limit, as on a disk that fills up."""
    subject = Subject(kind, folder)
    subject.save(0)
    lost, messages = [], set()
    limits = [0, 1, 100, 1000, 10_000, 100_000]
    for limit in limits:
        reading, writing = os.pipe()

        def work(limit: int = limit, writing: int = writing) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                subject.save(1)
            except Exception as error:
                os.write(writing, f"{type(error).__name__}: {error}"[:2000].encode())

        os.waitpid(in_child(work), 0)
        os.close(writing)
        with os.fdopen(reading) as said:
            message = said.read()
        messages.add(message.replace(str(folder), "."))
        if not message or subject.load() != 0 or subject.left_over():
            lost.append(f"limit {limit}: {message!r}, version {subject.load()}")
    return {"limits": limits, "messages": sorted(messages), "lost": lost}


def read_only(kind: str, folder: Path) -> dict[str, object]:
    """Save into a folder that may not be written, as another user if this one is root."""
    subject = Subject(kind, folder)
    subject.save(0)
    folder.chmod(0o555)
    reading, writing = os.pipe()

    def work() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            subject.save(1)
        except Exception as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())

    subject.load()  # what it imports must be there before the rights go
    os.waitpid(in_child(work), 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        message = said.read()
    folder.chmod(0o755)
    lost = [] if message and subject.load() == 0 and not subject.left_over() else [message]
    return {"message": message.replace(str(folder), "."), "lost": lost}


def saving(kind: str, folder: Path) -> dict[str, object]:
    """A little of everything that may happen to a save, each in a folder of its own."""
    runs = {
        "kill": lambda place: kill(kind, place, 12),
        "kill-everywhere": lambda place: kill_everywhere(kind, place),
        "full": lambda place: full(kind, place),
        "read-only": lambda place: read_only(kind, place),
    }
    results, lost = {}, []
    for name, work in runs.items():
        place = folder / name
        place.mkdir()
        results[name] = work(place)
        lost += [f"{name}: {what}" for what in results[name]["lost"]]
    return {**results, "lost": lost}


def writers(folder: Path, seconds: float, count: int = 4) -> dict[str, object]:
    """Several processes save one gallery while another one loads it again and again."""
    subject = Subject("gallery", folder)
    subject.save(0)
    end = time.monotonic() + seconds
    reading, writing = os.pipe()

    def work(first: int) -> None:
        saves = 0
        while time.monotonic() < end:
            saves += 1
            try:
                subject.save(first + count * saves)
            except OSError as error:
                os.write(writing, f"failed {type(error).__name__}\n".encode())
        os.write(writing, f"saves {saves}\n".encode())

    children = [in_child(lambda number=number: work(number)) for number in range(count)]
    os.close(writing)
    loads, lost = 0, []
    while time.monotonic() < end:
        try:
            subject.load()
            loads += 1
        except Exception as error:
            lost.append(f"{type(error).__name__}: {error}")
    codes = [os.waitpid(child, 0)[1] for child in children]
    with os.fdopen(reading) as said:
        lines = said.read().split("\n")[:-1]
    subject.load()
    return {
        "writers": count,
        "saves": sum(int(line.split()[1]) for line in lines if line.startswith("saves")),
        "saves that failed": sum(line.startswith("failed") for line in lines),
        "loads": loads,
        "lost": lost + [f"a writer died: {code}" for code in codes if code],
        "left over": subject.left_over(),
    }


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pieces of a portrait of many sizes, so that descriptors are those of faces."""
    import skimage
    from PIL import Image

    portrait = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png"))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        top, left = rng.integers(30, 60), rng.integers(135, 165)
        side = int(rng.integers(130, 180))
        piece = Image.fromarray(portrait[top : top + side, left : left + side, :3])
        found.append(np.asarray(piece.resize((int(rng.integers(40, 200)),) * 2)))
    return found


def threads(calls: int, count: int = 16) -> dict[str, object]:
    """Threads that share one embedder, which none has called yet, and one verifier."""
    from sfpose import FaceEmbedder, TemplateVerifier

    photos = [pictures(1 + n % 3, seed=n) for n in range(8)]
    alone = FaceEmbedder()
    expected = [alone.transform(batch) for batch in photos]
    verifier = TemplateVerifier()
    scores = [verifier.score_matrix(rows, np.repeat(rows, 300, 0)) for rows in expected]
    embedder, together = FaceEmbedder(), threading.Barrier(count)

    def work(number: int) -> int:
        if number < count:
            together.wait()
        batch = number % len(photos)
        rows = embedder.transform(photos[batch])
        distances = verifier.score_matrix(rows, np.repeat(rows, 300, 0))
        same = np.array_equal(rows, expected[batch]) and np.array_equal(distances, scores[batch])
        return int(not same)

    with ThreadPoolExecutor(count) as pool:
        different = sum(pool.map(work, range(calls)))
    lost = [f"{different} answers differ from the serial one"] if different else []
    return {"threads": count, "calls": calls, "lost": lost}


def resident() -> float:
    """Memory of this process, in mebibytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(transforms: int, warm: int) -> dict[str, object]:
    """Resident memory over many transforms of mixed batch and image sizes."""
    from sfpose import FaceEmbedder

    embedder, rng = FaceEmbedder(batch_size=8), np.random.default_rng(0)
    photos = pictures(64)
    seen = []
    for number in range(warm + transforms):
        chosen = rng.integers(0, len(photos), int(rng.integers(1, 9)))
        embedder.transform([photos[n] for n in chosen])
        if number >= warm and (number - warm) % max(1, transforms // 50) == 0:
            seen.append(resident())
    first, last = float(np.median(seen[:5])), float(np.median(seen[-5:]))
    return {
        "transforms": transforms,
        "mebibytes at the start": round(first, 1),
        "mebibytes at the end": round(last, 1),
        "largest": round(max(seen), 1),
        "lost": [] if last <= 1.05 * first else [f"grew by {last / first - 1:.1%}"],
    }


BOUND = 1e-5
"""Largest difference of two descriptors of one image, over its largest value."""


def determinism(count: int = 40) -> dict[str, object]:
    """Differences between descriptors of the same images, embedded in other ways."""
    from sfpose import FaceEmbedder

    photos = pictures(count)
    expected = FaceEmbedder().transform(photos)
    order = np.random.default_rng(1).permutation(count)
    answers = {"again": FaceEmbedder().transform(photos)}
    for jobs in (2, 4):
        answers[f"{jobs} threads"] = FaceEmbedder(n_jobs=jobs).transform(photos)
    for size in (1, 2, 7, 40):
        answers[f"batches of {size}"] = FaceEmbedder(batch_size=size).transform(photos)
    shuffled = np.empty_like(expected)
    shuffled[order] = FaceEmbedder().transform([photos[n] for n in order])
    answers["another order"] = shuffled
    largest = expected.max(axis=1, keepdims=True)
    differences = {
        name: 0.0
        if np.array_equal(rows, expected)
        else float((abs(rows - expected) / largest).max())
        for name, rows in answers.items()
    }
    exact = [name for name in ("again",) if differences[name]]
    lost = [f"{name}: {differences[name]}" for name in exact]
    lost += [f"{name}: {value}" for name, value in differences.items() if not value <= BOUND]
    return {"images": count, "largest relative difference": differences, "lost": lost}


def fuzz(minutes: float) -> dict[str, object]:
    """Run each fuzzer of tests/attacks with new random examples for its share of the time."""
    sys.path.insert(0, str(ROOT / "tests" / "attacks"))
    import fuzzers

    return fuzzers.run(minutes)


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("kill", "kill-everywhere", "full", "read-only", "saving"):
        command = commands.add_parser(name)
        command.add_argument("kind", choices=KINDS)
        if name == "kill":
            command.add_argument("--rounds", type=int, default=300)
            command.add_argument("--seed", type=int, default=0)
    commands.add_parser("writers").add_argument("--seconds", type=float, default=30)
    commands.add_parser("threads").add_argument("--calls", type=int, default=2000)
    flat = commands.add_parser("memory")
    flat.add_argument("--transforms", type=int, default=10_000)
    flat.add_argument("--warm", type=int, default=300, help="transforms before the first look")
    commands.add_parser("determinism")
    commands.add_parser("fuzz").add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with a_folder() as folder:
        result = {
            "kill": lambda: kill(options.kind, folder, options.rounds, options.seed),
            "kill-everywhere": lambda: kill_everywhere(options.kind, folder),
            "full": lambda: full(options.kind, folder),
            "read-only": lambda: read_only(options.kind, folder),
            "saving": lambda: saving(options.kind, folder),
            "writers": lambda: writers(folder, options.seconds),
            "threads": lambda: threads(options.calls),
            "memory": lambda: memory(options.transforms, options.warm),
            "determinism": determinism,
            "fuzz": lambda: fuzz(options.minutes),
        }[options.command]()
    print(json.dumps(result, indent=1))
    return 1 if result["lost"] or result.get("left over after the next save") else 0


if __name__ == "__main__":
    sys.exit(main())
