"""The optimisers a recipe can name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OPTIMIZERS", "Muon", "build_optimizer"]

OPTIMIZERS = ("sgd", "nesterov", "adamw", "muon")


def _orthogonalise(matrices: list[Tensor], iterations: int = 5) -> list[Tensor]:
    """Nearest semi-orthogonal matrices, roughly: Newton-Schulz with tuned coefficients.

    Every iterate is a polynomial of the matrix's Gram matrix times the matrix, so the
    iteration runs on the Gram matrices of the short sides, which those of many layers
    share: one batched product instead of one a layer, half the time on two cores.
    """
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    wide = [matrix / (matrix.norm() + 1e-7) for matrix in wide]
    same_side: dict[int, list[int]] = {}
    for place, matrix in enumerate(wide):
        same_side.setdefault(len(matrix), []).append(place)
    for places in same_side.values():
        gram = torch.stack([wide[place] @ wide[place].T for place in places])
        step = factor = _one_iteration(gram)
        for _ in range(iterations - 1):
            gram = step @ gram @ step
            step = _one_iteration(gram)
            factor = step @ factor
        for place, product in zip(places, factor, strict=True):
            wide[place] = product @ wide[place]
    return [
        found if len(matrix) <= matrix.shape[1] else found.T
        for found, matrix in zip(wide, matrices, strict=True)
    ]


def _one_iteration(gram: Tensor) -> Tensor:
    """What one Newton-Schulz iteration multiplies matrices of these Gram matrices with."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for convolutions seen as matrices.

    torch's own ``torch.optim.Muon`` takes two-dimensional parameters only. Updates
    are scaled to the root mean square of AdamW's, so that AdamW's learning rates
    and weight decay carry over.

    References
    ----------
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024;
    Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982 (the scaling).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            updates = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"]
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"])
                updates.append(update.reshape(len(update), -1))
            for parameter, rows in zip(parameters, _orthogonalise(updates), strict=True):
                scale = 0.2 * max(rows.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(rows.reshape(parameter.shape), alpha=-group["lr"] * scale)


def build_optimizer(
    name: str,
    network: nn.Module,
    head: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    new_layers: Collection[str] = (),
) -> list[torch.optim.Optimizer]:
    """Optimisers for a network and its training head.

    Weight decay spares biases and the whole head, which export drops or folds into the network.

    Parameters
    ----------
    name : {"sgd", "nesterov", "adamw", "muon"}
        ``"sgd"`` has momentum 0.9, ``"nesterov"`` looks ahead along it. ``"muon"``
        takes the convolutions; AdamW takes what is no matrix.
    learning_rate, weight_decay : float
    new_layers : collection of str
        Names of the network's parameters that start at random while others do not.

    Returns
    -------
    list of torch.optim.Optimizer
        One or two, to be stepped together. Each parameter group carries
        ``initial_lr`` for the schedule, and ``new``: whether it holds the head or
        new layers, which a schedule may teach faster.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {OPTIMIZERS}; got {name!r}")

    def group(parameters: list[nn.Parameter], decay: float, new: bool) -> dict[str, Any]:
        return {"params": parameters, "weight_decay": decay, "lr": learning_rate, "new": new}

    matrices: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for new in (False, True):
        mine = [p for key, p in network.named_parameters() if (key in new_layers) == new]
        matrices.append(group([p for p in mine if p.ndim > 1], weight_decay, new))
        rest.append(group([p for p in mine if p.ndim <= 1], 0.0, new))
    rest[1]["params"] += list(head.parameters())
    matrices = [entry for entry in matrices if entry["params"]]
    rest = [entry for entry in rest if entry["params"]]
    optimizers: list[torch.optim.Optimizer]
    if name in ("sgd", "nesterov"):
        groups = [*matrices, *rest]
        look_ahead = name == "nesterov"
        optimizers = [torch.optim.SGD(groups, learning_rate, momentum=0.9, nesterov=look_ahead)]
    elif name == "adamw":
        optimizers = [torch.optim.AdamW([*matrices, *rest], learning_rate)]
    else:
        optimizers = [Muon(matrices, learning_rate), torch.optim.AdamW(rest, learning_rate)]
    for optimizer in optimizers:
        for entry in optimizer.param_groups:
            entry["initial_lr"] = entry["lr"]
    return optimizers
