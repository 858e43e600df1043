"""``sfpose enrol GALLERY PHOTOS``: add people to a gallery on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfpose.cli.arguments import Once, as_typed, check_names, check_writable, to_path
from sfpose.cli.doubts import look_alikes, odd_photos
from sfpose.cli.finding import find_photos, photos_by_person
from sfpose.cli.galleries import check_changeable
from sfpose.cli.output import note, print_json
from sfpose.cli.photos import (
    add_photo_options,
    check_one_face,
    embed_photos,
    readable,
)

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sfpose.decision import Weights
    from sfpose.gallery import TemplateGallery


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "enrol",
        help="add people to a gallery that identify searches",
        description="Add people to a gallery, a folder that is made if it is not there. Give "
        "one person's photos and --id NAME, or a folder with one folder of photos for each "
        "person. Several photos of a person become one template, their mean. Nobody is added "
        "unless everybody can be. Photos that may show somebody else, and people who may be "
        "enrolled already, are named.",
    )
    parser.add_argument("gallery", type=to_path, help="folder of the gallery")
    parser.add_argument(
        "photos", nargs="+", help="photos of one person (with --id), or one folder PERSON/photo"
    )
    parser.add_argument("--id", metavar="NAME", action=Once, help="whose photos these are")
    parser.add_argument("--replace", action="store_true", help="replace people who are there")
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the gallery anew and say who was added."""
    import numpy as np

    from sfpose._scoring import first_of_each
    from sfpose.decision import manifest_of
    from sfpose.gallery import TemplateGallery
    from sfpose.runtime.folders import settled
    from sfpose.templates import build_templates

    photos, people = _whose(options)
    names = list(dict.fromkeys(people))
    check_names(names)
    check_writable(options.gallery, "the gallery")
    check_changeable(options.gallery)
    if settled(options.gallery).exists():
        # Before the photos are embedded, and once more when the gallery is written.
        there = TemplateGallery.load(options.gallery, weights=options.weights)
        _check_new(there, names, options)
    kept, unreadable = readable(photos, options)
    photos, people = [photos[row] for row in kept], [people[row] for row in kept]
    faces = embed_photos(photos, options)
    check_one_face(photos, faces)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    rows, index = faces.descriptors[usable], faces.index[usable]
    whose = np.array(people)[index]
    # A photo that is there twice would count as two images.
    first = first_of_each(rows, whose)
    again, rows, index, whose = index[~first], rows[first], index[first], whose[first]
    missing = sorted({*names} - {*whose.tolist()})
    if missing:
        which = " that can be read" if unreadable else ""
        raise ValueError(
            f"no face was found in any photo{which} of {', '.join(missing)}; nobody was added"
        )
    built = build_templates(rows, whose)
    counts = dict(zip(built.groups.tolist(), built.counts.tolist(), strict=True))
    manifest = faces.artifact.manifest
    _check_counts(counts, manifest)
    changing = TemplateGallery.changing(
        options.gallery, weights=options.weights, n_jobs=options.n_jobs
    )
    with changing as gallery:
        faces.check_kept(manifest_of(options.weights), options.weights)
        _check_new(gallery, names, options)
        old = np.array([name in gallery for name in counts])
        for put, chosen in ((gallery.update, old), (gallery.add, ~old)):
            if chosen.any():
                put(built.groups[chosen], built.templates[chosen], counts=built.counts[chosen])
    doubts = _doubts(photos, index, rows, whose, gallery, manifest, again)
    if options.json:
        told = {"gallery": str(options.gallery), "people": len(gallery), "photos": counts}
        print_json({**told, "unreadable": unreadable, **doubts})
    else:
        print(
            f"enrolled {len(counts)} from {sum(counts.values())} of {len(photos)} photos; "
            f"the gallery holds {len(gallery)}"
        )
    return 0


def _whose(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """The photos, and whom each shows."""
    if options.id is not None:
        if not options.id.strip():
            raise ValueError(f"--id must name somebody; got {options.id!r}")
        photos = find_photos(options.photos)
        return photos, [as_typed(options.id)] * len(photos)
    if len(options.photos) != 1:
        raise ValueError(
            "--id must say whose photos these are, or one folder PERSON/photo be given"
        )
    photos, people, without = photos_by_person(options.photos[0])
    if without:
        raise ValueError(
            "each person's folder must hold photos that can be read; there are none in "
            f"{', '.join(without)}; nobody was added"
        )
    return photos, people


def _doubts(
    photos: Sequence[Path],
    index: NDArray[np.int64],
    rows: NDArray[np.float32],
    whose: NDArray[np.str_],
    gallery: TemplateGallery,
    weights: Weights,
    again: NDArray[np.int64],
) -> dict[str, list[Any]]:
    """What somebody should look at, which is said too: by what it is called in JSON."""
    taken = {*index.tolist(), *again.tolist()}
    without_face = [str(photo) for row, photo in enumerate(photos) if row not in taken]
    copies = [str(photos[row]) for row in again]
    odd = odd_photos(rows, whose, [str(photos[row]) for row in index], weights)
    alike = look_alikes(gallery, list(dict.fromkeys(whose.tolist())), weights)
    for photo in without_face:
        note(f"no face was found or taken in {photo}")
    for photo in copies:
        note(f"{photo} is another of the person's photos again, and is left out")
    for doubt in (*odd, *alike):
        note(str(doubt))
    return {
        "photos_without_face": without_face,
        "photos_again": copies,
        "may_show_somebody_else": [doubt._asdict() for doubt in odd],
        "may_be_enrolled_already": [doubt._asdict() for doubt in alike],
    }


def _check_new(gallery: TemplateGallery, names: list[str], options: argparse.Namespace) -> None:
    known = [name for name in names if name in gallery]
    if known and not options.replace:
        raise ValueError(f"people must be new, or --replace be given; {known[0]!r} is enrolled")


def _check_counts(counts: dict[str, int], weights: Weights) -> None:
    """Refuse whom identify could not decide about: nobody has a threshold for so many photos."""
    from sfpose.decision import manifest_of, shipped_conditions

    conditions = shipped_conditions(manifest_of(weights))
    most = max((c.template_images for c in conditions if c.poses is None), default=None)
    for name, count in counts.items():
        if most is not None and count > most:
            raise ValueError(
                f"a person must have at most {most} photos, for which the weights have a "
                f"threshold; {name!r} has {count}; nobody was added"
            )
