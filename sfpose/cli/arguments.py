"""What the subcommands ask of what is typed: numbers, ranges, and places to write to."""

from __future__ import annotations

import argparse
import math
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from sfpose.cli.output import has_controls

Number = TypeVar("Number", int, float)

__all__ = [
    "Once",
    "above_zero",
    "as_typed",
    "at_least_one",
    "check_names",
    "check_new",
    "check_writable",
    "people_range",
    "rate",
    "to_path",
]


class Once(argparse.Action):
    """argparse's action of an option that names one, and may not be given again."""

    def __call__(  # noqa: D102
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if (named := getattr(namespace, self.dest)) is not None:
            raise argparse.ArgumentError(self, f"must be given once; got {named!r} and {values!r}")
        setattr(namespace, self.dest, values)


def as_typed(name: str) -> str:
    """A person's name in the form of Unicode that keyboards give (NFC).

    Names of folders come in others, by which one person would be enrolled as two.
    """
    return unicodedata.normalize("NFC", name)


def at_least_one(text: str) -> int:
    """A whole number above 0 that C can count to.

    Raises
    ------
    argparse.ArgumentTypeError
    """
    _number(text, int, lambda number: number >= 1, "a whole number, at least 1")
    return _number(text, int, lambda number: number < 2**31, f"a whole number below {2**31}")


def above_zero(text: str) -> float:
    """A finite number above 0.

    Raises
    ------
    argparse.ArgumentTypeError
    """
    return _number(text, float, lambda number: 0 < number < math.inf, "a number above 0")


def rate(text: str) -> float:
    """A rate that something can have and that is neither never nor always.

    Raises
    ------
    argparse.ArgumentTypeError
    """
    return _number(text, float, lambda number: 0 < number < 1, "above 0 and below 1")


def to_path(text: str) -> Path:
    """A path; an empty one, as an unset variable gives, would be the working folder.

    Raises
    ------
    argparse.ArgumentTypeError
    """
    if not text:
        raise argparse.ArgumentTypeError("must be a path; got ''")
    return Path(text)


def _number(text: str, kind: type[Number], fits: Callable[[Number], bool], rule: str) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"must be {rule}; got {text!r}")
    return number


def check_names(names: Iterable[str]) -> None:
    """Refuse ids that would not look like what they are where they are printed.

    Raises
    ------
    ValueError
    """
    for name in names:
        if has_controls(name):
            raise ValueError(f"an id must hold no control characters; got {name!r}")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(
                f"an id must be text in the encoding of this locale or file system; got {name!r}"
            )


def people_range(text: str) -> range:
    """``101-250`` as a range that holds both ends.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is no such range.
    """
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise argparse.ArgumentTypeError(f"people must be given as FIRST-LAST; got {text!r}")
    return range(int(first), int(last) + 1)


def check_new(out: Path, overwrite: bool, *, artifact: bool = False) -> Path:
    """Refuse ``--out`` now if it could not be written when the work is done.

    Returns
    -------
    Path
        Where to write: a symbolic link is followed, as those of galleries are.

    Raises
    ------
    ValueError
        If the path is none that can be written.
    FileExistsError
        If something is there that may not be replaced, or not by a file (an artifact).
    OSError
        If nothing can be written there.
    """
    from sfpose.runtime.parts import check_name
    from sfpose.runtime.replacing import check_previous

    place = Path(os.path.realpath(out))
    check_name(place, out)
    if place.exists():
        if not overwrite:
            raise FileExistsError(f"{str(out)!r} must not exist, or --overwrite be given")
        if artifact:
            from sfpose.runtime.artifact import FORMAT
            from sfpose.runtime.overwriting import check_alike, check_outside

            check_alike(place, FORMAT, {"model.onnx", "manifest.json"})
            check_outside(place)
        elif not place.is_file():
            raise FileExistsError(
                f"--out must not exist, or be an ordinary file, which is replaced; got {str(out)!r}"
            )
    check_writable(out, "--out")
    if artifact:
        check_previous(place, "manifest.json")
    return place


def check_writable(place: Path, name: str) -> None:
    """Refuse a place, which an error calls by its name, in a folder that cannot be written to.

    Raises
    ------
    OSError
    """
    parents = Path(os.path.realpath(place)).parents
    parent = next(folder for folder in parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OSError(f"{name} must lie in a folder that can be written to; got {str(place)!r}")
