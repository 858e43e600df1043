r"""False match rates by race, gender and age at one threshold, on FairFace's validation photos.

    python benchmarks/groups.py FAIRFACE_FOLDER CFP --figure fmr.png
    python benchmarks/groups.py FAIRFACE_FOLDER CFP --weights default small \
        --sface S.onnx --yunet Y.onnx

FAIRFACE_FOLDER holds ``fairface_128_*.zip`` (or folders) with ``val/N.jpg``, and
``fairface_label_val.csv``. All photos show different people, so every pair is an impostor
pair. The threshold is that of CFP people 001 to 100, in all poses, at a false match rate of
0.001. Pairs are taken within each group, as someone who passes for another person of the
same group is the harder case. SFace is run as in ``benchmarks/peers.py``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peers import SFace, cosine_distance

from sfpose import FaceEmbedder
from sfpose._scoring import chi2_pairs_at
from sfpose.metrics import GroupErrorDisplay, GroupErrorRates, calibrate_threshold
from sfpose.protocols import CFP, ImageFiles, LazyImages, all_pairs

LABELS = ("race", "gender", "age")
# A spreadsheet has turned two of the published age groups into dates.
AGES = {"03-Sep": "3-9", "Oct-19": "10-19"}

Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def validation_photos(folder: Path, limit: int | None) -> tuple[list[LazyImages], list[dict]]:
    """Images of the validation part, by archive, and their labels, in the same order."""
    with open(folder / "fairface_label_val.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    labels = {row["file"]: {**row, "age": AGES.get(row["age"], row["age"])} for row in rows}
    names, parts = [], []
    for archive in sorted(folder.glob("fairface_128_*")):
        files = ImageFiles(archive)
        own = [name for name in files.images() if name in labels]
        names += own
        if own:
            parts.append(LazyImages(files, own))
    return parts, [labels[name] for name in names]


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
    known: np.ndarray,
    cfp: CFP,
    rows: np.ndarray,
    labels: list[dict],
    compare: Compare,
    target_fmr: float,
) -> list[GroupErrorRates]:
    """Print the rates of one network; those within each of ``LABELS``."""
    found = ~np.isnan(known).any(axis=1)
    trials = all_pairs(cfp.subjects[found], np.arange(np.sum(found)))
    distances = compare(known[found], trials.first, trials.second)
    threshold = calibrate_threshold(distances, trials.is_genuine, target_fmr).threshold
    acquired = ~np.isnan(rows).any(axis=1)
    print(
        f"{len(rows)} photos, {np.sum(~acquired)} not acquired; threshold from {len(known)} photos"
    )
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
    parser.add_argument("--sface")
    parser.add_argument("--yunet")
    options = parser.parse_args()
    if (options.sface is None) != (options.yunet is None):
        parser.error("--sface and --yunet go together")
    cfp = CFP(options.cfp, people=range(1, 101))
    parts, labels = validation_photos(options.fairface, options.limit)

    networks = {
        name: (FaceEmbedder(name, n_jobs=-1).transform, chi2_pairs_at) for name in options.weights
    }
    if options.sface:
        networks["SFace"] = (SFace(options.sface, options.yunet), cosine_distance)
    for number, (name, (embed, compare)) in enumerate(networks.items()):
        if len(networks) > 1:
            print(name)
        rows = np.concatenate([embed(part) for part in parts])
        tables = report(embed(cfp.images), cfp, rows, labels, compare, options.target_fmr)
        if options.figure and not number:
            draw(tables, options.target_fmr, options.figure)


if __name__ == "__main__":
    main()
