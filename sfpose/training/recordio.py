"""Labelled images in MXNet's RecordIO, the format of MS1M, read without MXNet."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose.preprocessing import decode_image

__all__ = ["RecordFile", "RecordImages"]

_MAGIC = struct.pack("<I", 0xCED7230A)
_LENGTH = (1 << 29) - 1
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _BEGIN, _MIDDLE, _END = range(4)
_MOST = 1 << 24
"""From here on not every whole number is a float32, and labels of two people may be one."""


class RecordFile:
    """Records by key: ``NAME.rec`` beside ``NAME.idx``.

    The index is text, a line ``key<TAB>offset`` a record. A record is a magic number,
    a word whose upper 3 bits say whether it is whole, a first, middle or last part,
    and whose lower 29 bits give the length, then the data, filled up to 4 bytes. Parts
    are joined by the magic number, which split them because the data held it.

    Parameters
    ----------
    path : path of the ``.rec`` file

    Attributes
    ----------
    keys : int64 array of shape (n,)
        Sorted.

    Raises
    ------
    FileNotFoundError
        If either file is missing.
    ValueError
        If the index is damaged, names a key twice, or a place that is not in the file.

    References
    ----------
    dmlc-core, ``include/dmlc/recordio.h``; MXNet, ``python/mxnet/recordio.py``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        index = self.path.with_suffix(".idx")
        for file in (self.path, index):
            if not file.is_file():
                raise FileNotFoundError(
                    f"a RecordIO file needs its .rec and its .idx; there is no {str(file)!r}"
                )
        try:
            lines = np.loadtxt(index, dtype=np.int64, ndmin=2, comments=None)
        except ValueError as error:
            raise ValueError(f"{str(index)!r} must hold lines 'key<TAB>offset': {error}") from error
        if lines.size == 0 or lines.shape[1] != 2:
            raise ValueError(
                f"{str(index)!r} must hold lines 'key<TAB>offset'; got shape {lines.shape}"
            )
        lines = lines[np.argsort(lines[:, 0], kind="stable")]
        self.keys, self._offsets = lines[:, 0].copy(), lines[:, 1].copy()
        if (np.diff(self.keys) == 0).any():
            raise ValueError(f"{str(index)!r} must name each key once; it names one twice")
        self._size = self.path.stat().st_size
        outside = (self.keys < 0) | (self._offsets < 0) | (self._offsets >= self._size)
        if outside.any():
            key, offset = lines[np.argmax(outside)].tolist()
            raise ValueError(
                f"{str(index)!r} must have keys of 0 or more and offsets in 0 ... "
                f"{self._size - 1}; got key {key} and offset {offset}"
            )

    def read(self, key: int) -> bytes:
        """The data of one record.

        Raises
        ------
        ValueError
            If the index does not name the key, or the record is damaged or cut off.
        """
        with open(self.path, "rb") as file:
            file.seek(self._offset(key))
            return _MAGIC.join(self._parts(file, key))

    def read_header(self, key: int) -> tuple[NDArray[np.float32], int]:
        """Label and identifier of one record, without reading its image."""
        with open(self.path, "rb") as file:
            file.seek(self._offset(key))
            flag, length = self._start(file, key, (_WHOLE, _BEGIN))
            if flag != _WHOLE:
                file.seek(self._offset(key))
                return _unpack(_MAGIC.join(self._parts(file, key)), self._name(key))[:2]
            data = file.read(min(length, _HEADER.size))
            if len(data) == _HEADER.size:
                data += file.read(min(4 * _HEADER.unpack(data)[0], length - _HEADER.size))
            return _unpack(data, self._name(key))[:2]

    def _offset(self, key: int) -> int:
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            raise ValueError(
                f"{str(self.path)!r} must hold record {key}; its index does not name it"
            )
        return int(self._offsets[place])

    def _name(self, key: int) -> str:
        return f"record {key} of {str(self.path)!r}"

    def _start(
        self, file: io.BufferedReader, key: int, allowed: tuple[int, int]
    ) -> tuple[int, int]:
        start = file.read(8)
        if len(start) < 8 or start[:4] != _MAGIC:
            raise ValueError(
                f"{self._name(key)} must begin with the magic number 0xced7230a; "
                f"got {start[:4].hex() or 'the end of the file'}"
            )
        word = int.from_bytes(start[4:], "little")
        flag, length = word >> 29, word & _LENGTH
        if flag not in allowed:
            raise ValueError(
                f"{self._name(key)} must go on with a part of kind "
                f"{' or '.join(map(str, allowed))}; got kind {flag}"
            )
        left = self._size - file.tell()
        if length > left:
            raise ValueError(
                f"{self._name(key)} must hold {length} bytes; the file ends after {max(left, 0)}"
            )
        return flag, length

    def _parts(self, file: io.BufferedReader, key: int) -> Iterator[bytes]:
        allowed = _WHOLE, _BEGIN
        while True:
            flag, length = self._start(file, key, allowed)
            data = file.read(length)
            if len(data) < length:  # cut off since it was opened
                raise ValueError(
                    f"{self._name(key)} must hold {length} bytes; the file ends after {len(data)}"
                )
            file.seek(-length % 4, os.SEEK_CUR)
            yield data
            if flag in (_WHOLE, _END):
                return
            allowed = _MIDDLE, _END


