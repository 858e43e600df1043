"""What a run is told: where batches come from, and everything that shapes it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from sfpose._checks import check_whole
from sfpose.training.schedules import Stage

__all__ = [
    "BatchSource",
    "LoopSettings",
    "autocast",
    "falling_stages",
    "find_device",
    "has_fast_bfloat16",
    "seed_of_step",
]


class BatchSource(Protocol):
    """Gives batches by number, the same batch for the same number."""

    def __len__(self) -> int:
        """Number of images in one pass."""

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (count, 3, size, size), normalised, and their targets (count,).

        ``first`` counts the images drawn before this batch since the run began. Fewer
        than ``count`` come where the source leaves out what it cannot read.
        """


@dataclass(frozen=True)
class LoopSettings:
    """Everything that shapes a run apart from network, objective and data.

    Attributes
    ----------
    stages : sequence of Stage
    optimizer : {"sgd", "nesterov", "adamw", "muon"}
    learning_rate, weight_decay : float
    warmup : float
        Share of all images over which the rate rises from zero; a schedule of its own
        takes the place of this, of ``head_factor`` and of the stages' rates.
    average : float
        Decay of the averaged weights per 1,000 images; 0 keeps the last weights.
    clip : float
        Largest norm of the gradient.
    head_factor : float
        The head and new layers learn this many times faster.
    seed : int
        From 0 to below 2**32.
    checkpoint_minutes : float
        From 0, which is after every step.
    device : str
        ``"auto"`` takes CUDA where there is one.
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 on CUDA and on processors that are faster with it.
    compiled : bool
        Compile the network by ``torch.compile`` first, which takes a minute and needs a
        compiler; worth it for a long run on a GPU.
    facts : mapping of str to object
        What else makes the run the one that it is, such as digests of its data: numbers, strings
        and lists of them by name. A checkpoint that has others is of another run, and refused.
    """

    stages: Sequence[Stage]
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    warmup: float = 0.02
    average: float = 0.0
    clip: float = 5.0
    head_factor: float = 1.0
    seed: int = 0
    checkpoint_minutes: float = 10.0
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole(self.seed, "seed", 0, 2**32 - 1)
        if not self.checkpoint_minutes >= 0:
            raise ValueError(
                f"checkpoint_minutes must be a number from 0 on; got {self.checkpoint_minutes}"
            )

    @property
    def total(self) -> int:
        """Images that the whole run sees."""
        return sum(stage.images for stage in self.stages)


def falling_stages(
    settings: LoopSettings, sizes: Sequence[tuple[int, int]], rates: Sequence[float]
) -> LoopSettings:
    """The same settings with other stages, over which the rate falls to zero.

    Parameters
    ----------
    settings : LoopSettings
    sizes : sequence of (int, int)
        Side of the images and number of them, a pair a stage.
    rates : sequence of float
        One, at the first image, from which it falls in one line; or one at the first image of
        each stage, from each of which it falls to the next.

    Returns
    -------
    LoopSettings

    Raises
    ------
    ValueError
        If a rate is not above 0, or there are several and not as many as stages.
    """
    if len(rates) not in (1, len(sizes)):
        raise ValueError(f"rates must be one, or one a stage ({len(sizes)}); got {len(rates)}")
    if not all(rate > 0 for rate in rates):
        raise ValueError(f"rates must be above 0; got {list(rates)}")
    if len(rates) == 1:
        left = total = sum(images for _, images in sizes)
        factors = [1.0]
        for _, images in sizes:
            left -= images
            factors.append(left / total)
    else:
        factors = [rate / rates[0] for rate in (*rates, 0.0)]
    batch = settings.stages[-1].batch_size
    stages = tuple(
        Stage(size, images, batch, between)
        for (size, images), between in zip(sizes, pairwise(factors), strict=True)
    )
    # Where the rate falls in one line, the stages' shares of it depend on the run's length.
    facts = {**settings.facts, "shares of the rate": [rate / rates[0] for rate in rates]}
    return replace(settings, stages=stages, learning_rate=rates[0], facts=facts)


def seed_of_step(seed: int, first: int) -> int:
    """One number for the random choices of the batch that starts at image ``first``."""
    return (seed * 1_000_003 + first * 7_919) % (2**63)


def find_device(name: str) -> torch.device:
    """The torch device of that name; ``"auto"`` is CUDA where there is one.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            # Of several processes each is to open no GPU but its own.
            there = (device.index or 0) < torch.cuda.device_count()
        else:
            there = torch.zeros(1, device=device).item() == 0
    except (RuntimeError, AssertionError):
        there = False
    if not there:
        raise ValueError(
            f"device must be 'auto', 'cpu' or another that torch finds here; got {name!r}"
        )
    return device


@lru_cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones.

    Instructions for it do not settle that: with AVX-512's alone, one processor takes half of
    float32's time and another twice as long, so two products are timed once (milliseconds).
    """
    if device.type == "cuda":
        return True
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    if not any(getattr(torch.cpu, name, bool)() for name in asked):
        return False
    return 1.2 * _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context in which a network computes at the precision of that name."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16'; got {precision!r}")
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
