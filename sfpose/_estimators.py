"""What estimators share. Imports nothing of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = ["GivesImages", "KeepsWhatItMade", "NeedsNoFit"]

Itself = TypeVar("Itself", bound="GivesImages")
Made = TypeVar("Made")


class KeepsWhatItMade:
    """Base of estimators that run a network: all threads share it, and a pickle leaves it out."""

    def _made_for(self, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """The object for a key, made if it is not there; only the last one is kept."""
        try:
            hash(key)
        except TypeError:  # such parameters are no keys: what takes them says what is wrong
            return make()
        kept = self._kept()
        # Of threads that come at once each makes one, and all take the first.
        made: Made | None = kept.get(key)  # one look: another thread may take it out
        if made is None:
            made = kept.setdefault(key, make())
        for other in [known for known in list(kept) if known != key]:
            kept.pop(other, None)
        return made

    def _kept(self) -> dict[tuple[object, ...], Any]:
        kept: dict[tuple[object, ...], Any] = self.__dict__.setdefault("_made", {})
        return kept

    def __getstate__(self) -> dict[str, Any]:
        # Not the network: workers make their own, from the same weights.
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "_made"}


class NeedsNoFit:
    """Base of estimators that do all they are for before ``fit`` too."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.requires_fit = False
        return tags


class GivesImages:
    """Base of transformers whose output is no table."""

    def __init_subclass__(cls, **options: Any) -> None:
        # scikit-learn would make tables of what is transformed where it is told to everywhere.
        super().__init_subclass__(auto_wrap_output_keys=None, **options)  # type: ignore[call-arg]

    def set_output(
        self: Itself, *, transform: Literal["default", "pandas", "polars"] | None = None
    ) -> Itself:
        """Change no crops: they are no table, and stay the array that the next step takes.

        So a pipeline may be asked for tables, which its last step then gives. Crops have no
        names: where tables are asked for, images of a pandas index other than 0, 1, 2 ... are
        refused, whose rows would be those of others, and so are photos that do not give one crop
        each.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None

        Returns
        -------
        estimator
            Itself.
        """
        # Where scikit-learn keeps what its own estimators were told, and copies it to clones.
        self._sklearn_output_config = {"transform": transform}
        return self

    def _check_rows(self, X: object) -> None:
        """Refuse images by other names than 0, 1, 2 ... where the last step is to give a table."""
        index = getattr(X, "index", None)
        if index is None or callable(index) or not self._table_is_asked_for():
            return
        if (names := list(index)) != list(range(len(names))):
            raise ValueError(
                "images must be numbered 0, 1, 2 ... where a table is to come of their crops, "
                f"which have no names: it would be joined to other rows; got {names[:3]} ...: give "
                "X.reset_index(drop=True), or take FaceEmbedder alone, which keeps names"
            )

    def _check_all_kept(self, index: NDArray[np.int64], count: int) -> None:
        """Refuse crops of other photos than one each, where the last step is to give a table."""
        if not np.array_equal(index, np.arange(count)) and self._table_is_asked_for():
            raise ValueError(
                "each photo must give one crop where a table is to come of them: it would be "
                f"joined to other photos' rows; got {len(index)} crops of {count} photos: embed "
                "what align gives, and name the rows by its index"
            )

    def _table_is_asked_for(self) -> bool:
        told = getattr(self, "_sklearn_output_config", {}).get("transform")
        if told is None:
            from sklearn import get_config

            told = get_config()["transform_output"]
        return bool(told != "default")

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """No names: crops have no columns. For pipelines, whose last step has names.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        object array of shape (0,)
        """
        return np.empty(0, dtype=object)
