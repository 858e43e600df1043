"""The runs behind the shipped weights, each one function of data and start."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfpose.geometry import similarity_to_canonical
from sfpose.networks import NETWORKS
from sfpose.runtime.artifact import Artifact
from sfpose.training.augmentation import sample_images
from sfpose.training.checkpoints import taught_facts
from sfpose.training.distillation import TaughtFaceSource, normalise_images, teacher_targets
from sfpose.training.export import (
    fold_batch_norm,
    scale_descriptor,
    take_common_layers,
    to_manifest,
    to_onnx,
)
from sfpose.training.faces import TaughtFaces
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.maps import is_mapped, join_map, place_shape, rebalance, split_map, value_count
from sfpose.training.mixing import Blends
from sfpose.training.normalising import lacks_batch_norm, normalise_last
from sfpose.training.objectives import DistillationObjective
from sfpose.training.settings import find_device
from sfpose.training.spreading import spread_values
from sfpose.training.starts import start_network
from sfpose.training.turning import FaceTurner

__all__ = [
    "DistillationRecipe",
    "DistillationResult",
    "distil",
    "distillation_objective",
    "export_distilled",
    "shorter",
    "teacher_agreement",
]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillationRecipe:
    """A run of ``distil``; the defaults are those of the first plain network, from nothing.

    Attributes
    ----------
    network : str, optional
        Architecture; see ``sfpose.training.starts.start_network``.
    loop : LoopSettings
        Small images first: the network ends in a global average, so that most of
        what there is to learn can be learnt at a quarter of the cost.
    cosine_temperature, hellinger_temperature : float
        See ``DistillationObjective``. Where the objective's map ships with the network
        (``+map``), its second contrast is left out and its cosine counts three times.
    turned_share, blend_share, jitter, light : float
        How many frontal faces are turned to the side, how many images are blends, how far crops
        are moved and how strongly the light is changed; see
        ``TaughtFaceSource``.
    frozen : tuple of str
        Modules that keep the weights of the start, wherever they are in the network, such as
        ``("conv1", "fire2")``. Those next to the image take most of a step's time.
    spread : bool
        Begin the values anew, spread evenly over what the teacher tells apart, teach them to stay
        so, and put batch normalisation behind the last layers, so that none falls silent
        (``sfpose.training.spreading.spread_values``). Only for networks whose own values are
        the descriptor.
    """

    network: str | None = None
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            stages=(
                Stage(40, 220_000, 64, (1.0, 0.5)),
                Stage(48, 90_000, 64, (0.5, 0.4)),
                Stage(64, 26_000, 64, (0.4, 0.35)),
                Stage(64, 20_000, 64, (0.35, 0.0)),
                Stage(48, 154_000, 64, (0.5, 0.37)),
                Stage(64, 36_000, 64, (0.37, 0.0)),
                Stage(48, 350_000, 128, (0.67, 0.33)),
                Stage(64, 105_000, 128, (0.33, 0.0)),
                Stage(48, 580_000, 128, (0.67, 0.4)),
                Stage(64, 220_000, 128, (0.4, 0.0)),
            ),
            optimizer="muon",
            learning_rate=3e-3,
            weight_decay=1e-3,
            average=0.85,
            seed=1,
        )
    )
    cosine_temperature: float = 0.07
    hellinger_temperature: float = 0.02
    turned_share: float = 0.3
    blend_share: float = 0.5
    jitter: float = 1.0
    light: float = 1.0
    frozen: tuple[str, ...] = ()
    spread: bool = False

    @property
    def size(self) -> int:
        """Side of the images that the exported network takes: the size that it saw last."""
        return self.loop.stages[-1].size


class DistillationResult(NamedTuple):
    """The exported network, without a calibration, and how near it came to its teacher.

    ``agreement`` is as ``teacher_agreement`` gives it.
    """

    artifact: Artifact
    agreement: dict[str, float]


def distil(
    faces: TaughtFaces,
    checkpoint: Path,
    *,
    landmarks: NDArray[np.float32] | None = None,
    blends: Blends | None = None,
    start: str | Path | Sequence[str | Path] | None = None,
    recipe: DistillationRecipe | None = None,
    face_surface: str | Path | None = None,
    name: str = "distilled",
    stop_after_minutes: float | None = None,
    progress: bool = True,
) -> DistillationResult:
    """Teach a network what a teacher's stored embeddings say of aligned faces.

    Parameters
    ----------
    faces : TaughtFaces
    checkpoint : Path
        Resumed from if it is there, written every few minutes; that of another run is refused.
    landmarks : float32 array of shape (n, 5, 2), optional
        By which faces are aligned; the stored ones if not given.
    blends : Blends, optional
        Shown beside the photos; see ``sfpose.training.mixing.make_blends``.
    start : str, Path, sequence of them or None
        See ``sfpose.training.starts.start_network``. Of the checkpoint of another
        distillation the objective's maps are taken too, which cost tens of thousands of images
        to learn anew. What the network has and the start has not is logged as a warning. The run's
        own checkpoint has the last word.
    recipe : DistillationRecipe, optional
    face_surface : path, optional
        Surface for a ``FaceTurner``; no face is turned
        if not given.
    name : str, default="distilled"
        Goes into the manifest.
    stop_after_minutes, progress
        See ``sfpose.training.loop.train``.

    Returns
    -------
    DistillationResult

    Raises
    ------
    ValueError
        If the recipe's network cannot be distilled, or its values not be spread, modules are to be
        frozen that it lacks, or without a start, or the checkpoint is of another run.
    """
    recipe = recipe or DistillationRecipe()
    if recipe.frozen and start is None:
        raise ValueError(f"frozen modules must have a start to keep; got none for {recipe.frozen}")
    torch.manual_seed(recipe.loop.seed)
    device = find_device(recipe.loop.device)
    side = 2 * recipe.size
    turner = None if face_surface is None else FaceTurner(face_surface, side, device=device)
    source = TaughtFaceSource(
        faces,
        landmarks,
        jitter=recipe.jitter,
        light=recipe.light,
        blends=blends,
        blend_share=recipe.blend_share,
        turner=turner,
        turned_share=recipe.turned_share,
        device=device,
    )
    begin = start_network(start, recipe.network, input_size=recipe.size)
    network, known = split_map(begin.network, begin.name, source.bank.shape[1])
    own = dict(network.named_parameters())
    left = [key for key in begin.new_layers if key in own]
    if left and start is not None:
        _LOG.warning("not in the start, so begun anew: %s", ", ".join(left))
    objective = distillation_objective(recipe, begin.name, network, source.bank)
    if known and not begin.objective:
        rebalance(network, known)
    state = {**known, **begin.objective}
    # A run that goes on has its values in its checkpoint.
    begins = recipe.spread and not checkpoint.exists()
    if recipe.spread:
        network = fold_batch_norm(network)
    if begins:
        images, targets = source.batch(recipe.loop.seed, 0, 2048, recipe.size)
        woken = spread_values(network, images.cpu(), source.bank[targets.cpu()])
        _LOG.info("%d filters of fire9 fired for no image and were begun anew", woken)
    if recipe.spread or lacks_batch_norm(network):
        images, _ = source.batch(recipe.loop.seed, 0, 512, recipe.size)
        network = normalise_last(network, state, images.cpu())
    if begins:
        objective.begin_with(*_outputs(network, source, recipe))
    elif not recipe.spread:
        take_common_layers(objective, state)
    _freeze(network, recipe.frozen)
    facts = {name: value for name, value in vars(recipe).items() if name != "loop"}
    facts |= taught_facts(faces, start, face_surface, landmarks=landmarks, blends=blends)
    trained = train(
        network,
        objective,
        source,
        replace(recipe.loop, facts={**recipe.loop.facts, **facts, "network": begin.name}),
        checkpoint=checkpoint,
        progress=progress,
        stop_after_minutes=stop_after_minutes,
    )
    points = faces.landmarks if landmarks is None else landmarks
    agreement = teacher_agreement(trained, objective, faces, points, recipe.size)
    artifact = export_distilled(
        trained, objective, begin.name, faces, points, recipe.size, name=name
    )
    return DistillationResult(artifact, agreement)


@torch.inference_mode()
def _outputs(
    network: nn.Module, source: TaughtFaceSource, recipe: DistillationRecipe
) -> tuple[Tensor, Tensor]:
    """What a network says of up to 20,000 of a run's images, and their rows of the bank."""
    network.eval()
    outputs, rows = [], []
    for first in range(0, min(20_000, 8 * len(source)), 128):
        images, targets = source.batch(recipe.loop.seed, first, 128, recipe.size)
        outputs.append(network(images.cpu()))
        rows.append(targets.cpu())
    return torch.cat(outputs), torch.cat(rows)


