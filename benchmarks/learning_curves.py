"""Learning curves of the descriptor networks, from the table that their runs left.

    python benchmarks/learning_curves.py docs/figures/learning_curves.csv --figure curves.png

Columns of the table: run, network, images seen, side of the images, mean cosine to the teacher in
training, and where the state was evaluated the EER on CFP people 001 to 100, in percent. A
run's checkpoint log (.jsonl beside the checkpoint) gives the images and the cosine. What `default`
began as counts as `default`.
"""

from __future__ import annotations

import argparse
import csv

ERRORS = {
    "frontal_profile": "frontal against profile",
    "frontal_frontal": "frontal against frontal",
    "templates": "five frontal against four profile images",
}
COLOURS = {"default": "tab:blue", "small": "tab:orange", "plain": "tab:green"}
LATE = 24.0
"""Million images seen when the run on a GPU ended: on a log scale all since is one place."""


def draw_cosines(axes, rows) -> None:
    """A line a run, its number at the end."""
    named = set()
    for run, network in dict.fromkeys((row["run"], row["network"]) for row in rows):
        mine = [row for row in rows if (row["run"], row["network"]) == (run, network)]
        seen = [float(row["seen"]) / 1e6 for row in mine]
        cosines = [float(row["cosine"]) for row in mine]
        label = None if network in named else network
        named.add(network)
        axes.plot(seen, cosines, "o-", ms=2, lw=1, color=COLOURS[network], label=label)
        axes.annotate(run, (seen[-1], cosines[-1]), (2, 2), textcoords="offset points", fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--figure", required=True, metavar="FILE")
    options = parser.parse_args()
    import matplotlib.pyplot as plt

    with open(options.table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, (early, late, errors) = plt.subplots(1, 3, figsize=(13, 3.8))
    draw_cosines(early, [row for row in rows if float(row["seen"]) < 1e6 * LATE])
    draw_cosines(late, [row for row in rows if float(row["seen"]) >= 1e6 * LATE])
    early.set(xscale="log", ylabel="Cosine to the teacher, in training")
    late.legend(fontsize=8, loc="lower right")
    for axes in (early, late):
        axes.set(xlabel="Million images seen")
    known = [row for row in rows if row["frontal_profile"] and row["network"] == "default"]
    for column, label in ERRORS.items():
        errors.plot([float(row[column]) for row in known], "o-", ms=3, lw=1, label=label)
    first = {row["run"]: place for place, row in reversed(list(enumerate(known)))}
    errors.set_xticks(list(first.values()), list(first), fontsize=7, rotation=90)
    errors.set(xlabel="Run", ylabel="EER on CFP 001 to 100, %", ylim=(0, None))
    errors.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
