"""``sfpose enrol GALLERY PHOTOS``: add people to a gallery on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.arguments import check_writable
from sfpose.cli.output import print_json
from sfpose.cli.photos import add_photo_options, embed_photos, find_photos, photos_by_person

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.gallery import TemplateGallery
    from sfpose.runtime.folders import Contents


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

    from sfpose._gallery_files import FILES, MANIFEST, gallery_files
    from sfpose.runtime.folders import change_folder
    from sfpose.templates import build_templates

    without: list[str] = []
    if options.id is not None:
        if not options.id.strip():
            raise ValueError(f"--id must name somebody; got {options.id!r}")
        photos = find_photos(options.photos)
        people = [options.id] * len(photos)
    elif len(options.photos) == 1:
        photos, people, without = photos_by_person(options.photos[0])
    else:
        raise ValueError(
            "--id must say whose photos these are, or one folder PERSON/photo be given"
        )
    if without:
        raise ValueError(
            "each person's folder must hold JPEG, PNG or WebP photos; there are none in "
            f"{', '.join(without)}; nobody was added"
        )
    names = list(dict.fromkeys(people))
    check_writable(options.gallery, "the gallery")
    # Before the photos are embedded, and once more when the gallery is written.
    _check_new(_gallery_at(options.gallery, options), names, options)
    faces = embed_photos(photos, options)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    shown = np.array(people)[faces.index[usable]]
    missing = sorted(set(people) - set(shown.tolist()))
    if missing:
        raise ValueError(
            f"no face was found in any photo of {', '.join(missing)}; nobody was added"
        )
    built = build_templates(faces.descriptors[usable], shown)
    counts = dict(zip(built.groups.tolist(), built.counts.tolist(), strict=True))
    _check_counts(counts, options)
    held = 0

    def enrolled(place: Path) -> Contents:
        nonlocal held
        gallery = _gallery_at(place, options)
        _check_new(gallery, names, options)
        old = np.array([name in gallery for name in counts])
        for put, rows in ((gallery.update, old), (gallery.add, ~old)):
            if rows.any():
                put(built.groups[rows], built.templates[rows], counts=built.counts[rows])
        held = len(gallery)
        return gallery_files(gallery._contents())

    change_folder(options.gallery, enrolled, marker=MANIFEST, known=FILES)
    if options.json:
        print_json({"gallery": str(options.gallery), "people": held, "photos": counts})
    else:
        print(
            f"enrolled {len(counts)} from {sum(counts.values())} of {len(photos)} photos; "
            f"the gallery holds {held}"
        )
    return 0


def _gallery_at(place: Path, options: argparse.Namespace) -> TemplateGallery:
    """The gallery of a folder, or a new one, for descriptors of the weights that are asked for."""
    from sfpose.gallery import TemplateGallery
    from sfpose.runtime.folders import settled

    if settled(place).exists():
        return TemplateGallery.load(place, weights=options.weights)
    return TemplateGallery(weights=options.weights)


def _check_new(gallery: TemplateGallery, names: list[str], options: argparse.Namespace) -> None:
    known = [name for name in names if name in gallery]
    if known and not options.replace:
        raise ValueError(f"people must be new, or --replace be given; {known[0]!r} is enrolled")


def _check_counts(counts: dict[str, int], options: argparse.Namespace) -> None:
    """Refuse whom identify could not decide about: nobody has a threshold for so many photos."""
    from sfpose.decision import shipped_conditions
    from sfpose.runtime.artifact import read_manifest

    conditions = shipped_conditions(read_manifest(options.weights))
    most = max((c.template_images for c in conditions if c.poses is None), default=None)
    for name, count in counts.items():
        if most is not None and count > most:
            raise ValueError(
                f"a person must have at most {most} photos, for which the weights have a "
                f"threshold; {name!r} has {count}; nobody was added"
            )
