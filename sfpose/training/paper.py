"""The training protocol of the paper (section 4): stage after stage of labelled people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sfpose._checks import check_rate, check_whole
from sfpose.networks import NETWORKS
from sfpose.networks.registry import check_non_negative
from sfpose.runtime.artifact import Artifact
from sfpose.training.asking import digest
from sfpose.training.balancing import balance
from sfpose.training.checkpoints import check_same_run, load_checkpoint, start_digest, table_digest
from sfpose.training.identification import DROPOUT, SMALLEST_SIZE, export_identified
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.margins import LOSSES, identification_objective
from sfpose.training.people import ImageTable
from sfpose.training.schedules import PlateauSchedule
from sfpose.training.selection import Selection, choose_people, hold_out
from sfpose.training.starts import Start, start_network
from sfpose.training.streaming import OnUnreadable, StreamedImages, workers_for

__all__ = ["PaperRecipe", "PaperResult", "PaperStage", "StageReport", "train_paper"]

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class PaperStage:
    """One set of labelled people to train on.

    Attributes
    ----------
    table : ImageTable
        See ``sfpose.training.people.open_people``.
    min_images : int
        People with fewer images are left out.
    share : float, optional
        Side of the random crop over the shorter side of the image: if not given, 1 for aligned
        images and 224/256 for others. Of 1 in the last stage, weights state that they see faces so.
    """

    table: ImageTable
    min_images: int = 1
    share: float | None = None

    @property
    def crop_share(self) -> float:
        """The share that holds for this stage's images."""
        if self.share is not None:
            return self.share
        return 1.0 if self.table.aligned else 224 / 256


@dataclass(frozen=True)
class PaperRecipe:
    """How ``train_paper`` trains; the defaults are those of the paper.

    Attributes
    ----------
    network : str, optional
        Architecture; that of the start if not given, or ``"squeezefaceposenet"``.
    loss : {"softmax", "arcface", "cosface"}
    size : int, optional
        Side of the images; the architecture's own (113) if not given, or that of the start where
        it is an artifact of a network that takes images of one size only.
    batch_size : int
        Over all processes.
    rates : tuple of float
        The next one at each plateau of the validation loss.
    patience : int
        A plateau is this many passes in a row without a new lowest validation loss,
        to four decimals. The paper gives no number.
    head_factor : float
        New layers learn this many times faster while the first rate holds, unless all are new.
    max_epochs : int
        A stage ends after this many passes even without a plateau.
    validation_share : float
        Of each person's images.
    dropout : float
        Before conv10 and in the head.
    weight_decay : float
    seed : int
    workers : int
        Threads that decode images, in each process.
    on_unreadable : {"error", "leave out"}
    checkpoint_minutes : float
    device, precision : str
        See ``sfpose.training.loop.LoopSettings``.
    """

    network: str | None = None
    loss: str = "softmax"
    size: int | None = None
    batch_size: int = 128
    rates: tuple[float, ...] = (0.01, 0.005, 0.001, 0.0001)
    patience: int = 3
    head_factor: float = 10.0
    max_epochs: int = 100
    validation_share: float = 0.02
    dropout: float = DROPOUT
    weight_decay: float = 1e-4
    seed: int = 0
    workers: int = 4
    on_unreadable: OnUnreadable = "error"
    checkpoint_minutes: float = 10.0
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class StageReport:
    """What one stage saw and how it went.

    Attributes
    ----------
    people, training_images, validation_images : int
    left_out : mapping of str to int
        Counts by reason, zeros included; what cannot be read is of the images above.
    unreadable : list of str
        Names of images that could not be read.
    history : list of dict
        A pass each: epoch, rate, loss, accuracy, validation_loss, validation_accuracy.
    ended : {"plateau", "epochs", "time"}
        At the last rate's plateau, after ``max_epochs``, or stopped before either.
    """

    people: int
    training_images: int
    validation_images: int
    left_out: Mapping[str, int]
    unreadable: list[str]
    history: list[dict[str, float]]
    ended: str


@dataclass(frozen=True)
class PaperResult:
    """The exported network, without a calibration, and a report of each stage run."""

    artifact: Artifact
    stages: list[StageReport]


