"""``sfpose identify GALLERY PHOTOS``: who of the enrolled people is nearest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sfpose.cli.photos import add_photo_options, embed_photos, find_photos

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.gallery import TemplateGallery


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "identify",
        help="find out who of a gallery photos show",
        description="Find the people of a gallery who are nearest to the face in each photo. "
        "Exits with 0 if somebody is near enough in every photo, 1 if in some photo nobody is. "
        "Where N people are enrolled, a stranger is taken for one of them up to N times as often "
        "as --target-fmr says.",
    )
    parser.add_argument("gallery", type=Path, help="folder that enrol made")
    parser.add_argument("photos", nargs="+", help="photos, or folders that hold some at any depth")
    parser.add_argument(
        "--count", type=int, default=3, metavar="K", help="people to name at most (default: 3)"
    )
    parser.add_argument(
        "--target-fmr",
        type=float,
        default=1e-4,
        metavar="RATE",
        help="how often two strangers may be taken for the same person (default: 0.0001)",
    )
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a face")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print who is near; 0 if somebody is in every photo, else 1."""
    import numpy as np

    from sfpose.gallery import TemplateGallery

    gallery = TemplateGallery.load(options.gallery, n_jobs=options.n_jobs)
    if options.count < 1:
        raise ValueError(f"--count must be at least 1; got {options.count}")
    thresholds = _thresholds(options, gallery)
    photos = find_photos(options.photos)
    faces = embed_photos(photos, options)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    recognised = set()
    lost = sorted(set(range(len(photos))) - set(faces.index[usable].tolist()))
    if usable.any():
        found = gallery.search(faces.descriptors[usable], min(options.count, len(gallery)))
        for photo, ids, distances in zip(faces.index[usable], *found, strict=True):
            nearest = [
                _Near(name, float(distance), thresholds[name])
                for name, distance in zip(ids, distances, strict=True)
            ]
            if any(near.match for near in nearest):
                recognised.add(int(photo))
            _say(options, str(photos[photo]), nearest)
    for photo in lost:
        if options.json:
            print(json.dumps({"photo": str(photos[photo]), "match": False, "nearest": []}))
        else:
            print(f"{photos[photo]}: no face was found")
    return 0 if len(recognised) == len(photos) else 1


class _Near(NamedTuple):
    id: Hashable
    distance: float
    threshold: float

    @property
    def match(self) -> bool:
        return self.distance <= self.threshold


def _thresholds(options: argparse.Namespace, gallery: TemplateGallery) -> dict[Hashable, float]:
    """Threshold of each person: templates of more images lie closer to everybody."""
    from sfpose.decision import Condition, shipped_rule

    by_count = {
        count: shipped_rule(options.weights, options.target_fmr, Condition.of(count, 1)).threshold
        for count in set(gallery.counts.tolist())
    }
    return dict(zip(gallery, (by_count[count] for count in gallery.counts.tolist()), strict=True))


def _say(options: argparse.Namespace, photo: str, nearest: list[_Near]) -> None:
    matches = [near for near in nearest if near.match]
    if options.json:
        told = {
            "photo": photo,
            "match": bool(matches),
            "target_fmr": options.target_fmr,
            "nearest": [{**near._asdict(), "match": near.match} for near in nearest],
        }
        print(json.dumps(told))
        return
    head = str(matches[0].id) if matches else "nobody who is enrolled"
    listed = ", ".join(
        f"{near.id} {near.distance:.4f} (threshold {near.threshold:.4f})" for near in nearest
    )
    print(f"{photo}: {head}; nearest: {listed}")
