"""One embedder and one verifier in many threads and processes: the serial bits, always."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from PIL import Image

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.runtime.artifact import read_artifact
from sfpose.runtime.session import OnnxModel

RELIABILITY = Path(__file__).resolve().parents[2] / "benchmarks" / "reliability.py"


@pytest.fixture(scope="module")
def reliability():
    spec = importlib.util.spec_from_file_location("reliability", RELIABILITY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pytest.importorskip("skimage", reason="the pictures come from scikit-image")
    return module


@pytest.fixture(scope="module")
def faces(reliability):
    return reliability.pictures(6)


@pytest.fixture(scope="module")
def expected(faces):
    return FaceEmbedder().transform(faces)


def test_sixteen_threads_that_meet_at_the_first_call_get_the_serial_bits(reliability):
    assert reliability.threads(calls=64)["lost"] == []


def test_one_session_is_made_however_many_threads_ask_first(monkeypatch):
    import onnxruntime

    made = []
    whole = onnxruntime.InferenceSession
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda *a, **k: (made.append(1), whole(*a, **k))[1]
    )
    shipped = read_artifact("default")
    model, together = OnnxModel(shipped.model), threading.Barrier(16)
    size = shipped.network_input.size

    def work(_):
        together.wait()
        return model.run(np.zeros((1, 3, size, size), np.float32))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, range(16)))
    assert len(made) == 1
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_one_gallery_and_one_verifier_serve_many_threads():
    rng = np.random.default_rng(0)
    gallery = TemplateGallery(n_jobs=2)
    gallery.add(range(500), rng.random((500, 60), dtype=np.float32))
    probes = [rng.random((1 + n, 60), dtype=np.float32) for n in range(16)]
    verifier = TemplateVerifier(n_jobs=2)
    found = [gallery.search(batch, 3) for batch in probes]
    scores = [verifier.score_matrix(batch, gallery.templates) for batch in probes]

    def work(number):
        number %= 16
        ids, distances = gallery.search(probes[number], 3)
        matrix = verifier.score_matrix(probes[number], gallery.templates)
        return (
            np.array_equal(ids, found[number].ids)
            and np.array_equal(distances, found[number].distances)
            and np.array_equal(matrix, scores[number])
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(160)))


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib_gets_the_serial_bits(faces, expected, backend):
    """An embedder that has worked already is pickled to the workers, without its session."""
    embedder = FaceEmbedder()
    embedder.transform(faces)
    if backend == "multiprocessing" and sys.version_info >= (3, 12):
        pytest.skip("Python 3.12 warns of any fork of a process with threads")
    answers = Parallel(n_jobs=2, backend=backend)(
        delayed(embedder.transform)([face]) for face in faces
    )
    np.testing.assert_array_equal(np.concatenate(answers), expected)


PROGRAM = """
import multiprocessing, os, sys, threading
import numpy as np
from sfpose import FaceEmbedder, TemplateVerifier

faces = list(np.load(sys.argv[2], allow_pickle=False))
rng = np.random.default_rng(0)
# Few pairs need no compiler, which each new process would wait for.
count = 40 if sys.argv[1] == "fork-preloaded" else 15
a, b = (rng.random((count, 50), dtype=np.float32) for _ in range(2))
embedder, verifier = FaceEmbedder(n_jobs=2), TemplateVerifier(n_jobs=2)

def answer(queue, embedder=embedder):
    queue.put((embedder.transform(faces).tobytes(), verifier.score_matrix(a, b).tobytes()))

if __name__ == "__main__":
    method, preload = sys.argv[1].split("-")
    if preload == "preloaded":
        embedder.transform(faces)
        verifier.score_matrix(a, b)
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    workers = [context.Process(target=answer, args=(queue, embedder)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = {queue.get() for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker.exitcode
    expected = (embedder.transform(faces).tobytes(), verifier.score_matrix(a, b).tobytes())
    assert answers == {expected}, len(answers)
"""


WAIT = """
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    raise SystemExit("the child hangs")
"""


def _run(program, *words, timeout=300):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def saved(tmp_path, reliability):
    faces = reliability.pictures(3)
    same = [Image.fromarray(face).resize((90, 90)) for face in faces]
    np.save(tmp_path / "faces.npy", np.stack(same))
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.mark.parametrize(
    "how", ["fork-cold", "fork-preloaded", "spawn-preloaded", "forkserver-preloaded"]
)
def test_worker_processes_get_the_serial_bits(saved, how):
    """As gunicorn does: load, fork workers, let each answer; and the other ways to start."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", saved / "program.py", how, saved / "faces.npy"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize(
    "what",
    [
        "pass",
        "del model",
        "model = FaceEmbedder('small', n_jobs=1).transform(faces)",
        "model.set_params(n_jobs=1).transform(faces)",
    ],
)
def test_a_child_need_not_call_what_it_inherited(saved, what):
    """Sessions have threads that no child has, and wait for them when they are destroyed."""
    _run(
        f"""
import os, sys, time
import numpy as np
from sfpose import FaceEmbedder
faces = list(np.load(sys.argv[1]))
model = FaceEmbedder(n_jobs=4)
model.transform(faces)
child = os.fork()
if child == 0:
    {what}
    sys.exit(7)
{WAIT}
assert os.waitstatus_to_exitcode(status) == 7, status
""",
        saved / "faces.npy",
    )


def test_a_fork_while_another_thread_makes_the_session_does_not_hang(saved):
    """The lock that the other thread holds is never released in the child."""
    _run(
        """
import os, sys, threading, time
import numpy as np
import sfpose.runtime.session as session
from sfpose import FaceEmbedder
faces = list(np.load(sys.argv[1]))
embedder, begun, whole = FaceEmbedder(), threading.Event(), session._session
def slow(*words):
    begun.set()
    time.sleep(1.0)
    return whole(*words)
session._session = slow
thread = threading.Thread(target=embedder.transform, args=(faces,))
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    session._session = whole
    os._exit(0 if np.isfinite(embedder.transform(faces)).all() else 1)
"""
        + WAIT
        + """
thread.join()
raise SystemExit(os.waitstatus_to_exitcode(status))
""",
        saved / "faces.npy",
    )


def test_threads_of_a_forked_child_agree_on_one_session(saved):
    _run(
        """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from sfpose import FaceEmbedder
faces = list(np.load(sys.argv[1]))
embedder = FaceEmbedder()
expected = embedder.transform(faces)
child = os.fork()
if child == 0:
    code = 1
    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: embedder.transform(faces), range(32)))
        code = 0 if all(np.array_equal(answer, expected) for answer in answers) else 2
    finally:
        os._exit(code)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        saved / "faces.npy",
    )


def test_order_batches_and_threads_change_less_than_is_stated(reliability):
    """onnxruntime promises no bits for other batch sizes: what is promised is a bound."""
    result = reliability.determinism(12)
    assert result["lost"] == []
    assert result["largest relative difference"]["again"] == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_many_transforms():
    """In a process of its own; 10,000 by benchmarks/reliability.py memory."""
    done = subprocess.run(
        [sys.executable, str(RELIABILITY), "memory", "--transforms", "100", "--warm", "60"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["lost"] == []


def test_embedders_that_are_gone_give_their_memory_back(faces):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(3):
        FaceEmbedder().transform(faces[:1])
    before = resident()
    for _ in range(12):
        FaceEmbedder().transform(faces[:1])
    # The two networks are 4 MB in the file and more in a session: 12 of them would show.
    assert resident() - before < 60e6
