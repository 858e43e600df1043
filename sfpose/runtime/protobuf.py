"""Reading protobuf messages field by field, without a schema and without a copy.

Just enough to look into an ONNX file before onnxruntime does: inference does not import
the onnx package. Stricter than protobuf where leniency would hide something: groups are
refused, and a field that stands once in a message may not come twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["Message", "varints"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
# Protobuf's own readers keep the lower 32 bits of a tag, so that one of more is another field to
# them than it says here.
_LARGEST_TAG = 2**32 - 1
_MOST_FIELDS = 2**18
_MOST_NUMBERS = 64
_PIECE = 2**20


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    for position in range(place, min(place + _LONGEST_VARINT, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value & (2**64 - 1), position + 1
        shift += 7
    raise ValueError(f"a number at byte {place} does not end")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def varints(data: memoryview) -> Iterator[int]:
    """Signed numbers of a packed field.

    Parameters
    ----------
    data : memoryview

    Yields
    ------
    int

    Raises
    ------
    ValueError
        If the last number does not end.
    """
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield _signed(value)


class _Budget:
    """How many fields a file may still have, however they are nested.

    A field costs a hundred times its two bytes in memory once it is a Python object.
    """

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it must have at most {_MOST_FIELDS} fields; it has more")


class Message:
    """The fields of one message by their numbers.

    Parameters
    ----------
    data : bytes or memoryview
    budget : optional
        Of the message that this one lies in; a file has 2**18 fields at most, those of messages
        that are read twice counted twice.

    Raises
    ------
    ValueError
        If the bytes are no protobuf message, or there are too many fields.

    Examples
    --------
    >>> from sfpose.runtime.protobuf import Message
    >>> message = Message(bytes([0x08, 0x96, 0x01, 0x12, 0x02]) + b"hi")
    >>> message.number(1), message.text(2), message.text(3)
    (150, 'hi', '')
    """

    def __init__(self, data: bytes | memoryview, budget: _Budget | None = None) -> None:
        view = memoryview(data)
        self._budget = budget = budget or _Budget()
        self._fields: dict[int, list[int | memoryview]] = {}
        place = 0
        while place < len(view):
            budget.spend()
            tag, place = _varint(view, place)
            if tag > _LARGEST_TAG:
                raise ValueError(f"a tag of more than 32 bits before byte {place}")
            field, kind = tag >> 3, tag & 7
            if field == 0 or kind not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
                raise ValueError(f"field {field} of wire type {kind} at byte {place}")
            if kind == _VARINT:
                number, place = _varint(view, place)
                self._fields.setdefault(field, []).append(_signed(number))
                continue
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
            if kind == _BYTES:
                size, place = _varint(view, place)
            if size > len(view) - place:
                raise ValueError(f"field {field} of {size} bytes where {len(view) - place} are")
            self._fields.setdefault(field, []).append(view[place : place + size])
            place += size

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def _one(self, field: int) -> int | memoryview | None:
        values = self._fields.get(field, [])
        if len(values) > 1:
            raise ValueError(f"field {field} must stand once; it comes {len(values)} times")
        return values[0] if values else None

    def number(self, field: int) -> int:
        """A whole number; 0 if it is not there."""
        value = self._one(field)
        if isinstance(value, memoryview):
            raise ValueError(f"field {field} must be a number; got bytes")
        return 0 if value is None else value

    def data(self, field: int) -> memoryview:
        """The bytes of a field; empty if it is not there."""
        value = self._one(field)
        if isinstance(value, int):
            raise ValueError(f"field {field} must be bytes; got a number")
        return memoryview(b"") if value is None else value

    def text(self, field: int) -> str:
        """A string; empty if it is not there."""
        return str(self.data(field), "utf-8")

    def message(self, field: int) -> Message:
        """A message inside; empty if it is not there."""
        return Message(self.data(field), self._budget)

    def each(self, field: int) -> list[memoryview]:
        """The bytes of a repeated field."""
        values = self._fields.get(field, [])
        found = [value for value in values if isinstance(value, memoryview)]
        if len(found) != len(values):
            raise ValueError(f"field {field} must be bytes; got a number")
        return found

    def messages(self, field: int) -> Iterator[Message]:
        """The messages of a repeated field."""
        return (Message(value, self._budget) for value in self.each(field))

    def texts(self, field: int) -> list[str]:
        """The strings of a repeated field."""
        return [str(value, "utf-8") for value in self.each(field)]

    def numbers(self, field: int) -> list[int]:
        """The whole numbers of a repeated field, packed or not; 64 at most."""
        if (count := self.count(field)) > _MOST_NUMBERS:
            raise ValueError(
                f"field {field} must have at most {_MOST_NUMBERS} numbers; got {count}"
            )
        numbers: list[int] = []
        for value in self._fields.get(field, []):
            numbers.extend([value] if isinstance(value, int) else varints(value))
        return numbers

    def count(self, field: int) -> int:
        """How many whole numbers a repeated field has, packed or not."""
        return sum(
            1 if isinstance(value, int) else _count(value) for value in self._fields.get(field, [])
        )


def _count(packed: memoryview) -> int:
    """How many numbers a packed field has, without a Python object for each."""
    if len(packed) and packed[-1] >= 0x80:
        raise ValueError("the last number of a list does not end")
    pieces = (packed[start : start + _PIECE] for start in range(0, len(packed), _PIECE))
    return sum(int(np.count_nonzero(np.frombuffer(each, np.uint8) < 0x80)) for each in pieces)