class _Data(NamedTuple):
    stage: PaperStage
    chosen: Selection
    held_out: NDArray[np.bool_]
    checkpoint: Path

    def source(
        self, recipe: PaperRecipe, workers: ThreadPoolExecutor | None, *, validation: bool
    ) -> StreamedImages:
        picked = self.held_out if validation else ~self.held_out
        return StreamedImages(
            self.stage.table,
            self.chosen.rows[picked],
            self.chosen.labels[picked],
            share=self.stage.crop_share,
            random=not validation,
            workers=workers,
            on_unreadable=recipe.on_unreadable,
        )


def train_paper(
    stages: Sequence[PaperStage],
    checkpoint: Path,
    *,
    start: str | Path | None = None,
    recipe: PaperRecipe | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    stop_after_minutes: float | None = None,
) -> PaperResult:
    """Train a network on labelled people, one set after the other, and export it.

    Identification with softmax cross-entropy: people with too few images are left
    out, a share of each person's images is set aside for validation, crops are drawn
    at random, and stochastic gradient descent with momentum takes the next lower rate
    each time the validation loss stops falling. The first stage of the paper is MS1M,
    the second VGGFace2; each later stage keeps the network and gets a new head. Under
    ``torchrun`` (inside ``sfpose.training.distributed.process_group``) the
    processes share each batch.

    Parameters
    ----------
    stages : sequence of PaperStage
    checkpoint : Path
        ``runs/paper.pt`` stands for ``runs/paper.stage1.pt`` and so on: resumed from
        if they are there, written every few minutes. Those of another run are refused before
        anything is trained; ``max_epochs`` may be another, and holds for the last stage begun.
    start : str, Path or None
        A SqueezeNet v1.1 state trained on ImageNet, as in the paper; see
        ``sfpose.training.starts.start_network``. Descriptors of a network that is an
        artifact's are made as there: of values lessened by their mean, or of an image and its
        mirror image.
    recipe : PaperRecipe, optional
    on_epoch : callable, optional
        Called with the number of the stage and the measurements of each pass.
    progress, stop_after_minutes
        See ``sfpose.training.loop.train``.

    Returns
    -------
    PaperResult

    Raises
    ------
    ValueError
        If a setting is out of range, the network's values have signs (the chi-square
        distance needs values >= 0), a stage has fewer than two people with enough
        images, an image cannot be read, or a checkpoint is of another run. All stages'
        people are looked at before the first one is trained.

    References
    ----------
    Alonso-Fernandez et al., section 4.
    """
    recipe = recipe or PaperRecipe()
    _check(stages, recipe)
    began = time.monotonic()
    prepared = []
    for number, stage in enumerate(stages, start=1):
        chosen = choose_people(stage.table, stage.min_images)
        held_out = hold_out(chosen.labels, recipe.validation_share, recipe.seed)
        file = checkpoint.with_name(f"{checkpoint.stem}.stage{number}.pt")
        prepared.append(_Data(stage, chosen, held_out, file))
    reports: list[StageReport] = []
    with torch.random.fork_rng(devices=[]), workers_for(recipe.workers) as workers:
        torch.manual_seed(recipe.seed)
        begin = start_network(start, recipe.network, dropout=recipe.dropout, input_size=recipe.size)
        network, name = begin.network, begin.name
        check_non_negative(name)
        size = _input_size(recipe.size, begin)
        if begin.artifact is not None:
            balance(network, begin.artifact.network_input.size)
        known = _facts(recipe, name, start, prepared)
        for data, facts in zip(prepared, known, strict=True):
            if data.checkpoint.exists():
                check_same_run(data.checkpoint, load_checkpoint(data.checkpoint), facts)
        there = [data.checkpoint.exists() for data in prepared]
        if there != sorted(there, reverse=True):
            lost = prepared[there.index(False)].checkpoint
            raise FileNotFoundError(f"later stages need that before them; there is no {lost}")
        for number, data in enumerate(prepared, start=1):
            later, facts = number > 1, known[number - 1]
            # A stage on which the next one was built is over, whatever max_epochs is now.
            own = replace(recipe, max_epochs=1) if any(there[number:]) else recipe
            if later:
                weights = [value.cpu().numpy() for value in network.state_dict().values()]
                facts["what the stage before ended with"] = digest(*weights)
            minutes = stop_after_minutes and stop_after_minutes - (time.monotonic() - began) / 60
            report = _run_stage(
                network,
                identification_objective(
                    recipe.loss,
                    NETWORKS[name].descriptor_size,
                    len(data.chosen.people),
                    dropout=recipe.dropout,
                ),
                data,
                own,
                schedule=PlateauSchedule(
                    recipe.rates,
                    patience=recipe.patience,
                    head_factor=recipe.head_factor if later or start is not None else 1.0,
                ),
                size=size,
                facts=facts,
                new_layers=[] if later else begin.new_layers,
                workers=workers,
                on_epoch=None if on_epoch is None else partial(on_epoch, number),
                progress=progress,
                stop_after_minutes=minutes,
            )
            reports.append(report)
            if report.ended == "time":
                break
    aligned = prepared[len(reports) - 1].stage.crop_share == 1.0
    artifact = export_identified(network.eval(), name, size, aligned=aligned, start=begin.artifact)
    return PaperResult(artifact, reports)


