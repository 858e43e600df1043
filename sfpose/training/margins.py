"""Identification with a margin: ArcFace and CosFace beside softmax."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfpose.training.objectives import SoftmaxObjective

__all__ = [
    "LOSSES",
    "ArcFaceObjective",
    "CosFaceObjective",
    "identification_objective",
]

LOSSES = ("softmax", "arcface", "cosface")


class _CosineObjective(nn.Module, ABC):
    """Cross-entropy of scaled cosines, the true class's lowered by a margin in training.

    Batch normalisation and dropout on the descriptor as under softmax; then cosines
    with one weight vector a person. In evaluation mode there is no margin, so that a
    validation loss says how well people are told apart and nothing of the margin.
    """

    def __init__(
        self,
        descriptor_size: int,
        people: int,
        *,
        margin: float,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.batchnorm10 = nn.BatchNorm1d(descriptor_size)
        self.dropout10 = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(people, descriptor_size))
        nn.init.xavier_normal_(self.weight)
        self.margin = margin
        self.scale = scale

    @abstractmethod
    def with_margin(self, cosines: Tensor) -> Tensor:
        """The true classes' cosines (n,), lowered by the margin."""

    def forward(self, descriptors: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and measurements of a batch; ``targets`` are class numbers (n,)."""
        features = F.normalize(self.dropout10(self.batchnorm10(descriptors)), dim=1)
        cosines = features @ F.normalize(self.weight, dim=1).T
        correct = (cosines.detach().argmax(1) == targets).float().mean()
        if self.training:
            own = cosines.gather(1, targets[:, None])
            cosines = cosines.scatter(1, targets[:, None], self.with_margin(own))
        loss = F.cross_entropy(self.scale * cosines, targets)
        return loss, {"loss": float(loss.detach()), "accuracy": float(correct)}


class CosFaceObjective(_CosineObjective):
    """Large margin cosine loss: the true class's cosine less a constant.

    Parameters
    ----------
    descriptor_size, people : int
        Width of the descriptor and number of classes.
    margin : float, default=0.35
    scale : float, default=64.0
        Of the cosines before softmax.
    dropout : float, default=0.5

    References
    ----------
    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR
    2018.
    """

    def __init__(
        self,
        descriptor_size: int,
        people: int,
        *,
        margin: float = 0.35,
        scale: float = 64.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(descriptor_size, people, margin=margin, scale=scale, dropout=dropout)

    def with_margin(self, cosines: Tensor) -> Tensor:
        """The true classes' cosines (n,), lowered by the margin."""
        return cosines - self.margin


class ArcFaceObjective(_CosineObjective):
    """Additive angular margin: the cosine of the true class's angle plus a constant.

    Where the angle plus the margin would exceed pi, its cosine would rise again; as in
    the reference implementation the cosine less ``margin * sin(margin)`` takes its
    place there. With ``easy_margin`` angles above 90 degrees get no margin at all.

    Parameters
    ----------
    descriptor_size, people : int
        Width of the descriptor and number of classes.
    margin : float, default=0.5
        Radians.
    scale : float, default=64.0
        Of the cosines before softmax.
    dropout : float, default=0.5
    easy_margin : bool, default=False

    References
    ----------
    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR
    2019, and its implementation in the insightface repository.
    """

    def __init__(
        self,
        descriptor_size: int,
        people: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        dropout: float = 0.5,
        easy_margin: bool = False,
    ) -> None:
        super().__init__(descriptor_size, people, margin=margin, scale=scale, dropout=dropout)
        self.easy_margin = easy_margin

    def with_margin(self, cosines: Tensor) -> Tensor:
        """The cosines (n,) of the true classes' angles plus the margin."""
        # The slope of the sine is infinite at cosines of -1 and 1.
        sines = torch.sqrt((1 - cosines**2).clamp(min=1e-7))
        moved = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        if self.easy_margin:
            return torch.where(cosines > 0, moved, cosines)
        lowered = cosines - self.margin * math.sin(self.margin)
        return torch.where(cosines > math.cos(math.pi - self.margin), moved, lowered)


def identification_objective(
    loss: str, descriptor_size: int, people: int, *, dropout: float = 0.5
) -> nn.Module:
    """The training head of that name.

    Parameters
    ----------
    loss : {"softmax", "arcface", "cosface"}
    descriptor_size, people : int
        Width of the descriptor and number of classes.
    dropout : float, default=0.5

    Raises
    ------
    ValueError
        If there is no loss of that name.
    """
    if loss == "softmax":
        return SoftmaxObjective(descriptor_size, people, dropout=dropout)
    if loss == "arcface":
        return ArcFaceObjective(descriptor_size, people, dropout=dropout)
    if loss == "cosface":
        return CosFaceObjective(descriptor_size, people, dropout=dropout)
    raise ValueError(f"loss must be one of {LOSSES}; got {loss!r}")
