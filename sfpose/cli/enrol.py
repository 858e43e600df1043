"""``sfpose enrol GALLERY PHOTOS``: add people to a gallery on disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.photos import add_photo_options, embed_photos, find_photos, photos_by_person

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "enrol",
        help="add people to a gallery that identify searches",
        description="Add people to a gallery, a folder that is made if it is not there. Give "
        "one person's photos and --id NAME, or a folder with one folder of photos for each "
        "person. Several photos of a person become one template, their mean. Nobody is added "
        "unless everybody can be.",
    )
    parser.add_argument("gallery", type=Path, help="folder of the gallery")
    parser.add_argument(
        "photos", nargs="+", help="photos of one person (with --id), or one folder PERSON/photo"
    )
    parser.add_argument("--id", metavar="NAME", help="whose photos these are")
    parser.add_argument("--replace", action="store_true", help="replace people who are there")
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the gallery anew and say who was added."""
    import numpy as np

    from sfpose.gallery import TemplateGallery
    from sfpose.templates import build_templates

    if options.id is not None:
        photos = find_photos(options.photos)
        people = [options.id] * len(photos)
    elif len(options.photos) == 1:
        photos, people = photos_by_person(options.photos[0])
    else:
        raise ValueError(
            "--id must say whose photos these are, or one folder PERSON/photo be given"
        )
    there = options.gallery.exists()
    gallery = TemplateGallery.load(options.gallery) if there else TemplateGallery()
    known = [person for person in dict.fromkeys(people) if person in gallery]
    if known and not options.replace:
        raise ValueError(f"people must be new, or --replace be given; {known[0]!r} is enrolled")
    faces = embed_photos(photos, options)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    names = np.array(people)[faces.index[usable]]
    missing = sorted(set(people) - set(names.tolist()))
    if missing:
        raise ValueError(
            f"no face was found in any photo of {', '.join(missing)}; nobody was added"
        )
    built = build_templates(faces.descriptors[usable], names)
    ids = [str(name) for name in built.groups]
    old = np.array([name in gallery for name in ids])
    for put, rows in ((gallery.update, old), (gallery.add, ~old)):
        if rows.any():
            put(np.array(ids)[rows].tolist(), built.templates[rows], counts=built.counts[rows])
    gallery.save(options.gallery, overwrite=there)
    if options.json:
        counts = {name: int(count) for name, count in zip(ids, built.counts, strict=True)}
        print(
            json.dumps({"gallery": str(options.gallery), "people": len(gallery), "photos": counts})
        )
    else:
        used = int(built.counts.sum())
        print(
            f"enrolled {len(ids)} from {used} of {len(photos)} photos; "
            f"the gallery holds {len(gallery)}"
        )
    return 0
