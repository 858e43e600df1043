"""The training loop: stages, a schedule, validation, checkpoints, exact resume."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfpose.training import distributed
from sfpose.training.checkpoints import (
    RUN_ENTRIES,
    check_same_run,
    load_checkpoint,
    run_facts,
    save_checkpoint,
)
from sfpose.training.optimizers import build_optimizer
from sfpose.training.schedules import LineSchedule, Schedule, Stage, stage_at
from sfpose.training.settings import (
    BatchSource,
    LoopSettings,
    autocast,
    find_device,
    seed_of_step,
)

__all__ = ["BatchSource", "LoopSettings", "Stage", "seed_of_step", "train"]


def train(
    network: nn.Module,
    objective: nn.Module,
    source: BatchSource,
    settings: LoopSettings,
    *,
    validation: BatchSource | None = None,
    schedule: Schedule | None = None,
    new_layers: Collection[str] = (),
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    stop_after_minutes: float | None = None,
) -> nn.Module:
    """Train a network with an objective until the stages or the schedule are done.

    Every random choice follows from the seed and the number of images seen, so a
    run that was killed and resumed takes the same batches as an unbroken one. A batch
    holds no more images than a pass, so that none ends unseen. Under ``torchrun`` every
    process takes its share of each batch, and the first one writes.

    Parameters
    ----------
    network : nn.Module
        Trained in place.
    objective : nn.Module
        ``objective(descriptors, targets)`` gives the loss and measurements.
    source : BatchSource
    settings : LoopSettings
    validation : BatchSource, optional
        Measured in evaluation mode after each pass over ``source``.
    schedule : Schedule, optional
        By what the rate goes; the stages' straight lines if not given.
    new_layers : collection of str
        See ``sfpose.training.optimizers.build_optimizer``.
    checkpoint : Path, optional
        File to resume from if it is there, and to write every few minutes. The last
        stage may have more or fewer images than it had when the run began; all else that
        shapes the run must be as it was (``sfpose.training.checkpoints.run_facts``).
        A line of JSON with the measurements goes beside it (``.jsonl``) at the same times.
    on_epoch : callable, optional
        Called with the mean measurements of each pass over the source, those of
        validation under ``validation_*``. A resumed run begins with its earlier passes.
    progress : bool, default=True
        Show a bar when the output is a terminal.
    stop_after_minutes : float, optional
        Write a checkpoint and return after this time, finished or not.

    Returns
    -------
    nn.Module
        The averaged network if ``settings.average`` is set, else ``network``; in
        evaluation mode.

    Raises
    ------
    ValueError
        If the checkpoint is of another run, or the schedule needs a validation that
        is not given.
    FloatingPointError
        If the loss becomes infinite or NaN.
    """
    from tqdm import tqdm

    if schedule is None:
        schedule = LineSchedule(settings.stages, settings.warmup, settings.head_factor)
    if schedule.needs_validation and validation is None:
        raise ValueError("a schedule that follows the validation loss needs validation images")
    run = _Run(network, objective, source, validation, settings, schedule, new_layers)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    if on_epoch is not None:
        for entry in run.history:
            on_epoch(entry)
    first_process = distributed.place()[0] == 0
    bar = tqdm(
        total=settings.total,
        initial=run.seen,
        unit="img",
        disable=None if progress and first_process else True,
    )
    begun = written = time.monotonic()
    since_checkpoint = _Means()
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        while not run.finished:
            before, passes = run.seen, run.seen // len(source)
            measured = run.step()
            since_checkpoint.add(measured)
            if run.seen // len(source) > passes:
                entry = run.end_pass()
                if on_epoch is not None:
                    on_epoch(entry)
            bar.update(run.seen - before)
            bar.set_postfix(
                {name: f"{value:.3f}" for name, value in measured.items()}, refresh=False
            )
            now = time.monotonic()
            stop = stop_after_minutes is not None and distributed.first_decides(
                now - begun > 60 * stop_after_minutes, run.device
            )
            due = stop or now - written > 60 * settings.checkpoint_minutes or run.finished
            if due and checkpoint is not None and first_process:
                save_checkpoint(checkpoint, run.state())
                line = {"seen": float(run.seen), "minutes": round((now - begun) / 60, 2)}
                line.update(since_checkpoint.means())
                with open(checkpoint.with_suffix(".jsonl"), "a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
            if due:
                since_checkpoint, written = _Means(), time.monotonic()
            if stop:
                break
    bar.close()
    objective.eval()
    return run.averaged.eval()


class _Run:
    """What a run is made of and how far it is: all that a checkpoint holds."""

    def __init__(
        self,
        network: nn.Module,
        objective: nn.Module,
        source: BatchSource,
        validation: BatchSource | None,
        settings: LoopSettings,
        schedule: Schedule,
        new_layers: Collection[str],
    ) -> None:
        self.device = find_device(settings.device)
        self.settings, self.schedule = settings, schedule
        self.source, self.validation = source, validation
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.objective = network, objective.to(self.device)
        self.averaged = copy.deepcopy(network).eval() if settings.average else network
        self.model = distributed.replicate(network)
        if settings.compiled:
            self.model.compile()
        self.optimizers = build_optimizer(
            settings.optimizer,
            network,
            objective,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            new_layers=new_layers,
        )
        self.facts = run_facts(network, objective, len(source), settings)
        self.seen = 0
        self.this_pass = _Means()
        self.history: list[dict[str, float]] = []
        self._begin_learning()

    def _begin_learning(self) -> None:
        self.network.train()
        self.objective.train()
        for module in self.network.modules():
            # What is to stay as it is learns no mean and spread either.
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(any(each.requires_grad for each in module.parameters()))

    @property
    def finished(self) -> bool:
        return self.seen >= self.settings.total or self.schedule.finished

    @property
    def unreadable(self) -> list[set[str]]:
        """Names of left-out images, of each source that keeps them."""
        kept = (getattr(source, "unreadable", None) for source in (self.source, self.validation))
        return [names for names in kept if names is not None]

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedule": self.schedule.state_dict(),
            "seen": self.seen,
            "run": self.facts,
            "this_pass": [self.this_pass.sums, self.this_pass.count],
            "unreadable": sorted(set().union(*self.unreadable)),
            "history": self.history,
            "finished": self.finished,
        }

    def load(self, path: Path) -> None:
        state = load_checkpoint(path, RUN_ENTRIES)
        check_same_run(path, state, self.facts)
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.objective.load_state_dict(state["objective"], strict=False)
            for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            self.schedule.load_state_dict(state["schedule"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"checkpoint {path} must be of the same network, objective, optimiser and "
                f"schedule; {error!r}"
            ) from error
        self.seen = state["seen"]
        self.this_pass.sums, self.this_pass.count = state["this_pass"]
        for names in self.unreadable:
            names.update(state["unreadable"])
        self.history = state["history"]

    def step(self) -> dict[str, float]:
        """Learn from the next batch; gives its measurements."""
        settings = self.settings
        rank, processes = distributed.place()
        stage, end = stage_at(settings.stages, self.seen)
        # Batch normalisation cannot learn from a single image, nor a process from none.
        least = max(2, processes)
        count = min(stage.batch_size, max(len(self.source), least), end - self.seen)
        if 0 < (left := end - self.seen - count) < least:
            # Fewer now, so that enough are left; more would be more than a pass, or than fit.
            fewer = count - (least - left)
            count = fewer if fewer >= least else count + left
        self._set_rates()
        step_seed = seed_of_step(settings.seed, self.seen)
        torch.manual_seed(step_seed + rank)
        begin, share = distributed.share_of(count)
        images, targets = self.source.batch(settings.seed, self.seen + begin, share, stage.size)
        descriptors = distributed.gather_rows(self._describe(self.model, images))
        targets = distributed.gather_rows(targets.to(self.device))
        if len(targets) < 2 <= count:
            # Images that cannot be read were left out, and one alone teaches nothing.
            self.seen += count
            return {}
        if processes > 1:
            torch.manual_seed(step_seed)
        loss, measured = self.objective(descriptors, targets)
        if not math.isfinite(measured["loss"]):
            raise FloatingPointError(
                f"the loss must stay finite; it became {measured['loss']} after {self.seen} "
                "images: lower the learning rate"
            )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(self.objective)
        nn.utils.clip_grad_norm_(
            [*self.network.parameters(), *self.objective.parameters()], settings.clip
        )
        for optimizer in self.optimizers:
            optimizer.step()
        if settings.average:
            _average(self.averaged, self.network, settings.average ** (count / 1000))
        self.this_pass.add(measured, len(targets))
        self.seen += count
        return dict(measured)

    def _describe(self, network: nn.Module, images: Tensor) -> Tensor:
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.settings.precision):
            descriptors: Tensor = network(images)
        return descriptors.float()

    def _set_rates(self) -> None:
        old, new = self.schedule.factors(self.seen)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (new if group.get("new") else old)

    def end_pass(self) -> dict[str, float]:
        """Close a pass over the source; gives what goes into the history."""
        lost = len(getattr(self.source, "unreadable", ()))
        if not self.this_pass.count and lost >= len(self.source):
            raise ValueError(
                "training must have images that can be read; "
                f"of {len(self.source)} images there is none"
            )
        entry = {
            "epoch": float(self.seen // len(self.source)),
            "rate": self.optimizers[0].param_groups[0]["lr"],
            **self.this_pass.means(),
        }
        if self.validation is not None:
            means = self.validate(self.validation)
            self.schedule.observe(means["loss"])
            entry.update({f"validation_{name}": value for name, value in means.items()})
        for names in self.unreadable:
            distributed.share_names(names)
        self.history.append(entry)
        self.this_pass = _Means()
        return entry

    @torch.no_grad()
    def validate(self, validation: BatchSource) -> dict[str, float]:
        """Mean measurements over all validation images, in evaluation mode."""
        stage, _ = stage_at(self.settings.stages, self.seen - 1)
        means = _Means()
        self.averaged.eval()
        self.objective.eval()
        for first in range(0, len(validation), stage.batch_size):
            count = min(stage.batch_size, len(validation) - first)
            begin, share = distributed.share_of(count)
            images, targets = validation.batch(0, first + begin, share, stage.size)
            descriptors = distributed.gather_rows(self._describe(self.averaged, images))
            targets = distributed.gather_rows(targets.to(self.device))
            if len(targets):
                means.add(self.objective(descriptors, targets)[1], len(targets))
        self._begin_learning()
        if not means.count:
            raise ValueError(
                "validation must have images that can be read; "
                f"of {len(validation)} images there is none"
            )
        return means.means()


class _Means:
    """Running means of named measurements."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, measured: dict[str, float], weight: int = 1) -> None:
        self.count += weight if measured else 0
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight

    def means(self) -> dict[str, float]:
        return {name: round(value / self.count, 4) for name, value in self.sums.items()}


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.data.lerp_(new.data, 1 - decay)
    for buffer, latest in zip(averaged.buffers(), network.buffers(), strict=True):
        buffer.copy_(latest)
