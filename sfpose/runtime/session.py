"""An ONNX network held as bytes, with a session made where and when it is needed."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfpose.runtime.inspection import check_network

if TYPE_CHECKING:
    from types import ModuleType

    from onnxruntime import InferenceSession

__all__ = ["OnnxModel", "load_onnxruntime"]


class OnnxModel:
    """Runs an ONNX network with one input and one output on the CPU.

    It pickles, copies and crosses fork and spawn: only the bytes travel, and each
    process makes its session at its first call. One instance serves many threads.

    Parameters
    ----------
    model : bytes
        The ONNX file, without external data.
    n_threads : int, default=1
        Threads that onnxruntime uses inside one call.

    Raises
    ------
    ValueError
        At the first call, if ``sfpose.runtime.inspection.check_network`` refuses the
        network or onnxruntime cannot load it.
    """

    def __init__(self, model: bytes, n_threads: int = 1) -> None:
        self.model = model
        self.n_threads = n_threads
        self._place = _Place()

    def __getstate__(self) -> dict[str, object]:
        return {"model": self.model, "n_threads": self.n_threads}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._place = _Place()

    def _ready(self) -> InferenceSession:
        place = self._place
        if place.process != os.getpid():
            # After a fork: its lock may be held by a thread that this process lacks.
            place = self._place = _Place()
        with place.lock:
            if place.session is None:
                _left_alone_by_children().add(place)
                place.session = _session(self.model, self.n_threads)
            return place.session

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the network for one batch (n, ...).

        Raises
        ------
        ValueError
            If the network is refused or cannot answer a batch of this shape.
        """
        session = self._ready()
        try:
            (output,) = session.run(None, {session.get_inputs()[0].name: batch})
        except Exception as error:
            raise ValueError(
                f"the network must answer a batch of shape {batch.shape}; {error}"
            ) from error
        return np.asarray(output, dtype=np.float32)


class _Place:
    """Where a process keeps its session; replaced as a whole, so that threads agree."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.session: InferenceSession | None = None


def load_onnxruntime() -> ModuleType:
    """onnxruntime, told before it is loaded to report nothing to those who make it.

    Its packages since 1.29 keep an id of the device and a queue of what was done in the home
    directory, and send them to Microsoft, unless ORT_DISABLE_TELEMETRY stands in the environment
    when they are loaded: later is too late, for an app that loads them first too.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def _session(model: bytes, n_threads: int) -> InferenceSession:
    check_network(model)
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # What was checked is ONNX; onnxruntime would take its own format too.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(
            f"the network must be an ONNX file that onnxruntime can load; {error}"
        ) from error


@functools.cache
def _left_alone_by_children() -> weakref.WeakSet[_Place]:
    """Places whose sessions no forked child ever destroys.

    The threads of a session do not survive a fork, and its destructor waits for them
    forever: the memory is the price of a child that neither hangs nor crashes, whether it
    calls what it inherited, replaces it or only ends.
    """
    places: weakref.WeakSet[_Place] = weakref.WeakSet()

    def leak() -> None:
        for place in list(places):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(place.session))

    if hasattr(os, "register_at_fork"):  # Windows has neither
        os.register_at_fork(after_in_child=leak)
    return places
