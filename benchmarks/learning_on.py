"""What ``FaceEmbedder.fit`` on a few people does to weights that ship, for other people.

    python benchmarks/learning_on.py PEOPLE [--weights small plain] [--rates 1e-4 1e-3 1e-2]

PEOPLE is a folder or zip file of photos, a folder a person. The network learns on from the weights
to name the first people by their first photos; error rates are of all pairs of the first four
photos of the other people, before and after.
"""

from __future__ import annotations

import argparse

import numpy as np

from sfpose import FaceEmbedder
from sfpose._scoring import chi2_pairs_at
from sfpose.metrics import equal_error_rate
from sfpose.protocols import ImageFiles, LazyImages, all_pairs

_TESTED = 4


def _photos(files: ImageFiles, people: list[str], count: int) -> tuple[LazyImages, np.ndarray]:
    """The first photos of people, and whose each one is."""
    names = sorted(files.images())
    chosen = [
        name
        for person in people
        for name in [each for each in names if each.split("/")[0] == person][:count]
    ]
    return LazyImages(files, chosen), np.array([name.split("/")[0] for name in chosen])


def _error_rate(embedder: FaceEmbedder, photos: LazyImages, people: np.ndarray) -> float:
    rows = embedder.transform(photos)
    found = np.flatnonzero(~np.isnan(rows).any(axis=1))
    trials = all_pairs(people[found], np.arange(len(found)))
    distances = chi2_pairs_at(rows[found], trials.first, trials.second)
    return 100 * equal_error_rate(distances, trials.is_genuine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("people", help="folder or zip file PERSON/photo")
    parser.add_argument("--weights", nargs="+", default=["small", "plain"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 1e-3, 1e-2])
    parser.add_argument("--learned", type=int, default=60, help="people who are learned")
    parser.add_argument("--photos", type=int, default=8, help="photos of each of them")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    files = ImageFiles(options.people)
    everyone = sorted({name.split("/")[0] for name in files.images()})
    learned, others = everyone[: options.learned], everyone[options.learned :]
    photos, people = _photos(files, learned, options.photos)
    tested = _photos(files, others, _TESTED)
    print(f"{len(people)} photos of {len(learned)} people; EER % on {len(others)} others")
    for weights in options.weights:
        print(f"{weights}: {_error_rate(FaceEmbedder(weights), *tested):.2f} as it ships")
        for rate in options.rates:
            embedder = FaceEmbedder(
                weights, epochs=options.epochs, batch_size=16, learning_rate=rate
            ).fit(photos, people)
            print(f"{weights}: {_error_rate(embedder, *tested):.2f} learning_rate={rate:g}")


if __name__ == "__main__":
    main()
