"""Learning curves of the descriptor network, from the table that its runs left.

    python benchmarks/learning_curves.py docs/figures/learning_curves.csv --figure curves.png

Columns of the table: run, images seen, side of the images, mean cosine to the teacher in
training, and where the state was evaluated the EER on CFP people 001 to 100, in percent. A
run's checkpoint log (.jsonl beside the checkpoint) gives the first four.
"""

from __future__ import annotations

import argparse
import csv

ERRORS = {
    "frontal_profile": "frontal against profile",
    "frontal_frontal": "frontal against frontal",
    "templates": "five frontal against four profile images",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--figure", required=True, metavar="FILE")
    options = parser.parse_args()
    import matplotlib.pyplot as plt

    with open(options.table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for number, run in enumerate(runs):
        mine = [row for row in rows if row["run"] == run]
        seen = [float(row["seen"]) / 1000 for row in mine]
        left.plot(
            seen,
            [float(row["cosine"]) for row in mine],
            "o-",
            ms=3,
            label=f"run {run}",
            color=plt.get_cmap("viridis")(number / len(runs)),
        )
    left.set(
        xscale="log", xlabel="Thousand images seen", ylabel="Cosine to the teacher, in training"
    )
    left.legend(fontsize=7, ncols=2, loc="lower right")
    for column, label in ERRORS.items():
        known = [row for row in rows if row[column]]
        seen = [float(row["seen"]) / 1000 for row in known]
        right.plot(seen, [float(row[column]) for row in known], "o-", ms=3, label=label)
    right.set(
        xscale="log",
        xlabel="Thousand images seen",
        ylabel="EER on CFP 001 to 100, %",
        ylim=(0, None),
    )
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
