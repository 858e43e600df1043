"""An ONNX network held as bytes, with a session made where and when it is needed."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxModel"]


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
        At the first call, if the bytes are no network that onnxruntime can load.
    """

    def __init__(self, model: bytes, n_threads: int = 1) -> None:
        self.model = model
        self.n_threads = n_threads
        self._forget_session()

    def _forget_session(self) -> None:
        self._session: InferenceSession | None = None
        self._process = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {"model": self.model, "n_threads": self.n_threads}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_session()

    def _ready(self) -> InferenceSession:
        if self._process not in (0, os.getpid()):
            _leak(self._session)
            self._forget_session()
        with self._lock:
            if self._session is None:
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = self.n_threads
                options.inter_op_num_threads = 1
                options.log_severity_level = 3
                try:
                    self._session = onnxruntime.InferenceSession(
                        self.model, options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:
                    raise ValueError(
                        f"the network must be an ONNX file that onnxruntime can load; {error}"
                    ) from error
                self._process = os.getpid()
            return self._session

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the network for one batch (n, ...)."""
        session = self._ready()
        (output,) = session.run(None, {session.get_inputs()[0].name: batch})
        return np.asarray(output, dtype=np.float32)


def _leak(session: InferenceSession | None) -> None:
    """Keep an inherited session from ever being destroyed.

    The threads of a session do not survive a fork, and its destructor waits for them
    forever: the memory is the price of a child that neither hangs now nor at exit.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
