"""Templates under ids, in one array that grows and is copied before it is changed.

May import ``_gallery_files``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfpose._gallery_files import GalleryContents

__all__ = ["TemplateRows"]


class TemplateRows:
    """Ids, templates and numbers of images of a gallery, in the same order; nothing is checked.

    Parameters
    ----------
    contents : GalleryContents, optional
        Whose templates may be a memory map.

    Attributes
    ----------
    ids : list of str or int
    counts : int64 array of shape (n,)
    places : dict
        Row of each id.
    """

    def __init__(self, contents: GalleryContents | None = None) -> None:
        self.ids: list[str | int] = [] if contents is None else contents.ids
        self.counts = np.empty(0, np.int64) if contents is None else contents.counts
        self.places = {name: row for row, name in enumerate(self.ids)}
        self._array = None if contents is None or not self.ids else contents.templates

    def __copy__(self) -> TemplateRows:
        other = type(self).__new__(type(self))
        other.ids, other.counts, other.places = [*self.ids], self.counts.copy(), {**self.places}
        # What may not be written to is copied before it changes.
        other._array = np.array(self.templates) if self._owned() else self._array
        return other

    @property
    def width(self) -> int | None:
        """Values of a template, if there has been one."""
        return None if self._array is None else self._array.shape[1]

    @property
    def templates(self) -> NDArray[np.float32]:
        """All templates (n, d), a read-only view; of shape (0, 0) if there is none."""
        if self._array is None:
            return np.empty((0, 0), np.float32)
        view = self._array[: len(self.ids)]
        view.flags.writeable = False
        return view

    @property
    def names(self) -> NDArray[np.object_]:
        """The ids as an array (n,)."""
        names = np.empty(len(self.ids), object)
        names[:] = self.ids
        return names

    def contents(self, network: str | None) -> GalleryContents:
        """What is to be written, with the digest of the network that it comes from."""
        return GalleryContents(self.ids, self.counts, self.templates, network)

    def rows_of(self, ids: Sequence[str | int]) -> list[int]:
        """Row of each id.

        Raises
        ------
        KeyError
            If an id is not there.
        """
        if missing := [name for name in ids if name not in self.places]:
            raise KeyError(f"{missing[0]!r} is not in the gallery")
        return [self.places[name] for name in ids]

    def append(
        self, ids: Sequence[str | int], templates: NDArray[np.float32], counts: NDArray[np.int64]
    ) -> None:
        """Put templates behind those that are there."""
        held, size = len(self.ids), len(self.ids) + len(templates)
        if self._array is None or size > len(self._array) or not self._owned():
            grown = np.empty((max(size, 2 * held), templates.shape[1]), np.float32)
            if held:
                grown[:held] = self.templates
            self._array = grown
        self._array[held:size] = templates
        self.counts = np.r_[self.counts, counts]
        self.places.update(zip(ids, range(held, size), strict=True))
        self.ids += ids

    def replace(
        self, rows: list[int], templates: NDArray[np.float32], counts: NDArray[np.int64]
    ) -> None:
        """Put templates in the place of others."""
        if self._array is None or not self._owned():
            self._array = np.array(self.templates)
        self._array[rows] = templates
        self.counts[rows] = counts

    def without(self, rows: list[int]) -> TemplateRows:
        """All but some templates, in their order; whoever reads these rows still has them."""
        gone = set(rows)
        kept = [row for row in range(len(self.ids)) if row not in gone]
        ids = [self.ids[row] for row in kept]
        return TemplateRows(GalleryContents(ids, self.counts[kept], self.templates[kept], None))

    def _owned(self) -> bool:
        return self._array is not None and self._array.flags.writeable
