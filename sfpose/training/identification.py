"""Training that tells people apart: what ``FaceEmbedder.fit`` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfpose._checks import check_number, check_whole
from sfpose.networks import NETWORKS, build_network
from sfpose.networks.registry import IMAGENET_MEAN, IMAGENET_STD, check_non_negative
from sfpose.runtime.artifact import Artifact, Json, check_kind
from sfpose.training.augmentation import (
    GeometryJitter,
    compose,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    sample_images,
)
from sfpose.training.balancing import balance
from sfpose.training.distillation import normalise_images
from sfpose.training.export import network_from_artifact, to_manifest, to_onnx
from sfpose.training.faces import pass_order
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.mirroring import mirrored
from sfpose.training.objectives import SoftmaxObjective

__all__ = [
    "CANVAS_SCALE",
    "CropSource",
    "IdentificationSettings",
    "canvas_size",
    "export_identified",
    "train_identification",
]

CANVAS_SCALE = 1.3
"""Side of the stored training crops, in sides of what the network sees: room to move."""

SMALLEST_SIZE = 31

_SMALLEST_CANVAS = 147
"""Of the 113 pixels of the paper; where a network sees fewer, what is left serves to smooth."""

_PAPER_RATE = 0.01
"""With which random weights begin."""

_GENTLE_RATE = 1e-4
"""With which trained weights go on: at the paper's they forget whom they do not see."""

DROPOUT = 0.5
"""Of dropout9 and dropout10 (Table 2)."""


@dataclass(frozen=True)
class IdentificationSettings:
    """Settings of ``train_identification``; see the parameters of FaceEmbedder.

    Raises
    ------
    ValueError
        If ``epochs``, ``batch_size``, ``train_size`` or the seed is no whole number or too
        small, ``learning_rate`` is neither "auto" nor a finite number above 0, or there is no such
        network or the values of its descriptor have signs.
    """

    network: str = "squeezefaceposenet"
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | Literal["auto"] = "auto"
    train_size: int | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = False

    def __post_init__(self) -> None:
        check_non_negative(self.network)
        check_whole(self.seed, "random_state", 0)
        check_whole(self.epochs, "epochs", 1)
        # Batch normalisation needs two images, and pooling leaves nothing of a smaller one.
        check_whole(self.batch_size, "batch_size", 2)
        if self.train_size is not None:
            check_whole(self.train_size, "train_size", SMALLEST_SIZE)
        if self.learning_rate != "auto":
            check_number(self.learning_rate, "learning_rate", above=0)


