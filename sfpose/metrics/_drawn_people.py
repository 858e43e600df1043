"""Drawing people with replacement, and the rates of their comparisons in each drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_labels, joined_labels
from sfpose.metrics._checks import check_people, check_scores
from sfpose.metrics.error_rates import last_of_each

__all__ = ["PeopleResampler", "drawn_rates", "numbered", "people_of"]

_DRAWN_AT_ONCE = 16
"""Drawings of which weights are in memory at a time, a number for each of all people."""


class PeopleResampler:
    """Draws people with replacement and reweights the comparisons between them.

    Distances are sorted once; each draw costs one pass over them.
    """

    def __init__(
        self,
        distances: ArrayLike,
        is_genuine: ArrayLike,
        first_people: ArrayLike,
        second_people: ArrayLike,
    ) -> None:
        scores, genuine = check_scores(distances, is_genuine)
        first, second = check_people(first_people, second_people, scores.shape)
        self._people, (first, second) = numbered(first, second)
        self.comparisons = len(scores)
        self.fewer_people = min(
            people_of(first[kind], second[kind]) for kind in (genuine, ~genuine)
        )
        order = np.argsort(scores, kind="stable")
        self._genuine = genuine[order]
        self._first, self._second = first[order], second[order]
        scores = scores[order]
        self._last = last_of_each(scores)
        self.thresholds = scores[self._last]

    def draw(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """False match and non-match rates at ``thresholds`` for one drawing of people.

        None if the drawn people have no genuine or no impostor comparison.
        """
        times = np.bincount(
            rng.integers(0, self._people, self._people), minlength=self._people
        ).astype(np.float64)
        weights = times[self._first]
        apart = self._first != self._second
        weights[apart] *= times[self._second[apart]]
        matches = np.cumsum(np.where(self._genuine, 0.0, weights))
        genuine = np.cumsum(np.where(self._genuine, weights, 0.0))
        if not matches[-1] > 0 or not genuine[-1] > 0:
            return None
        return matches[self._last] / matches[-1], 1 - genuine[self._last] / genuine[-1]


def drawn_rates(
    errors: NDArray[np.float64],
    pairs: NDArray[np.int64],
    people: int,
    draws: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Shares of errors among comparisons (2, n), of the drawings that have any."""
    from scipy.sparse import coo_array

    apart = pairs[0] != pairs[1]

    def summed(counted: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64]]:
        between = (counted[apart], tuple(pairs[:, apart]))
        within = np.bincount(pairs[0, ~apart], counted[~apart], people).astype(float)
        return coo_array(between, shape=(people, people)).tocsr().T, within

    sums = [summed(each) for each in (errors, np.ones(len(errors)))]
    rates = []
    for first in range(0, draws, _DRAWN_AT_ONCE):
        drawn = rng.integers(0, people, (min(_DRAWN_AT_ONCE, draws - first), people))
        times = np.stack([np.bincount(row, minlength=people) for row in drawn]).astype(float)
        wrong, total = (
            np.asarray(((between @ times.T).T * times).sum(axis=1) + times @ within)
            for between, within in sums
        )
        rates.append(wrong[total > 0] / total[total > 0])
    return np.concatenate(rates)


def numbered(
    first: NDArray[np.generic], second: NDArray[np.generic]
) -> tuple[int, NDArray[np.int64]]:
    """How many people are on either side of comparisons, and the numbers of both sides, (2, n)."""
    both = joined_labels(first, second)
    people, codes = check_labels(both, len(both), "the people of comparisons must be named")
    if len(people) < 2:
        raise ValueError("an interval over people needs at least two of them; got one")
    return len(people), codes.reshape(2, -1)


def people_of(first: NDArray[np.generic], second: NDArray[np.generic]) -> int:
    """How many people are on either side of comparisons."""
    return len({*_distinct(first), *_distinct(second)})


def _distinct(people: NDArray[np.generic]) -> list[object]:
    # Not all of millions as Python's own; objects of several kinds have no order.
    known: list[object] = (people if people.dtype == object else np.unique(people)).tolist()
    return known