def _freeze(network: nn.Module, names: Collection[str]) -> None:
    """Let the modules of these names learn nothing."""
    found = set()
    for path, module in network.named_modules():
        name = path.rpartition(".")[2]
        if name in names:
            module.requires_grad_(False)
            found.add(name)
    if missing := sorted(set(names) - found):
        raise ValueError(f"frozen must name modules of the network; it has no {missing}")


def distillation_objective(
    recipe: DistillationRecipe, name: str, network: nn.Module, bank: Tensor
) -> DistillationObjective:
    """The objective of a recipe, before it has learned.

    Parameters
    ----------
    recipe : DistillationRecipe
    name : str
        Architecture of the result.
    network : nn.Module
        What is taught: without the map, as ``sfpose.training.maps.split_map`` gives it.
    bank : float Tensor of shape (n, d)
        Teacher embeddings, rows of length 1.
    """
    # Nothing is asked of the distance between values that do not ship themselves.
    cosine_weight, hellinger_weight = (3.0, 0.0) if is_mapped(name) else (1.0, 1.0)
    # One minus the affinity of two strangers' codes is 0.3, where their embeddings' cosine is 0.
    return DistillationObjective(
        bank,
        value_count(network),
        cosine_temperature=recipe.cosine_temperature,
        hellinger_temperature=recipe.hellinger_temperature,
        cosine_weight=cosine_weight,
        hellinger_weight=hellinger_weight,
        spread_weight=20.0 if recipe.spread else 0.0,
        places=place_shape(network),
    )


