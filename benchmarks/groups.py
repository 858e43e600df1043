r"""False match rates by race, gender and age at one threshold, on FairFace's validation photos.

    python benchmarks/groups.py FAIRFACE_FOLDER CFP --figure fmr.png
    python benchmarks/groups.py FAIRFACE_FOLDER CFP --weights default small \
        --sface S.onnx --yunet Y.onnx
    python benchmarks/groups.py FAIRFACE_FOLDER CFP --cohort 2000

FAIRFACE_FOLDER holds ``fairface_128_*.zip`` (or folders) with ``val/N.jpg``, and
``fairface_label_val.csv``. All photos show different people, so every pair is an impostor
pair. The threshold is that of CFP people 001 to 100, in all poses, at a false match rate of
0.001; what it costs is told by CFP people 101 to 250. Pairs are taken within each group, as
someone who passes for another person of the same group is the harder case. SFace is run as in
``benchmarks/peers.py``. ``--cohort`` normalises distances by so many of FairFace's training
photos ``train/N.jpg``, as ``TemplateVerifier.fit(..., cohort=)`` does.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peers import SFace, cosine_distance

from sfpose import FaceEmbedder
from sfpose._cohort import Cohort
from sfpose._scoring import chi2_pairs_at
from sfpose.decision import DescriptorForm
from sfpose.metrics import (
    GroupErrorDisplay,
    GroupErrorRates,
    calibrate_threshold,
    error_rates_at_threshold,
)
from sfpose.protocols import CFP, ImageFiles, LazyImages, all_pairs

LABELS = ("race", "gender", "age")
# A spreadsheet has turned two of the published age groups into dates.
AGES = {"03-Sep": "3-9", "Oct-19": "10-19"}

Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def photos_in(folder: Path, wanted: Callable[[str], bool]) -> tuple[list[LazyImages], list[str]]:
    """Images whose names are wanted, by archive, and all their names, in the same order."""
    names, parts = [], []
    for archive in sorted(folder.glob("fairface_128_*")):
        files = ImageFiles(archive)
        own = [name for name in files.images() if wanted(name)]
        names += own
        if own:
            parts.append(LazyImages(files, own))
    return parts, names


def validation_photos(folder: Path, limit: int | None) -> tuple[list[LazyImages], list[dict]]:
    """Images of the validation part, by archive, and their labels, in the same order."""
    with open(folder / "fairface_label_val.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    labels = {row["file"]: {**row, "age": AGES.get(row["age"], row["age"])} for row in rows}
    parts, names = photos_in(folder, labels.__contains__)
    return parts, [labels[name] for name in names]


def training_photos(folder: Path, count: int) -> list[LazyImages]:
    """So many of the training part's images, by archive, evenly drawn."""
    _, names = photos_in(folder, lambda name: name.startswith("train/"))
    chosen = {names[n] for n in np.linspace(0, len(names) - 1, count).astype(int)}
    return photos_in(folder, chosen.__contains__)[0]


