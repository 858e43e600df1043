"""How the learning rate goes: along straight lines, or down a step at each plateau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

__all__ = ["LineSchedule", "PlateauSchedule", "Schedule", "Stage", "stage_at"]


@dataclass(frozen=True)
class Stage:
    """A part of a run: so many images of this size, in batches of this size.

    Attributes
    ----------
    size : int
        Side of the images in pixels.
    images : int
    batch_size : int
    rates : (float, float)
        Share of the learning rate at the stage's first and last image, a straight
        line between them. A last stage at a new size needs a rate worth the name.
        A schedule of its own takes its place.
    """

    size: int
    images: int
    batch_size: int = 64
    rates: tuple[float, float] = (1.0, 0.0)


def stage_at(stages: Sequence[Stage], seen: int) -> tuple[Stage, int]:
    """The stage that holds image number ``seen``, and the number at which it ends."""
    end = 0
    for stage in stages:
        end += stage.images
        if seen < end:
            return stage, end
    raise ValueError(f"no stage holds image {seen}; the stages end at {end}")


class Schedule(Protocol):
    """Says how fast to learn, and possibly when to stop; its state is in checkpoints."""

    @property
    def needs_validation(self) -> bool:
        """Whether ``observe`` must be called for the schedule to work."""

    @property
    def finished(self) -> bool:
        """Whether the run should end now."""

    def factors(self, seen: int) -> tuple[float, float]:
        """Shares of the learning rate after ``seen`` images: of old and of new layers."""

    def observe(self, loss: float) -> None:
        """Take note of the validation loss after a pass."""

    def state_dict(self) -> dict[str, Any]:
        """What has been observed, as numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""


class LineSchedule:
    """A straight line within each stage, after a rise from zero.

    Parameters
    ----------
    stages : sequence of Stage
    warmup : float
        Share of all images over which the rate rises from zero; not if that is a batch at most.
    head_factor : float, default=1.0
        New layers learn this many times faster.
    """

    needs_validation = False
    finished = False

    def __init__(self, stages: Sequence[Stage], warmup: float, head_factor: float = 1.0) -> None:
        self._stages = stages
        rise = warmup * sum(stage.images for stage in stages)
        # One that is over with the first batch would only waste that.
        self._rise = rise if rise > stages[0].batch_size else 0.0
        self._head_factor = head_factor

    def factors(self, seen: int) -> tuple[float, float]:
        """Shares of the learning rate after ``seen`` images: of old and of new layers."""
        stage, end = stage_at(self._stages, seen)
        first, last = stage.rates
        factor = last + (first - last) * (end - seen) / stage.images
        if seen < self._rise:
            factor *= max(seen / self._rise, 1e-3)
        return factor, factor * self._head_factor

    def observe(self, loss: float) -> None:
        """Nothing: the line does not depend on it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


class PlateauSchedule:
    """The next lower rate each time the validation loss stops falling (section 4).

    Parameters
    ----------
    rates : sequence of float, default=(0.01, 0.005, 0.001, 0.0001)
        Learning rates, falling. The run ends at the plateau of the last one.
    patience : int, default=3
        A plateau is this many validations in a row without a new lowest loss.
    head_factor : float, default=10.0
        New layers learn this many times faster while the first rate holds.

    Raises
    ------
    ValueError
        If the rates do not fall from a positive number, or ``patience`` is below 1.

    Examples
    --------
    >>> from sfpose.training.schedules import PlateauSchedule
    >>> schedule = PlateauSchedule((0.01, 0.001), patience=2)
    >>> for loss in (3.0, 2.0, 2.5, 2.1):
    ...     schedule.observe(loss)
    >>> schedule.rate, schedule.finished
    (0.001, False)
    """

    needs_validation = True

    def __init__(
        self,
        rates: Sequence[float] = (0.01, 0.005, 0.001, 0.0001),
        *,
        patience: int = 3,
        head_factor: float = 10.0,
    ) -> None:
        rates = tuple(rates)
        falling = all(low < high for high, low in pairwise(rates))
        if not rates or not falling or not rates[-1] > 0 or rates[0] == math.inf:
            raise ValueError(f"rates must fall, be finite and above zero; got {list(rates)}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1 validation; got {patience}")
        self.rates = rates
        self._patience = patience
        self._head_factor = head_factor
        self._number = 0
        self._lowest = float("inf")
        self._waited = 0

    @property
    def finished(self) -> bool:
        """Whether the last rate has reached its plateau."""
        return self._number == len(self.rates)

    @property
    def rate(self) -> float:
        """The learning rate now; the last one once finished."""
        return self.rates[min(self._number, len(self.rates) - 1)]

    def factors(self, seen: int) -> tuple[float, float]:
        """Shares of the first rate: of old and of new layers."""
        factor = self.rate / self.rates[0]
        return factor, factor * (self._head_factor if self._number == 0 else 1.0)

    def observe(self, loss: float) -> None:
        """Take note of the validation loss after a pass."""
        if loss < self._lowest:
            self._lowest, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited == self._patience:
            self._number, self._waited = self._number + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Number of the rate, lowest loss, validations since then."""
        return {"number": self._number, "lowest": self._lowest, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._number, self._lowest = int(state["number"]), float(state["lowest"])
        self._waited = int(state["waited"])
