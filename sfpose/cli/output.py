"""What the subcommands print, and what becomes of it where nobody can take it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["has_controls", "note", "print_json", "say_left_out", "shown", "standard_streams"]

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Kinds of characters that turn the direction of the text behind them."""


def print_json(told: object, *, indent: int | None = None) -> None:
    """Print one JSON object; numbers that are not finite, which JSON lacks, as null."""
    print(json.dumps(_finite(told), allow_nan=False, indent=indent))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say_left_out(people: list[str], without: str = "an image") -> None:
    """Print who took no part because their folder holds no image, or what else they lack."""
    if people:
        print(
            f"{len(people)} people without {without} were left out: {', '.join(map(shown, people))}"
        )


def has_controls(text: str) -> bool:
    """Whether a character moves on a terminal, or changes it, instead of being seen there."""
    return any(map(_controls, text))


def _controls(sign: str) -> bool:
    return (
        unicodedata.category(sign) in ("Cc", "Zl", "Zp")
        or unicodedata.bidirectional(sign) in _TURNS
    )


def shown(name: object) -> str:
    r"""A name as it may be printed: what would forge lines or colours is escaped.

    Examples
    --------
    >>> from sfpose.cli.output import shown
    >>> print(shown("ann" + chr(10) + "bo"))
    ann\nbo
    """
    return "".join(repr(sign)[1:-1] if _controls(sign) else sign for sign in str(name))


def note(text: str) -> None:
    """Say on standard error what does not keep a command from being done."""
    print(f"note: {shown(text)}", file=sys.stderr)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Standard output and errors that neither a reader who left nor a name can break.

    What is printed raises OSError if it cannot be written, but for a reader who left.
    """
    kept = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        # Python sets to None what was closed when it started; errors would go into the output.
        sys.stdout = cast(TextIO, _Stream(sys.stdout or nowhere, BrokenPipeError))
        # There is nowhere left to say that errors cannot be written.
        sys.stderr = cast(TextIO, _Stream(sys.stderr or nowhere, OSError))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = kept


class _Stream:
    """A stream of text that goes nowhere once it could not be written.

    So what a command does is done, and its exit code kept, though nobody hears of it; and the
    interpreter, which flushes once more when it ends, does not fail at that.
    """

    def __init__(self, stream: TextIO, forgiven: type[OSError]) -> None:
        self._stream, self._forgiven = stream, forgiven
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self._watched():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._watched():
            self._stream.flush()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not isinstance(error, self._forgiven):
                said = f"what is printed cannot be written: {error.strerror or error}"
                raise OSError(said) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