def export_distilled(
    network: nn.Module,
    objective: DistillationObjective,
    architecture: str,
    faces: TaughtFaces,
    landmarks: NDArray[np.float32],
    size: int,
    *,
    name: str = "distilled",
) -> Artifact:
    """Export a distilled network, its values scaled to the same mean over many faces.

    The scale is taken on up to 2,000 training faces, unaugmented, and folds into conv10. Where
    the objective's map follows (an architecture ``+map``) it is the one that the map learned with.
    Values that were taught to lie spread (``recipe.spread``) are lessened by half of their mean:
    averages of values above zero are never near it, as most of their codes are.
    """
    network = fold_batch_norm(network.cpu())
    if is_mapped(architecture):
        network = join_map(network, objective.cpu(), architecture)
    else:
        rows = _some_rows(faces, held_out=False)
        mean = _describe(network, faces, landmarks, rows, size).mean(0).numpy()
        # A value that never fires has no scale of its own: it keeps the smallest one.
        scale_descriptor(network, 1 / np.maximum(mean, 1e-3 * mean.mean()))
    manifest = to_manifest(
        name=name,
        kind="descriptor",
        network=architecture,
        size=size,
        license="BSD-3-Clause",
        alignment="five-landmarks",
        descriptor={
            "size": NETWORKS[architecture].descriptor_size,
            "normalization": "l1",
            **({"less_mean": 0.5} if objective.spread_weight else {}),
        },
    )
    return Artifact(to_onnx(network, size), manifest)


def teacher_agreement(
    network: nn.Module,
    objective: DistillationObjective,
    faces: TaughtFaces,
    landmarks: NDArray[np.float32],
    size: int,
) -> dict[str, float]:
    """Mean cosine of what the student's map gives to the teacher's embeddings, unaugmented.

    Parameters
    ----------
    network : nn.Module
    objective : DistillationObjective
    faces : TaughtFaces
    landmarks : float32 array of shape (n, 5, 2)
    size : int
        Side of the images.

    Returns
    -------
    dict of str to float
        ``"training"`` and ``"held_out"``, each over up to 2,000 faces. A first far above the
        second says that the student knows its photos by heart; two alike, that it has
        not finished learning.
    """
    targets = torch.from_numpy(teacher_targets(faces))
    network, objective = network.cpu().eval(), objective.cpu().eval()
    agreement = {}
    for name, held_out in (("training", False), ("held_out", True)):
        rows = _some_rows(faces, held_out=held_out)
        with torch.inference_mode():
            found = objective.to_teacher(_describe(network, faces, landmarks, rows, size))
            agreement[name] = float((found * targets[rows]).sum(1).mean())
    return agreement


def _some_rows(faces: TaughtFaces, *, held_out: bool) -> NDArray[np.int64]:
    rows = np.flatnonzero((faces.scores > 0) & (faces.held_out == held_out))
    return np.sort(np.random.default_rng(0).permutation(rows)[:2000])


@torch.inference_mode()
def _describe(
    network: nn.Module,
    faces: TaughtFaces,
    landmarks: NDArray[np.float32],
    rows: NDArray[np.int64],
    size: int,
) -> Tensor:
    """Descriptors (n, d) of the aligned faces of some rows, unaugmented."""
    found = []
    for part in np.array_split(rows, max(1, len(rows) // 50)):
        matrices = torch.from_numpy(similarity_to_canonical(landmarks[part]).astype(np.float32))
        crops = sample_images(torch.from_numpy(faces.photos[part]), matrices, size)
        found.append(network(normalise_images(crops)))
    return torch.cat(found)


def shorter(recipe: DistillationRecipe, factor: float) -> DistillationRecipe:
    """The same recipe with every stage's images multiplied by ``factor``."""
    stages = tuple(
        replace(stage, images=max(stage.batch_size, int(stage.images * factor)))
        for stage in recipe.loop.stages
    )
    return replace(recipe, loop=replace(recipe.loop, stages=stages))
