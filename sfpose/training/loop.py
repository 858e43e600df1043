"""The training loop: stages of growing image size, checkpoints, exact resume."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfpose.training.optimizers import build_optimizer

__all__ = ["BatchSource", "LoopSettings", "Stage", "seed_of_step", "train"]

CHECKPOINT_FORMAT = 1


class BatchSource(Protocol):
    """Gives batches by number, the same batch for the same number."""

    def __len__(self) -> int:
        """Number of images in one pass."""

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (count, 3, size, size), normalised, and their targets (count,).

        ``first`` counts the images drawn before this batch since the run began.
        """


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
    """

    size: int
    images: int
    batch_size: int = 64
    rates: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class LoopSettings:
    """Everything that shapes a run apart from network, objective and data.

    Attributes
    ----------
    stages : sequence of Stage
    optimizer : {"sgd", "adamw", "muon"}
    learning_rate, weight_decay : float
    warmup : float
        Share of all images over which the rate rises from zero.
    average : float
        Decay of the averaged weights per 1,000 images; 0 keeps the last weights.
    clip : float
        Largest norm of the gradient.
    seed : int
    checkpoint_minutes : float
    device : str
        ``"auto"`` takes CUDA where there is one.
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 on CUDA and on processors with tiles for it.
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

    @property
    def total(self) -> int:
        """Images that the whole run sees."""
        return sum(stage.images for stage in self.stages)


def seed_of_step(seed: int, first: int) -> int:
    """One number for the random choices of the batch that starts at image ``first``."""
    return (seed * 1_000_003 + first * 7_919) % (2**63)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16'; got {precision!r}")
    if precision == "auto":
        fast = device.type == "cuda" or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        precision = "bfloat16" if fast else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _save(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code that it may hold.

    Raises
    ------
    ValueError
        If the file is no checkpoint of this format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(
            f"checkpoint {path} must have format {CHECKPOINT_FORMAT}; got another file"
        )
    return state


def train(
    network: nn.Module,
    objective: nn.Module,
    source: BatchSource,
    settings: LoopSettings,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    stop_after_minutes: float | None = None,
) -> nn.Module:
    """Train a network with an objective until the stages are done.

    Every random choice follows from the seed and the number of images seen, so a
    run that was killed and resumed takes the same batches as an unbroken one.

    Parameters
    ----------
    network : nn.Module
        Trained in place.
    objective : nn.Module
        ``objective(descriptors, targets)`` gives the loss and measurements.
    source : BatchSource
    settings : LoopSettings
    checkpoint : Path, optional
        File to resume from if it is there, and to write every few minutes. A line of
        JSON with the measurements goes beside it (``.jsonl``) at the same times.
    on_epoch : callable, optional
        Called with the mean measurements of each pass over the source.
    progress : bool, default=True
        Show a bar when the output is a terminal.
    stop_after_minutes : float, optional
        Write a checkpoint and return after this time, finished or not.

    Returns
    -------
    nn.Module
        The averaged network if ``settings.average`` is set, else ``network``; in
        evaluation mode.
    """
    from tqdm import tqdm

    device = _device(settings.device)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(device)
    averaged = copy.deepcopy(network).eval() if settings.average else network
    optimizers = build_optimizer(
        settings.optimizer,
        network,
        objective,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        head_factor=settings.head_factor,
    )
    seen = 0
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        objective.load_state_dict(state["objective"], strict=False)
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        seen = state["seen"]

    bar = tqdm(total=settings.total, initial=seen, unit="img", disable=None if progress else True)
    begun = written = time.monotonic()
    since_checkpoint, this_epoch = _Means(), _Means()

    def write() -> None:
        nonlocal written, since_checkpoint
        if checkpoint is not None:
            _save(
                checkpoint,
                {
                    "format": CHECKPOINT_FORMAT,
                    "network": network.state_dict(),
                    "averaged": averaged.state_dict(),
                    "objective": objective.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "seen": seen,
                },
            )
            line = {"seen": float(seen), "minutes": round((time.monotonic() - begun) / 60, 2)}
            line.update(since_checkpoint.means())
            with open(checkpoint.with_suffix(".jsonl"), "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        since_checkpoint, written = _Means(), time.monotonic()

    network.train()
    objective.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while seen < settings.total:
            stage, done = _stage_at(settings.stages, seen)
            count = min(stage.batch_size, done - seen)
            if done - seen - count == 1:
                count += 1  # batch normalisation cannot learn from a single image
            _set_rate(optimizers, settings, seen)
            step_seed = seed_of_step(settings.seed, seen)
            torch.manual_seed(step_seed)
            images, targets = source.batch(settings.seed, seen, count, stage.size)
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            with _autocast(device, settings.precision):
                descriptors = network(images)
            loss, measured = objective(descriptors.float(), targets.to(device))
            if not math.isfinite(measured["loss"]):
                raise FloatingPointError(
                    f"the loss must stay finite; it became {measured['loss']} after {seen} images: "
                    "lower the learning rate"
                )
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(
                [*network.parameters(), *objective.parameters()], settings.clip
            )
            for optimizer in optimizers:
                optimizer.step()
            if settings.average:
                _average(averaged, network, settings.average ** (count / 1000))
            since_checkpoint.add(measured)
            this_epoch.add(measured)
            if on_epoch is not None and (seen + count) // len(source) > seen // len(source):
                on_epoch({"epoch": float((seen + count) // len(source)), **this_epoch.means()})
                this_epoch = _Means()
            seen += count
            bar.update(count)
            bar.set_postfix(
                {name: f"{value:.3f}" for name, value in measured.items()}, refresh=False
            )
            now = time.monotonic()
            stop = stop_after_minutes is not None and now - begun > 60 * stop_after_minutes
            if stop or now - written > 60 * settings.checkpoint_minutes or seen >= settings.total:
                write()
            if stop:
                break
    bar.close()
    objective.eval()
    return averaged.eval()


class _Means:
    """Running means of named measurements."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, measured: dict[str, float]) -> None:
        self._count += 1
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: round(value / self._count, 4) for name, value in self._sums.items()}


def _stage_at(stages: Sequence[Stage], seen: int) -> tuple[Stage, int]:
    end = 0
    for stage in stages:
        end += stage.images
        if seen < end:
            return stage, end
    raise ValueError(f"no stage holds image {seen}; the stages end at {end}")


def _set_rate(
    optimizers: Sequence[torch.optim.Optimizer], settings: LoopSettings, seen: int
) -> None:
    stage, end = _stage_at(settings.stages, seen)
    first, last = stage.rates
    factor = last + (first - last) * (end - seen) / stage.images
    warming = seen / max(1.0, settings.warmup * settings.total)
    factor *= min(1.0, max(warming, 1e-3))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.data.lerp_(new.data, 1 - decay)
    for buffer, latest in zip(averaged.buffers(), network.buffers(), strict=True):
        buffer.copy_(latest)
