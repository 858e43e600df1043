"""``sfpose remove GALLERY --id NAME``: take people out of a gallery on disk."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sfpose.cli.arguments import as_typed, to_path
from sfpose.cli.galleries import check_changeable
from sfpose.cli.output import print_json, shown

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.gallery import TemplateGallery


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "remove",
        help="delete people from a gallery",
        description="Delete people and their templates from a gallery: all who are named, or "
        'nobody if one of them is not enrolled. "sfpose info GALLERY --ids" lists who is.',
    )
    parser.add_argument("gallery", type=to_path, help="folder of the gallery")
    parser.add_argument(
        "--id",
        metavar="NAME",
        nargs="+",
        action="extend",
        required=True,
        help="who is to be deleted",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the gallery anew and say who was deleted."""
    from sfpose.gallery import TemplateGallery
    from sfpose.runtime.folders import settled

    check_changeable(options.gallery)
    if not settled(options.gallery).exists():
        raise FileNotFoundError(f"there must be a gallery at {str(options.gallery)!r}")
    with TemplateGallery.changing(options.gallery) as gallery:
        removed = _meant(gallery, options.id)
        gallery.remove(removed)
    if options.json:
        told = {"gallery": str(options.gallery), "people": len(gallery), "removed": removed}
        print_json(told)
    else:
        names = ", ".join(map(shown, removed))
        print(f"deleted {names}; the gallery holds {len(gallery)}")
    return 0


def _meant(gallery: TemplateGallery, names: list[str]) -> list[str | int]:
    """The ids of a gallery that are written like these names, each once: 7 and "7" like 7.

    Raises
    ------
    ValueError
        If one is not there, or could be either of two.
    """
    written: dict[str, list[str | int]] = {}
    for identity in gallery:
        written.setdefault(as_typed(str(identity)), []).append(identity)
    names = list(dict.fromkeys(map(as_typed, names)))
    unknown = [name for name in names if name not in written]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise ValueError(
            f"who is deleted must be enrolled; not enrolled: {listed}; nobody was deleted"
        )
    for name in names:
        if len(written[name]) > 1:
            raise ValueError(
                f"who is deleted must be one person; two are written {name!r}, a number and a "
                "text or a text in two forms of Unicode: use TemplateGallery.changing in Python; "
                "nobody was deleted"
            )
    return [written[name][0] for name in names]
