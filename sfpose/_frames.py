"""Pictures out of a video file, in the shape in which players show them.

May import PyAV, inside functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_whole

__all__ = ["Frame", "read_frames"]

_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,mjpeg"
"""What is read. FFmpeg also knows lists of files, by which an upload would name those of others."""

_WIDEST = 4
"""No format for cameras or television states more; a file that does might ask for all memory."""


class Frame(NamedTuple):
    """A picture of a video.

    Attributes
    ----------
    number : int
        From 0, counting frames that were left out too.
    seconds : float
        Time from the video's start.
    image : uint8 array of shape (H, W, 3), RGB

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.video import Frame
    >>> frame = Frame(3, 3 / 25, np.zeros((48, 64, 3), np.uint8))  # of a camera of your own
    >>> frame.seconds
    0.12
    """

    number: int
    seconds: float
    image: NDArray[np.uint8]


def read_frames(path: str | os.PathLike[str], *, every: int = 1) -> Iterator[Frame]:
    """Decode a video one frame at a time, as players show it: upright, with square pixels.

    How a picture is turned or mirrored, and how wide its pixels are, is what the file says.

    Parameters
    ----------
    path : path
    every : int, default=1
        Give each ``every``-th frame only.

    Yields
    ------
    Frame

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If PyAV is missing; says which extra to install.
    ValueError
        If ``every`` is below 1, or the file is no video, or one without a picture that can be
        decoded. Of a file that is cut off or damaged there may be fewer frames, or garbled ones,
        and no error.
    """
    check_whole(every, "every", 1)
    if not Path(path).is_file():
        raise FileNotFoundError(f"a video must be a file; there is none at {str(path)!r}")
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'reading a video needs PyAV, which is missing: pip install "sfpose[video]"'
        ) from error
    try:
        with av.open(os.fspath(path), options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.video:
                raise ValueError(f"a video must hold pictures; {str(path)!r} holds none")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start = float((stream.start_time or 0) * (stream.time_base or 0))
            wide = float(stream.sample_aspect_ratio or 1)
            number = -1
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    seconds = float("nan") if frame.time is None else float(frame.time) - start
                    yield Frame(number, seconds, _upright(_square(frame, wide), frame))
            if number < 0:
                raise ValueError(f"a video must hold pictures; none of {str(path)!r} can be read")
    except av.FFmpegError as error:
        raise ValueError(f"{str(path)!r} must be a whole video; {error}") from error


def _square(frame: Any, wide: float) -> NDArray[np.uint8]:
    """RGB with square pixels: those of a file may be so many times as wide as they are high."""
    if not 1 / _WIDEST <= wide <= _WIDEST:
        raise ValueError(
            f"pixels of a video must be at most {_WIDEST} times as wide as high, or as high as "
            f"wide; got {wide:g}"
        )
    # Larger in one direction and never smaller, so that nothing is lost.
    width, height = round(frame.width * max(1, wide)), round(frame.height * max(1, 1 / wide))
    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.asarray(image, dtype=np.uint8)


def _upright(image: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """As it is to be shown: phones store a picture sideways, or mirrored, with a matrix."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no frame's data if there is some of a kind that it lacks
        return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
    if matrix is None:
        return image
    # Stored (x, y) are shown at (a x + c y, b x + d y).
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
