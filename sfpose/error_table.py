"""Error rates of lists of comparisons, as rows of a table.

May import ``metrics`` and ``protocols``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfpose.metrics import (
    Interval,
    VerificationSummary,
    k_fold_accuracy,
    people_interval,
    verification_summary,
)
from sfpose.metrics._drawn_people import people_of
from sfpose.metrics.thresholds import RULE_OF_30, rests_on_few
from sfpose.protocols import Trials

__all__ = ["Row", "format_table", "row_from_distances"]


@dataclass(frozen=True)
class Row:
    """Error rates of one list of comparisons, rates 0 to 1.

    Attributes
    ----------
    name : str
    rates : VerificationSummary
        Comparisons with an image that could not be acquired (a row of NaN) are refused
        at every threshold, and counted.
    eer_interval : Interval
        95 % interval over people (``sfpose.metrics.people_interval``).
    accuracy, accuracy_standard_error : float, optional
        Only where the protocol has folds.
    people : int, optional
        Who takes part in genuine comparisons, or in impostor comparisons if these are fewer.

    Examples
    --------
    >>> from sfpose.evaluation import row_from_distances
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(list("aabbcc"), range(6))
    >>> row = row_from_distances("example", trials, 1.0 - 0.9 * trials.is_genuine)
    >>> row.rates.eer, row.rates.genuine, row.to_dict()["name"]
    (0.0, 3, 'example')
    """

    name: str
    rates: VerificationSummary
    eer_interval: Interval
    accuracy: float | None = None
    accuracy_standard_error: float | None = None
    people: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Everything as plain values, for JSON."""
        return {
            "name": self.name,
            **self.rates.to_dict(),
            "eer_interval": list(self.eer_interval),
            "accuracy": self.accuracy,
            "accuracy_standard_error": self.accuracy_standard_error,
            "people": self.people,
        }

    def interval_in_percent(self, digits: int = 2) -> str:
        """``eer_interval`` as text, of which a rate without an error has the upper limit alone.

        Parameters
        ----------
        digits : int, default=2
            Digits after the point of an interval.

        Returns
        -------
        str

        Examples
        --------
        >>> from sfpose.evaluation import row_from_distances
        >>> from sfpose.protocols import all_pairs
        >>> trials = all_pairs([0, 1, 2, 3, 4] * 2, range(10))
        >>> row_from_distances("example", trials, 1 - trials.is_genuine).interval_in_percent()
        'below 45.1'
        """
        low, high = self.eer_interval
        if self.rates.eer == 0:
            return f"below {100 * high:.1f}"
        return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def row_from_distances(
    name: str, trials: Trials, distances: NDArray[np.floating], *, draws: int = 200
) -> Row:
    """Error rates of comparisons that were made already.

    Parameters
    ----------
    name : str
    trials : Trials
    distances : array of shape (n,)
        NaN where an image could not be acquired.
    draws : int, default=200
        Resamplings of people for the interval.

    Returns
    -------
    Row

    Raises
    ------
    ValueError
        If shapes differ, or genuine or impostor comparisons are missing.

    Examples
    --------
    >>> from sfpose.evaluation import row_from_distances
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(list("aabbcc"), range(6))
    >>> distances = 1.0 - 0.9 * trials.is_genuine
    >>> distances[0] = float("nan")  # an image of the first comparison was not acquired
    >>> row = row_from_distances("example", trials, distances)
    >>> row.rates.failed_genuine, round(row.rates.zero_fmr, 3)
    (1, 0.333)
    """
    refused = np.where(np.isnan(distances), np.inf, distances)
    accuracy = error = None
    if trials.folds is not None:
        result = k_fold_accuracy(refused, trials.is_genuine, trials.folds)
        accuracy, error = result.mean, result.standard_error
    interval = people_interval(
        refused, trials.is_genuine, trials.first_people, trials.second_people, draws=draws
    )
    rates = verification_summary(distances, trials.is_genuine)
    people = min(
        people_of(trials.first_people[kind], trials.second_people[kind])
        for kind in (trials.is_genuine, ~trials.is_genuine)
    )
    return Row(name, rates, interval, accuracy, error, people)


def _marked(values: Sequence[float], rate: float, rows: Sequence[Row]) -> list[str]:
    """Cells in percent, with a sign where too few false matches decide."""
    few = [rests_on_few(rate, row.rates.impostor) for row in rows]
    plain = " " if any(few) else ""
    return [
        f"{100 * value:.2f}{'*' if mark else plain}"
        for value, mark in zip(values, few, strict=True)
    ]


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, rates in percent.

    FNMR is marked where fewer than 30 false matches decide about the threshold (rule of 30).

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    str

    Examples
    --------
    >>> from sfpose.evaluation import format_table, row_from_distances
    >>> from sfpose.protocols import all_pairs
    >>> trials = all_pairs(list("aabbcc"), range(6))
    >>> row = row_from_distances("example", trials, 1.0 - 0.9 * trials.is_genuine)
    >>> print(format_table([row]).splitlines()[1][:36])
    example           3        12   0.00
    """
    failed = sum(row.rates.failed_genuine + row.rates.failed_impostor for row in rows)
    with_accuracy = any(row.accuracy is not None for row in rows)
    head = [
        "comparison",
        "genuine",
        "impostor",
        "EER %",
        "95 % over people",
        "FNMR % at FMR 1 %",
        "at 0.1 %",
    ]
    lines = [head + (["accuracy %"] if with_accuracy else [])]
    fmr100 = _marked([row.rates.fmr100 for row in rows], 0.01, rows)
    fmr1000 = _marked([row.rates.fmr1000 for row in rows], 0.001, rows)
    for row, at_1, at_01 in zip(rows, fmr100, fmr1000, strict=True):
        cells = [
            row.name,
            f"{row.rates.genuine:,}",
            f"{row.rates.impostor:,}",
            f"{100 * row.rates.eer:.2f}",
            row.interval_in_percent(),
            at_1,
            at_01,
        ]
        if row.accuracy is not None and row.accuracy_standard_error is not None:
            cells.append(f"{100 * row.accuracy:.2f} +- {100 * row.accuracy_standard_error:.2f}")
        elif with_accuracy:
            cells.append("")
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    if any("*" in cell for cell in (*fmr100, *fmr1000)):
        table += f"\n*: fewer than {RULE_OF_30} false matches decide"
    if failed:
        table += f"\n{failed:,} comparisons with an image that could not be acquired were refused"
    return table
