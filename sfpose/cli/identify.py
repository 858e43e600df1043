"""``sfpose identify GALLERY PHOTOS``: who of the enrolled people is nearest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from sfpose.cli.arguments import at_least_one, rate, to_path
from sfpose.cli.finding import find_photos
from sfpose.cli.galleries import read_people, weights_for
from sfpose.cli.output import note, print_json, shown
from sfpose.cli.photos import add_photo_options, embed_photos, readable
from sfpose.cli.rates import chosen_rate

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.decision import Weights
    from sfpose.gallery import SearchResult, TemplateGallery


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "identify",
        help="find out who of a gallery photos show",
        description="Find the people of a gallery who are nearest to the face in each photo. "
        "Exits with 0 if somebody is near enough in every photo, 1 if in some photo nobody is or "
        "it was left out. "
        "Where N people are enrolled, a stranger is taken for one of them up to N times as often "
        "as --target-fmr says.",
    )
    parser.add_argument("gallery", type=to_path, help="folder that enrol made, or a bundle")
    parser.add_argument("photos", nargs="+", help="photos, or folders that hold some at any depth")
    parser.add_argument(
        "--count",
        type=at_least_one,
        default=3,
        metavar="K",
        help="how many of the nearest to list; whoever it is is found whatever K (default: 3)",
    )
    parser.add_argument(
        "--target-fmr",
        type=rate,
        metavar="RATE",
        help="how often two strangers may be taken for the same person (default: 0.0001, or the "
        "next greater rate that the weights are calibrated for; that of a bundle's verifier)",
    )
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a face")
    parser.set_defaults(run=run, weights=None)  # which are a bundle's own, or "default"


def run(options: argparse.Namespace) -> int:
    """Print who is near; 0 if somebody is in every photo, else 1."""
    import numpy as np

    from sfpose.decision import manifest_of
    from sfpose.gallery import SearchResult

    options.weights = weights_for(options.gallery, options.weights)
    gallery = read_people(options.gallery, options.weights, options.n_jobs)
    if not len(gallery):
        where = str(options.gallery)
        raise ValueError(f"a gallery that is searched must hold people; {where!r} holds nobody")
    manifest = manifest_of(options.weights)
    options.target_fmr = chosen_rate(options.target_fmr, manifest, 1e-4, gallery.counts.tolist())
    thresholds = _thresholds(gallery, manifest, options.target_fmr)
    photos = find_photos(options.photos)
    kept, unreadable = readable(photos, options)
    photos = [photos[row] for row in kept]
    faces = embed_photos(photos, options)
    faces.check_kept(manifest, options.weights)
    usable = ~np.isnan(faces.descriptors).any(axis=1)
    answers: list[list[tuple[_Near | None, list[_Near]]]] = [[] for _ in photos]
    if usable.any():
        probes = faces.descriptors[usable]
        # Thresholds differ: whom one admits need not be among the nearest.
        radius = max((known for known in thresholds.values() if known is not None), default=0.0)
        admitted = gallery.search_within(probes, radius)
        nearest = gallery.search(probes, min(options.count, len(gallery)))
        for photo, within, *some in zip(faces.index[usable], admitted, *nearest, strict=True):
            found = next((near for near in _nears(within, thresholds) if near.match), None)
            listed = _nears(SearchResult(*some), thresholds)
            listed += [found] if found is not None and found not in listed else []
            answers[photo].append((found, listed))
    for name, told in zip(photos, answers, strict=True):
        for found, listed in told or [(None, [])]:
            _say(options, str(name), found, listed)
    for lost in unreadable:
        _say(options, lost, None, [], unreadable=True)
    recognised = [any(found is not None for found, _ in told) for told in answers]
    return 0 if all(recognised) and not unreadable else 1


class _Near(NamedTuple):
    id: str | int
    distance: float
    threshold: float | None

    @property
    def match(self) -> bool:
        return self.threshold is not None and self.distance <= self.threshold

    def __str__(self) -> str:
        limit = "no threshold" if self.threshold is None else f"threshold {self.threshold:.4f}"
        return f"{shown(self.id)} {self.distance:.4f} ({limit})"


def _nears(found: SearchResult, thresholds: dict[str | int, float | None]) -> list[_Near]:
    return [
        _Near(name, float(distance), thresholds[name])
        for name, distance in zip(*found, strict=True)
    ]


def _thresholds(
    gallery: TemplateGallery, weights: Weights, target_fmr: float
) -> dict[str | int, float | None]:
    """Threshold of each person: templates of more images lie closer to everybody.

    None for whoever has more images than the weights have a threshold for at this rate: one
    person must not keep the others from being found.
    """
    counts = gallery.counts.tolist()
    by_count = {images: _threshold(weights, target_fmr, images) for images in set(counts)}
    for images in sorted(images for images, known in by_count.items() if known is None):
        names = [str(name) for name, count in zip(gallery, counts, strict=True) if count == images]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        whose = "whose template is" if len(names) == 1 else "whose templates are"
        note(
            f"nobody is taken for {', '.join(names[:3])}{more}, {whose} of {images} images: the "
            f"weights have no threshold for so many at {target_fmr:g}"
        )
    return dict(zip(gallery, (by_count[images] for images in counts), strict=True))


def _threshold(weights: Weights, target_fmr: float, images: int) -> float | None:
    from sfpose.decision import Condition, shipped_rule

    try:
        wanted = Condition.of(images, 1)
        return shipped_rule(weights, target_fmr, wanted).threshold
    except ValueError:
        # Raises again where it is the rate that the weights were not calibrated for.
        shipped_rule(weights, target_fmr)
        return None


def _say(
    options: argparse.Namespace,
    photo: str,
    found: _Near | None,
    nearest: list[_Near],
    *,
    unreadable: bool = False,
) -> None:
    if options.json:
        told = {
            "photo": photo,
            "match": found is not None,
            "id": None if found is None else found.id,
            "target_fmr": options.target_fmr,
            "nearest": [{**near._asdict(), "match": near.match} for near in nearest],
            "unreadable": unreadable,
        }
        print_json(told)
        return
    if not nearest:
        print(f"{shown(photo)}: {'cannot be read' if unreadable else 'no face was found'}")
        return
    head = "nobody who is enrolled" if found is None else shown(found.id)
    print(f"{shown(photo)}: {head}; nearest: {', '.join(map(str, nearest))}")
