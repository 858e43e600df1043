"""``sfpose identify GALLERY PHOTOS``: who of the enrolled people is nearest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.photos import add_photo_options, embed_photos, find_photos

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "identify",
        help="find out who of a gallery photos show",
        description="Find the people of a gallery who are nearest to the face in each photo. "
        "Exits with 0 if somebody is near enough in every photo, 1 if in some photo nobody is. "
        "A stranger may be taken for any of N enrolled people: he is with a probability of up "
        "to N times the rate given by --target-fmr.",
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

    from sfpose.decision import shipped_threshold
    from sfpose.gallery import TemplateGallery

    threshold = shipped_threshold(options.weights, options.target_fmr)
    gallery = TemplateGallery.load(options.gallery, n_jobs=options.n_jobs)
    if options.count < 1:
        raise ValueError(f"--count must be at least 1; got {options.count}")
    photos = find_photos(options.photos)
    faces = embed_photos(photos, options)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    recognised = set()
    lost = sorted(set(range(len(photos))) - set(faces.index[usable].tolist()))
    if usable.any():
        count = min(options.count, len(gallery))
        found = gallery.search(faces.descriptors[usable], count)
        for photo, ids, distances in zip(faces.index[usable], *found, strict=True):
            near = bool(distances[0] <= threshold)
            if near:
                recognised.add(int(photo))
            _say(options, str(photos[photo]), ids, distances, threshold)
    for photo in lost:
        if options.json:
            print(json.dumps({"photo": str(photos[photo]), "match": False, "nearest": []}))
        else:
            print(f"{photos[photo]}: no face was found")
    return 0 if len(recognised) == len(photos) else 1


def _say(
    options: argparse.Namespace, photo: str, ids: object, distances: object, threshold: float
) -> None:
    nearest = [
        {"id": name, "distance": float(distance), "match": bool(distance <= threshold)}
        for name, distance in zip(ids, distances, strict=True)  # type: ignore[call-overload]
    ]
    if options.json:
        told = {
            "photo": photo,
            "match": nearest[0]["match"],
            "threshold": threshold,
            "target_fmr": options.target_fmr,
            "nearest": nearest,
        }
        print(json.dumps(told))
        return
    head = str(nearest[0]["id"]) if nearest[0]["match"] else "nobody who is enrolled"
    listed = ", ".join(f"{entry['id']} {entry['distance']:.4f}" for entry in nearest)
    print(f"{photo}: {head} (nearest: {listed}; threshold {threshold:.4f})")