def _unpack(data: bytes, name: str) -> tuple[NDArray[np.float32], int, bytes]:
    """Label, identifier and image of a record: MXNet's IRHeader and what follows it.

    The header is flag, label, id and id2. A flag above zero is the number of labels
    that follow the header in place of its own.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"{name} must hold a header of 24 bytes; got {len(data)} bytes")
    flag, label, identifier, _ = _HEADER.unpack_from(data)
    data = data[_HEADER.size :]
    if flag == 0:
        return np.array([label], dtype=np.float32), identifier, data
    if len(data) < 4 * flag:
        raise ValueError(f"{name} must hold {flag} labels; got {len(data)} bytes for them")
    labels = np.frombuffer(data, dtype="<f4", count=flag).astype(np.float32)
    return labels, identifier, data[4 * flag :]


class RecordImages:
    """MS1M and its like: a table of images and people out of a RecordIO file.

    Record 0 may be a header with two labels (a, b): the images then are records 1 to
    a - 1, and records a to b - 1 stand for one person each, their labels the first
    image and the one after the last. Without it every record is an image, whose
    label is the person. Labels are whole numbers from 0 to below 2 ** 24.

    Parameters
    ----------
    path : path
        The ``.rec`` file, with the ``.idx`` file beside it.

    Attributes
    ----------
    people : list of str
        Names of the people: the number of the person's record, or the label.
    labels : int64 array of shape (n,)
        Whose each image is, as a row of ``people``.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the file is damaged, a label is no such number, or a range names a record that is not
        there, or one of another person too.
    """

    aligned = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = RecordFile(path)
        keys = self._file.keys
        ranges = self._file.read_header(0)[0] if keys[0] == 0 else np.zeros(1, np.float32)
        if len(ranges) > 1:
            first, end = self._whole([0, 0], ranges[:2]).tolist()
            self._keys, self.labels, self.people = self._by_ranges(first, end)
        else:
            found = np.array([self._file.read_header(key)[0][0] for key in keys.tolist()])
            people, labels = np.unique(self._whole(keys, found), return_inverse=True)
            self._keys, self.labels = keys, labels.astype(np.int64)
            self.people = [str(person) for person in people.tolist()]

    def _whole(self, keys: ArrayLike, labels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Labels of records as whole numbers."""
        wrong = ~((labels >= 0) & (labels < _MOST) & (labels == np.floor(labels)))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(
                f"labels must be whole numbers in 0 ... {_MOST - 1}; record "
                f"{np.asarray(keys)[place]} of {str(self._file.path)!r} has {labels[place]}"
            )
        return labels.astype(np.int64)

    def _by_ranges(
        self, first: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        path, known = str(self._file.path), self._file.keys
        owners = np.full(len(known), -1)
        rows: list[NDArray[np.int64]] = []
        for person in range(first, end):
            low = int(np.searchsorted(known, person))
            if low == len(known) or known[low] != person:
                raise ValueError(
                    f"the header of {path!r} counts on people's records {first} to {end - 1}; "
                    f"there is no record {person}"
                )
            label, _ = self._file.read_header(person)
            if len(label) < 2:
                raise ValueError(
                    f"record {person} of {path!r} must give a person's first and last image; "
                    f"got {len(label)} label"
                )
            begin, stop = self._whole([person] * 2, label[:2]).tolist()
            low, high = np.searchsorted(known, [begin, max(begin, stop)]).tolist()
            there = known[low:high] - begin == np.arange(high - low)
            if not there.all() or high - low < stop - begin:
                absent = begin + int(np.argmin(np.append(there, False)))
                raise ValueError(
                    f"record {person} of {path!r} must name images that are there; "
                    f"there is no record {absent}"
                )
            if (owners[low:high] >= 0).any():
                other = int(owners[low:high].max())
                raise ValueError(
                    f"record {person} of {path!r} must name images of nobody else; "
                    f"record {other} names some of them too"
                )
            owners[low:high] = person
            rows.append(known[low:high])
        if not rows:
            raise ValueError(f"the header of {path!r} must name people; got none")
        labels = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        return np.concatenate(rows), labels, [str(person) for person in range(first, end)]

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, row: int) -> str:
        """What an image is called in messages."""
        return f"{self._file.path.name}[{self._keys[row]}]"

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image (H, W, 3)."""
        key = int(self._keys[row])
        _, _, data = _unpack(self._file.read(key), self.name(row))
        return decode_image(io.BytesIO(data), self.name(row))
