"""False match rates by race, gender and age at one threshold, on FairFace's validation photos.

    python examples/fairface_impostors.py FAIRFACE_FOLDER CFP [--figure fmr.png]

FAIRFACE_FOLDER holds ``fairface_128_*.zip`` (or folders) with ``val/N.jpg``, and
``fairface_label_val.csv``. All photos show different people, so every pair is an impostor
pair. The threshold is calibrated on CFP people 001 to 100, in all poses, at a false match rate
of 0.001. Pairs are taken within each group, as someone who passes for another person of the
same group is the harder case.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from sfpose import FaceEmbedder, TemplateVerifier
from sfpose.metrics import GroupErrorDisplay, GroupErrorRates
from sfpose.protocols import CFP, ImageFiles, LazyImages

LABELS = ("race", "gender", "age")
# A spreadsheet has turned two of the published age groups into dates.
AGES = {"03-Sep": "3-9", "Oct-19": "10-19"}


def validation_photos(folder, limit):
    """Images of the validation part and their labels, in the same order."""
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


def rates_within_groups(rows, groups, threshold, verifier):
    """False match rate of all pairs inside each group."""
    names = np.unique(groups)
    matches, pairs = [], []
    for name in names:
        own = rows[groups == name]
        distances = verifier.score_matrix(own, own)
        first, second = np.triu_indices(len(own), 1)
        matches.append(int((distances[first, second] <= threshold).sum()))
        pairs.append(len(first))
    pairs = np.array(pairs)
    none = np.zeros(len(names), np.int64)
    return GroupErrorRates(names, np.array(matches) / pairs, none * np.nan, pairs, none)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fairface", type=Path)
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--target-fmr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="so many photos instead of all")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()

    embedder = FaceEmbedder(options.weights, n_jobs=-1)
    cfp = CFP(options.cfp, people=range(1, 101))
    known = embedder.transform(cfp.images)
    found = ~np.isnan(known).any(axis=1)
    verifier = TemplateVerifier(options.target_fmr, weights=options.weights, groups=None, n_jobs=-1)
    verifier.fit(known[found], cfp.subjects[found])

    parts, labels = validation_photos(options.fairface, options.limit)
    rows = np.concatenate([embedder.transform(part) for part in parts])
    acquired = ~np.isnan(rows).any(axis=1)
    print(
        f"{len(rows)} photos, {np.sum(~acquired)} not acquired; threshold from {len(known)} photos"
    )
    rows = rows[acquired]
    labels = [label for label, kept in zip(labels, acquired, strict=True) if kept]

    everyone = rates_within_groups(rows, np.full(len(rows), "all"), verifier.threshold_, verifier)
    print(f"all pairs: FMR {100 * everyone.fmr[0]:.3f} % of {everyone.impostor[0]:,}")
    tables = []
    for label in LABELS:
        groups = np.array([row[label] for row in labels])
        rates = rates_within_groups(rows, groups, verifier.threshold_, verifier)
        tables.append(rates)
        print(f"within {label}: worst over geometric mean {rates.fmr_inequity:.2f}")
        for name, fmr, pairs in zip(rates.groups, rates.fmr, rates.impostor, strict=True):
            print(f"  {name:>16}  {100 * fmr:6.3f} %  of {pairs:,}")
    if options.figure:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(13, 4))
        for rates, label, ax in zip(tables, LABELS, axes, strict=True):
            GroupErrorDisplay(rates).plot(target=options.target_fmr, ax=ax)
            ax.set_title(f"within {label}")
        figure.tight_layout()
        figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
