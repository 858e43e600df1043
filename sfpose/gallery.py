"""TemplateGallery: who of many is nearest, exactly; kept on disk without pickle."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._checks import check_whole, is_number
from sfpose._gallery_files import (
    FILES,
    MANIFEST,
    GalleryContents,
    check_counts,
    check_ids,
    gallery_files,
    read_gallery,
)
from sfpose._gallery_rows import TemplateRows
from sfpose._scoring import check_searchable
from sfpose._search import nearest, within
from sfpose.decision import DescriptorForm
from sfpose.runtime.folders import changing_folder, read_whole, settled, write_folder
from sfpose.templates import extend_template

__all__ = ["SearchResult", "TemplateGallery"]


class SearchResult(NamedTuple):
    """Whom a search found, nearest first.

    Attributes
    ----------
    ids : object array
        Of shape (n_probes, k) from ``search``; of shape (n_found,) in each result of
        ``search_within``.
    distances : float32 array
        Chi-square distances, same shape.
    """

    ids: NDArray[np.object_]
    distances: NDArray[np.float32]


class TemplateGallery:
    """Templates under ids, searched exactly.

    The answer of a search is that of comparing each probe with every template.
    Templates are kept as float32, in memory or as a memory map. A search needs roots of
    4,096 of them and of the probes, 1,024 x 4,096 products, 64 x 4,096 distances a thread.

    Parameters
    ----------
    weights : str or path, optional
        Artifact that templates and probes come from. Descriptors of another width or
        normalization are then refused, the digest of its network is saved with the
        gallery, and ``load`` refuses a gallery of another network.
    n_jobs : int, default=None
        Threads over blocks of 64 probes, or of 512 templates for fewer than 24 probes. None means
        one unless in a ``joblib.parallel_config``, -1 all; the answer is the same for any number.

    See Also
    --------
    build_templates : Makes templates of several images.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import TemplateGallery
    >>> templates = np.random.default_rng(0).random((3, 1000), dtype=np.float32)
    >>> gallery = TemplateGallery()
    >>> gallery.add(["ann", "bo", "cy"], templates)
    >>> result = gallery.search(templates[1:2], k=2)
    >>> result.ids[0, 0], float(result.distances[0, 0])
    ('bo', 0.0)
    """

    def __init__(
        self, *, weights: str | os.PathLike[str] | None = None, n_jobs: int | None = None
    ) -> None:
        self.weights = weights
        self.n_jobs = n_jobs
        self._form = None if weights is None else DescriptorForm.of_weights(weights)
        self._network = None if self._form is None else self._form.digest
        self._rows = TemplateRows()

    def __copy__(self) -> TemplateGallery:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other._rows = copy.copy(self._rows)
        return other

    def __len__(self) -> int:
        return len(self._rows.ids)

    def __contains__(self, identity: object) -> bool:
        return identity in self._rows.places

    def __iter__(self) -> Iterator[str | int]:
        return iter(self._rows.ids)

    @property
    def templates(self) -> NDArray[np.float32]:
        """All templates (n, d), a read-only view in the order of the ids.

        Raises
        ------
        ValueError
            If the gallery is empty.
        """
        if not len(self):
            raise ValueError("the gallery must hold at least one template; it is empty")
        return self._rows.templates

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of how many images each template is the mean, in the order of the ids."""
        return self._rows.counts.copy()

    def _checked(
        self, ids: Sequence[str | int], templates: ArrayLike
    ) -> tuple[list[str | int], NDArray[np.float32]]:
        names = check_ids(ids)
        rows = check_searchable(templates, name="templates", width=self._rows.width)
        if self._form is not None:
            self._form.check(rows, "templates")
        if len(names) != len(rows):
            raise ValueError(f"there must be one id a template; got {len(names)} and {len(rows)}")
        return names, rows

    def add(
        self, ids: Sequence[str | int], templates: ArrayLike, *, counts: ArrayLike | None = None
    ) -> None:
        """Add templates under new ids: all of them, or none if one is refused.

        Parameters
        ----------
        ids : sequence of str or int
        templates : array of shape (n, d), values >= 0
        counts : int array of shape (n,), optional
            Of how many images each template is the mean; 1 if not given.

        Raises
        ------
        ValueError
            If an id is there already or given twice, or templates or counts are refused.
        """
        names, rows = self._checked(ids, templates)
        images = check_counts(counts, len(rows))
        if known := [name for name in names if name in self]:
            raise ValueError(f"ids must be new; {known[0]!r} is in the gallery: use update")
        self._rows.append(names, rows, images)

    def update(
        self, ids: Sequence[str | int], templates: ArrayLike, *, counts: ArrayLike | None = None
    ) -> None:
        """Replace templates: all of them, or none if one is refused.

        Parameters
        ----------
        ids, templates, counts
            As for ``add``.

        Raises
        ------
        KeyError
            If an id is not in the gallery.
        ValueError
            If an id is given twice or templates are refused.
        """
        names, rows = self._checked(ids, templates)
        images = check_counts(counts, len(rows))
        self._rows.replace(self._rows.rows_of(names), rows, images)

    def extend(self, ids: Sequence[str | int], descriptors: ArrayLike) -> None:
        """Average one more image into templates, without the images they were made of.

        Parameters
        ----------
        ids : sequence of str or int
        descriptors : array of shape (n, d), values >= 0
            One more image of each.

        Raises
        ------
        KeyError
            If an id is not in the gallery.
        ValueError
            If an id is given twice or descriptors are refused.
        """
        names, rows = self._checked(ids, descriptors)
        places = self._rows.rows_of(names)
        images = check_counts(self._rows.counts[places] + 1, len(rows))
        extended = [
            extend_template(self.templates[place], count - 1, row[None])[0]
            for place, count, row in zip(places, images.tolist(), rows, strict=True)
        ]
        self._rows.replace(places, check_searchable(extended, name="templates"), images)

    def remove(self, ids: Sequence[str | int]) -> None:
        """Remove templates; the others keep their order.

        Parameters
        ----------
        ids : sequence of str or int

        Raises
        ------
        KeyError
            If an id is not in the gallery.
        ValueError
            If an id is given twice.
        """
        self._rows = self._rows.without(self._rows.rows_of(check_ids(ids)))

    def _probes(self, probes: ArrayLike) -> NDArray[np.float32]:
        width = self.templates.shape[1]
        rows = check_searchable(probes, name="probes", width=width)
        if self._form is not None:
            self._form.check(rows, "probes")
        return rows

    def search(self, probes: ArrayLike, k: int = 1) -> SearchResult:
        """Find the ``k`` nearest templates of each probe.

        Parameters
        ----------
        probes : array of shape (n, d), values >= 0
        k : int, default=1

        Returns
        -------
        SearchResult
            ids and distances (n, k), nearest first; of equally near templates the one
            that was added first.

        Raises
        ------
        ValueError
            If ``k`` is not in 1 ... len(gallery), the gallery is empty, or probes are refused.
        """
        rows, held = self._probes(probes), self._rows
        count = check_whole(k, "k", 1, len(held.ids))
        index, distances = nearest(held.templates, rows, count, self.n_jobs)
        return SearchResult(held.names[index], distances)

    def search_within(self, probes: ArrayLike, radius: float) -> list[SearchResult]:
        """Find all templates at most ``radius`` away from each probe.

        Parameters
        ----------
        probes : array of shape (n, d), values >= 0
        radius : float
            Such as the threshold of a TemplateVerifier that was fitted without a cohort.

        Returns
        -------
        list of SearchResult
            One a probe, nearest first; empty where nobody is near.

        Raises
        ------
        ValueError
            If ``radius`` is no number of at least 0, the gallery is empty, or probes are refused.
        """
        rows, held = self._probes(probes), self._rows
        if not is_number(radius) or not radius >= 0:
            raise ValueError(f"radius must be a number, at least 0; got {radius!r}")
        names, found = held.names, within(held.templates, rows, float(radius), self.n_jobs)
        return [SearchResult(names[index], distances) for index, distances in found]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the gallery as a folder: whole, or not at all.

        ``templates.safetensors`` is read by any safetensors library (tensor
        ``templates``), ``ids.json`` and ``counts.json`` hold the rest in the same order.

        Parameters
        ----------
        path : path
            The folder to make.
        overwrite : bool, default=False
            Replace a gallery that is already there, which keeps its permissions. What others
            wrote since it was loaded is lost: where several write, use ``changing``.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false, or it is no gallery or holds more.
        """
        files = gallery_files(self._contents())
        return write_folder(path, files, overwrite=overwrite, marker=MANIFEST, known=FILES)

    def _contents(self) -> GalleryContents:
        return self._rows.contents(self._network)

    @classmethod
    @contextlib.contextmanager
    def changing(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        n_jobs: int | None = None,
    ) -> Iterator[TemplateGallery]:
        """Change a gallery on disk in a block, while no other process or thread does.

        It is saved at the end of the block, and stays as it was if the block raises. Other writers
        of galleries in the folder wait meanwhile: embed before the block, and await nothing in it.

        Parameters
        ----------
        path, weights, n_jobs
            As for ``load``, but that there need be no gallery yet.

        Yields
        ------
        TemplateGallery
            As it is on disk, or empty. Do not save it in the block.

        Raises
        ------
        FileExistsError, FileNotFoundError, ValueError, OSError
            As ``load`` and ``save`` raise them; without locks for folders (Windows, some network
            file systems) also if somebody else wrote meanwhile.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from sfpose import TemplateGallery
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ann", "bo"):
        ...         with TemplateGallery.changing(f"{folder}/door") as gallery:
        ...             gallery.add([name], np.ones((1, 256)))
        ...     list(TemplateGallery.load(f"{folder}/door"))
        ['ann', 'bo']
        """
        with changing_folder(path, marker=MANIFEST, known=FILES) as (_, files):
            if settled(path).exists():
                gallery = cls.load(path, weights=weights, n_jobs=n_jobs)
            else:
                gallery = cls(weights=weights, n_jobs=n_jobs)
            yield gallery
            files.update(gallery_files(gallery._contents()))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        verify: bool = True,
        n_jobs: int | None = None,
    ) -> TemplateGallery:
        """Read a gallery; its templates stay on disk as a memory map.

        Parameters
        ----------
        path : path
            A folder that ``save`` wrote.
        weights : str or path, optional
            Artifact that probes will come from.
        verify : bool, default=True
            Check the sha256 of every file, which reads them once, and every value.
        n_jobs : int, default=None

        Returns
        -------
        TemplateGallery

        Raises
        ------
        FileNotFoundError
            If there is no such folder or a file of it is missing.
        ValueError
            If it is of another format, was changed, its files contradict each other, or
            its templates come from another network than ``weights``.
        """
        contents = read_whole(path, lambda folder: read_gallery(folder, verify))
        gallery = cls(weights=weights, n_jobs=n_jobs)
        if gallery._form is not None and contents.ids:
            names = f"the gallery {str(path)!r}", f"weights {str(weights)!r}"
            gallery._form.check_network(contents.network, *names)
            if verify:
                gallery._form.check(contents.templates, "templates")
        # Templates of an unknown network are not known to be of the probes' one.
        gallery._network = contents.network if contents.ids else gallery._network
        gallery._rows = TemplateRows(contents)
        return gallery