def _check(stages: Sequence[PaperStage], recipe: PaperRecipe) -> None:
    if not stages:
        raise ValueError("training needs at least one stage; got none")
    if recipe.loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}; got {recipe.loss!r}")
    check_whole(SMALLEST_SIZE if recipe.size is None else recipe.size, "size", SMALLEST_SIZE)
    check_whole(recipe.batch_size, "batch_size", 2)
    check_whole(recipe.max_epochs, "max_epochs", 1)
    check_rate(recipe.dropout, "dropout", zero=True)
    # Checks both, before people are counted.
    LoopSettings(stages=(), seed=recipe.seed, checkpoint_minutes=recipe.checkpoint_minutes)
    for stage in stages:
        if not 0 < stage.crop_share <= 1:
            raise ValueError(f"share must be above 0 and at most 1; got {stage.crop_share}")


def _input_size(asked: int | None, begin: Start) -> int:
    """Side of the images; a network of one size keeps its own if it is taken whole."""
    spec = NETWORKS[begin.name]
    if begin.artifact is None or not spec.fixed_size:
        return asked or spec.input_size
    own = begin.artifact.network_input.size
    if asked not in (None, own):
        raise ValueError(
            f"size must be {own} or None, the only one of its {begin.name}; got {asked}"
        )
    return own


def _facts(
    recipe: PaperRecipe, network: str, start: str | Path | None, prepared: Sequence[_Data]
) -> list[dict[str, object]]:
    """What makes each stage the one that it is: the data of those before are part of it."""
    names = ("loss", "batch_size", "rates", "patience", "head_factor", "dropout", "seed")
    shared = {name: getattr(recipe, name) for name in names}
    shared |= {"network": network, "start": start_digest(start)}
    digests = [
        table_digest(stage.table, chosen.rows, chosen.labels, held_out, stage.crop_share)
        for stage, chosen, held_out, _ in prepared
    ]
    counts = range(1, len(prepared) + 1)
    return [{**shared, "images, people, crops or validation": digests[:count]} for count in counts]


def _run_stage(
    network: nn.Module,
    objective: nn.Module,
    data: _Data,
    recipe: PaperRecipe,
    *,
    schedule: PlateauSchedule,
    size: int,
    facts: Mapping[str, object],
    new_layers: Sequence[str],
    workers: ThreadPoolExecutor | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
    progress: bool,
    stop_after_minutes: float | None,
) -> StageReport:
    source = data.source(recipe, workers, validation=False)
    validation = data.source(recipe, workers, validation=True)
    history: list[dict[str, float]] = []

    def note(entry: dict[str, float]) -> None:
        history.append(entry)
        if on_epoch is not None:
            on_epoch(entry)

    train(
        network,
        objective,
        source,
        LoopSettings(
            stages=(Stage(size, recipe.max_epochs * len(source), recipe.batch_size),),
            learning_rate=recipe.rates[0],
            weight_decay=recipe.weight_decay,
            seed=recipe.seed,
            checkpoint_minutes=recipe.checkpoint_minutes,
            device=recipe.device,
            precision=recipe.precision,
            facts=facts,
        ),
        validation=validation,
        schedule=schedule,
        new_layers=new_layers,
        checkpoint=data.checkpoint,
        on_epoch=note,
        progress=progress,
        stop_after_minutes=stop_after_minutes,
    )
    ended = "time"
    if schedule.finished:
        ended = "plateau"
    elif history and history[-1]["epoch"] >= recipe.max_epochs:
        ended = "epochs"
    unreadable = sorted(source.unreadable | validation.unreadable)
    return StageReport(
        people=len(data.chosen.people),
        training_images=len(source),
        validation_images=len(validation),
        left_out={**data.chosen.left_out, "images that cannot be read": len(unreadable)},
        unreadable=unreadable,
        history=history,
        ended=ended,
    )
