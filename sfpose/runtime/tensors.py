"""The safetensors format for one array: eight bytes, a JSON header, raw values.

Written here because a memory map needs to know where in the file the values begin; the
files are read by any safetensors library.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfpose.runtime.files import parse_json

__all__ = ["map_tensor", "tensor_file", "tensor_parts"]

_LONGEST_HEADER = 10**6


def tensor_parts(
    name: str, values: NDArray[np.float32], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, memoryview]:
    """A safetensors file with one float32 array: its head, and the array's own memory.

    Together they are the file; a large array is not copied. ``metadata`` holds texts
    under names of their own.
    """
    data = np.ascontiguousarray(values, dtype="<f4").data.cast("B")
    entry = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, len(data)]}
    notes = {"__metadata__": dict(metadata)} if metadata else {}
    header = json.dumps({**notes, name: entry}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, data


def tensor_file(
    name: str, values: NDArray[np.float32], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Contents of a safetensors file with one float32 array and texts under names."""
    return b"".join(tensor_parts(name, values, metadata))


def map_tensor(path: Path, name: str) -> NDArray[np.float32]:
    """Read-only memory map of a float32 array in a safetensors file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no safetensors file, lacks the array, or its sizes lie; if it is a
        symbolic link.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} must be a file of its own; {str(path)!r} is a symbolic link")
    if not path.is_file():
        raise FileNotFoundError(f"there must be a file {str(path)!r}; there is none")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LONGEST_HEADER, size):
                raise ValueError(f"a header of {length} bytes")
            header: Any = parse_json(file.read(length), "the header")
            entry = header[name]
            shape = tuple(_whole(side) for side in entry["shape"])
            first, last = (_whole(place) for place in entry["data_offsets"])
            if entry["dtype"] != "F32" or not shape or min(shape) < 1:
                raise ValueError(f"dtype {entry['dtype']} and shape {shape}")
            wanted = 4 * math.prod(shape)
            if first < 0 or last - first != wanted or 8 + length + last > size:
                raise ValueError(f"shape {shape} at bytes {first} to {last} of a file of {size}")
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise ValueError(
                f"{path.name} must be a safetensors file with a float32 array {name!r}; got {error}"
            ) from error
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # No np.memmap: joblib sends one by the name of its file, where another may lie by then.
    values = np.frombuffer(mapped, "<f4", math.prod(shape), 8 + length + first)
    return values.reshape(shape)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} where a whole number must be")
    return value