def over_cohort(strangers: np.ndarray) -> Compare:
    """Distances normalised by strangers, as a verifier that is fitted with them gives them."""
    kept = strangers[~np.isnan(strangers).any(axis=1)]
    cohort = Cohort(kept, DescriptorForm(kept.shape[1], "l1"))

    def compare(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        used, places = np.unique(np.stack([first, second]), return_inverse=True)
        near = cohort.nearness(rows[used], n_jobs=-1)
        sides = [near.at(side) for side in places.reshape(2, -1)]
        return cohort.normalised(chi2_pairs_at(rows, first, second, n_jobs=-1), *sides)

    return compare


def rates_within(
    rows: np.ndarray, groups: np.ndarray, threshold: float, compare: Compare
) -> GroupErrorRates:
    """False match rate of all pairs inside each group."""
    names = np.unique(groups)
    matches, pairs = [], []
    for name in names:
        own = np.flatnonzero(groups == name)
        first, second = np.triu_indices(len(own), 1)
        matches.append(int((compare(rows, own[first], own[second]) <= threshold).sum()))
        pairs.append(len(first))
    counts = np.array(pairs)
    none = np.zeros(len(names), np.int64)
    with np.errstate(invalid="ignore"):
        rates = np.array(matches) / counts
    return GroupErrorRates(names, rates, none * np.nan, counts, none)


def report(
    cfp: list[tuple[CFP, np.ndarray]],
    rows: np.ndarray,
    labels: list[dict],
    compare: Compare,
    target_fmr: float,
) -> list[GroupErrorRates]:
    """Print the rates of one network; those within each of ``LABELS``.

    ``cfp`` holds the people for the threshold and those for what it costs, each with descriptors.
    """
    (people, known), (others, unknown) = cfp
    found = ~np.isnan(known).any(axis=1)
    trials = all_pairs(people.subjects[found], np.arange(np.sum(found)))
    distances = compare(known[found], trials.first, trials.second)
    threshold = calibrate_threshold(distances, trials.is_genuine, target_fmr).threshold
    acquired = ~np.isnan(rows).any(axis=1)
    print(
        f"{len(rows)} photos, {np.sum(~acquired)} not acquired; threshold from {len(known)} photos"
    )
    refused = np.isnan(unknown).any(axis=1)
    told = np.where(refused[:, None], 1 / unknown.shape[1], unknown)
    for poses in (("frontal", "frontal"), ("frontal", "profile")):
        pairs = others.trials(*poses)
        distances = compare(told, pairs.first, pairs.second)
        distances[refused[pairs.first] | refused[pairs.second]] = np.inf
        fmr, fnmr = error_rates_at_threshold(distances, pairs.is_genuine, threshold)
        print(f"{' - '.join(poses)}: FMR {100 * fmr:.3f} %, FNMR {100 * fnmr:.1f} %")
    rows = rows[acquired]
    labels = [label for label, kept in zip(labels, acquired, strict=True) if kept]
    everyone = rates_within(rows, np.full(len(rows), "all"), threshold, compare)
    print(f"all pairs: FMR {100 * everyone.fmr[0]:.3f} % of {everyone.impostor[0]:,}")
    tables = []
    for label in LABELS:
        groups = np.array([row[label] for row in labels])
        rates = rates_within(rows, groups, threshold, compare)
        tables.append(rates)
        print(f"within {label}: worst over geometric mean {rates.fmr_inequity:.2f}")
        for name, fmr, pairs in zip(rates.groups, rates.fmr, rates.impostor, strict=True):
            print(f"  {name:>16}  {100 * fmr:6.3f} %  of {pairs:,}")
    return tables


def draw(tables: list[GroupErrorRates], target_fmr: float, path: Path) -> None:
    """The rates within each of ``LABELS`` side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for rates, label, ax in zip(tables, LABELS, axes, strict=True):
        GroupErrorDisplay(rates).plot(target=target_fmr, ax=ax)
        ax.set_title(f"within {label}")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fairface", type=Path)
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--weights", nargs="+", default=["default"])
    parser.add_argument("--target-fmr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="so many photos instead of all")
    parser.add_argument("--figure", type=Path, help="of the first --weights")
    parser.add_argument("--cohort", type=int, help="normalise by so many other people")
    parser.add_argument("--sface")
    parser.add_argument("--yunet")
    options = parser.parse_args()
    if (options.sface is None) != (options.yunet is None):
        parser.error("--sface and --yunet go together")
    if options.sface and options.cohort:
        parser.error("--cohort is for --weights alone")
    parts, labels = validation_photos(options.fairface, options.limit)
    strangers = training_photos(options.fairface, options.cohort) if options.cohort else []
    cfp = [CFP(options.cfp, people=range(*ends)) for ends in ((1, 101), (101, 251))]

    networks = {
        name: (FaceEmbedder(name, n_jobs=-1).transform, chi2_pairs_at) for name in options.weights
    }
    if options.sface:
        networks["SFace"] = (SFace(options.sface, options.yunet), cosine_distance)
    for number, (name, (embed, compare)) in enumerate(networks.items()):
        if len(networks) > 1:
            print(name)
        rows = np.concatenate([embed(part) for part in parts])
        if strangers:
            compare = over_cohort(np.concatenate([embed(part) for part in strangers]))
        known = [(people, embed(people.images)) for people in cfp]
        tables = report(known, rows, labels, compare, options.target_fmr)
        if options.figure and not number:
            draw(tables, options.target_fmr, options.figure)


if __name__ == "__main__":
    main()