class CropSource:
    """Stored crops with a margin and their class numbers, augmented batch by batch.

    Parameters
    ----------
    crops : uint8 array of shape (n, side, side, 3)
    labels : int array of shape (n,)
    mean, std : sequence of three floats
        Of the channels from 0 to 1, as the network takes them.
    """

    def __init__(
        self,
        crops: NDArray[np.uint8],
        labels: NDArray[np.int64],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._crops = crops
        self._labels = labels
        self._mean, self._std = mean, std
        self._jitter = GeometryJitter(turn=5, shift=0.025, log_scale=0.06, log_stretch=0.03)

    def __len__(self) -> int:
        """Number of crops in one pass."""
        return len(self._crops)

    def batch(self, seed: int, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Normalised images (count, 3, size, size) and class numbers (count,)."""
        chosen = pass_order(len(self), seed, first, count)
        crops = torch.from_numpy(self._crops[chosen])
        side = self._crops.shape[1]
        flags = torch.rand(count) < 0.5
        inner = compose(
            jitter_matrices(count, self._jitter, device=crops.device), mirror_matrices(flags)
        )
        shift = (1 - 1 / CANVAS_SCALE) / 2 * side
        centre = torch.tensor(
            [[side / CANVAS_SCALE, 0, shift], [0, side / CANVAS_SCALE, shift], [0, 0, 1]]
        )
        images = sample_images(
            crops, compose(centre, inner), size, oversample=2 if size < 80 else 1
        )
        images = normalise_images(photometric_jitter(images), self._mean, self._std)
        return images, torch.from_numpy(self._labels[chosen])


def _network_name(settings: IdentificationSettings, start: Artifact | None) -> str:
    """The architecture that is trained, of descriptors without signs."""
    name = settings.network
    if start is not None:
        check_kind(start.manifest)
        name = str(start.manifest.get("network"))
    check_non_negative(name)
    return name


def _sizes(settings: IdentificationSettings, start: Artifact | None) -> tuple[int, int]:
    """Sides of the images that the network takes in the end, and at first."""
    name = _network_name(settings, start)
    size = NETWORKS[name].input_size if start is None else start.network_input.size
    first = int(settings.train_size or size)
    if NETWORKS[name].fixed_size and first != size:
        raise ValueError(
            f"train_size must be None or {size}, because {name} takes images of one size "
            f"only; got {settings.train_size}"
        )
    return size, first


def canvas_size(settings: IdentificationSettings, start: Artifact | None = None) -> int:
    """Side of the crops to train on, in pixels: no network sees them magnified.

    Raises
    ------
    ValueError
        If the network takes images of one size only and ``train_size`` is another.
    """
    return max(_SMALLEST_CANVAS, round(CANVAS_SCALE * max(_sizes(settings, start))))


def train_identification(
    crops: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: IdentificationSettings,
    *,
    start: Artifact | None = None,
    aligned: bool = True,
) -> tuple[Artifact, list[dict[str, float]]]:
    """Train a network with softmax identification and export it.

    Parameters
    ----------
    crops : uint8 array of shape (n, side, side, 3)
        See ``canvas_size``.
    labels : int array of shape (n,)
        Class numbers from 0.
    settings : IdentificationSettings
    start : Artifact, optional
        Weights to start from; random ones if not given. The result takes images as it does (their
        channels' mean and deviation) and makes descriptors as it does: of values lessened by
        their mean, or of an image and its mirror image.
    aligned : bool, default=True
        Whether the crops were aligned by landmarks, for the manifest.

    Returns
    -------
    artifact : Artifact
    history : list of dict
        Measurements after each pass.

    Raises
    ------
    ValueError
        If the network takes images of one size only and ``train_size`` is another, or the values
        of its descriptor have signs.
    """
    name = _network_name(settings, start)
    seed, batch_size = int(settings.seed), int(settings.batch_size)
    history: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = (
            build_network(settings.network, dropout=DROPOUT)
            if start is None
            else network_from_artifact(start, dropout=DROPOUT)
        )
        (size, small_size), width = _sizes(settings, start), NETWORKS[name].descriptor_size
        if start is not None:
            balance(network, size)
        rate = settings.learning_rate
        if rate == "auto":
            rate = _PAPER_RATE if start is None else _GENTLE_RATE
        objective = SoftmaxObjective(width, int(labels.max()) + 1, dropout=DROPOUT)
        images = int(settings.epochs) * len(crops)
        last = max(images // 5, batch_size)
        if small_size == size or images - last < 2:
            last = images
        turn = last / images
        stages = [Stage(size, last, batch_size, (turn, 0.0))]
        if last < images:
            small = images - last
            stages.insert(0, Stage(small_size, small, batch_size, (1.0, turn)))
        trained = train(
            network,
            objective,
            CropSource(crops, labels, *_channels(start)),
            LoopSettings(
                stages=stages,
                optimizer="nesterov",
                learning_rate=rate,
                head_factor=10.0 if start is not None else 1.0,
                seed=seed,
                device=settings.device,
            ),
            progress=settings.progress,
            on_epoch=history.append,
        )
    return export_identified(trained, name, size, aligned=aligned, start=start), history


def _channels(start: Artifact | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels, as the weights to learn on from were taught."""
    if start is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return start.network_input.mean, start.network_input.std


def export_identified(
    network: nn.Module, name: str, size: int, *, aligned: bool, start: Artifact | None = None
) -> Artifact:
    """Export a network that learnt to tell people apart, without its head.

    Parameters
    ----------
    network : nn.Module
    name : str
        Of its architecture.
    size : int
        Side of the images.
    aligned : bool
        Whether it was trained on faces aligned by landmarks, for the manifest.
    start : Artifact, optional
        What it learned on from: it takes images of the same mean and deviation, its descriptor is
        made of the values in the same way, and is the mean of an image's and its mirror image's
        if that is so there.
    """
    formed: dict[str, Json] = {"size": NETWORKS[name].descriptor_size, "normalization": "l1"}
    mean, std = _channels(start)
    manifest = to_manifest(
        name="fitted",
        kind="descriptor",
        network=name,
        size=size,
        alignment="five-landmarks" if aligned else "loose-crop",
        descriptor=formed if start is None else start.section("descriptor"),
        mean=mean,
        std=std,
    )
    artifact = Artifact(to_onnx(network, size), manifest)
    if start is not None and start.manifest.get("mirrored"):
        artifact = mirrored(artifact, name=str(manifest["name"]))
    return artifact
