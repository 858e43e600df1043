"""Templates of known people, and which of them are compared.

May import ``_sampling`` and ``templates``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfpose._sampling import row_and_column, sample
from sfpose.templates import build_templates

__all__ = ["KnownImages", "Side", "template_pairs"]


class Side(NamedTuple):
    """Templates of so many images, whose they are, their pose, their images, which meet strangers.

    People, poses and images are numbers.
    """

    templates: NDArray[np.floating[Any]]
    subjects: NDArray[np.int64]
    poses: NDArray[np.int64]
    images: NDArray[np.int64]
    meets_strangers: NDArray[np.bool_]


class KnownImages(NamedTuple):
    """Descriptors of known people.

    Parameters
    ----------
    rows : array of shape (n, d)
    subjects, poses : arrays of shape (n,)
        Numbers from 0; one pose throughout where none is known.
    random_state : int or None
        By which a person's images are drawn for mixed templates; None takes them in turn.
    """

    rows: NDArray[np.floating[Any]]
    subjects: NDArray[np.int64]
    poses: NDArray[np.int64]
    random_state: int | None

    def side(self, images: int, *, mixed: bool, last: bool = False) -> Side | None:
        """Templates of consecutive images of a person, each in one of them; the rest is left out.

        Parameters
        ----------
        images : int
            Of how many images each is the mean.
        mixed : bool
            Whether they hold all poses of a person in turn, or one. Mixed ones that hold one pose
            of a person who has several, since others are used up, meet no strangers: means of
            several poses are nearer to everybody's, and their rate of false matches would be
            diluted.
        last : bool
            Whether to begin with the last image, for a side that should share few of the other's.

        Returns
        -------
        Side or None
            Nothing where nobody has so many images.
        """
        order = np.lexsort((self.poses, self.subjects))
        kind = self.subjects[order] * (self.poses.max() + 1) + self.poses[order]
        several = np.zeros(len(kind), np.bool_)
        if images > 1:
            turn, size = _places(kind)
            if mixed:
                # In turn, as people are enrolled who show themselves from all sides; where nobody
                # says which, by chance, since photos in a folder often lie in the order of poses.
                if self.random_state is not None:
                    turn = np.random.default_rng(self.random_state).permutation(len(order))
                kind = self.subjects[order]
                several = _places(kind)[1] > size
            order = order[np.lexsort((size - turn if last else turn, kind))]
        place, size = _places(kind)
        whole = place < size // images * images
        rows = order[whole].reshape(-1, images)
        if not len(rows):
            return None
        if images == 1:
            templates = self.rows[rows[:, 0]]
        else:
            groups = np.repeat(np.arange(len(rows)), images)
            templates = build_templates(self.rows[rows.ravel()], groups).templates
        poses = self.poses[rows]
        # Of a person all images are sorted together, so that these are the person's.
        others = several[whole].reshape(-1, images)[:, 0]
        meets = ~others | (poses != poses[:, :1]).any(axis=1)
        return Side(templates, self.subjects[rows[:, 0]], poses[:, 0], rows, meets)


def template_pairs(
    left: Side, right: Side, max_pairs: int, random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both sides: genuine pairs without a shared image, then impostors.

    Parameters
    ----------
    left, right : Side
        The same twice for templates of as many images, whose pairs come once each.
    max_pairs : int
        A sample of so many impostors where there are more.
    random_state : int

    Returns
    -------
    first, second : arrays of shape (n,)
    """
    same = left is right
    first, second = _related(left.subjects, right.subjects, same)
    if not same:
        apart = left.images[first][:, :, None] != right.images[second][:, None, :]
        first, second = (side[apart.all((1, 2))] for side in (first, second))
    met = [np.flatnonzero(side.meets_strangers) for side in (left, right)]
    rng = np.random.default_rng(random_state)
    strangers = _strangers(left.subjects[met[0]], right.subjects[met[1]], same, max_pairs, rng)
    return (
        np.concatenate([first, met[0][strangers[0]]]),
        np.concatenate([second, met[1][strangers[1]]]),
    )


def _related(
    left: NDArray[np.int64], right: NDArray[np.int64], same: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of one person; both sides are in the order of people."""
    ends = np.searchsorted(right, left, side="right")
    # Each row meets the rows after it alone, or every pair would come twice.
    starts = np.arange(1, len(left) + 1) if same else np.searchsorted(right, left, side="left")
    lengths = ends - starts
    first, second = row_and_column(np.arange(lengths.sum()), lengths)
    return first, starts[first] + second


def _strangers(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    same: bool,
    max_pairs: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of two people, all or a sample; both sides are in the order of people."""
    ends = np.searchsorted(right, left, side="right")
    starts = np.zeros_like(ends) if same else np.searchsorted(right, left, side="left")
    skipped = ends - starts
    lengths = len(right) - skipped
    # Pairs are numbered and not listed: there may be far more than memory holds.
    first, second = row_and_column(sample(rng, int(lengths.sum()), max_pairs), lengths)
    return first, second + skipped[first] * (second >= starts[first])


def _places(kind: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each entry, its place among the equal ones around it, and how many these are."""
    starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
    sizes = np.diff(np.r_[starts, len(kind)])
    return np.arange(len(kind)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)
