"""The optimisers a recipe can name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["OPTIMIZERS", "Muon", "build_optimizer"]

OPTIMIZERS = ("sgd", "adamw", "muon")


def _orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: Newton-Schulz with tuned coefficients."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


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
        params: Iterable[Tensor],
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
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"]
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"])
                rows = update.reshape(len(update), -1)
                rows = _orthogonalise(rows) * (0.2 * max(rows.shape) ** 0.5)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(rows.reshape(parameter.shape), alpha=-group["lr"])


def build_optimizer(
    name: str,
    network: nn.Module,
    head: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    head_factor: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """Optimisers for a network and its training head; weight decay spares biases.

    Parameters
    ----------
    name : {"sgd", "adamw", "muon"}
        ``"muon"`` takes the convolutions; AdamW takes what is no matrix.
    head_factor : float, default=1.0
        The head learns this many times faster (10 in the paper while the rate is
        0.01).

    Returns
    -------
    list of torch.optim.Optimizer
        One or two, to be stepped together. Each parameter group carries
        ``initial_lr`` for the schedule.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {OPTIMIZERS}; got {name!r}")
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    head_parameters = list(head.parameters())
    rest = [
        {"params": vectors, "weight_decay": 0.0, "lr": learning_rate},
        {"params": head_parameters, "weight_decay": 0.0, "lr": learning_rate * head_factor},
    ]
    decayed = {"params": matrices, "weight_decay": weight_decay, "lr": learning_rate}
    optimizers: list[torch.optim.Optimizer]
    if name == "sgd":
        optimizers = [torch.optim.SGD([decayed, *rest], learning_rate, momentum=0.9, nesterov=True)]
    elif name == "adamw":
        optimizers = [torch.optim.AdamW([decayed, *rest], learning_rate)]
    else:
        optimizers = [
            Muon(matrices, learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW([group for group in rest if group["params"]], learning_rate),
        ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
