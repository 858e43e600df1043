"""One run by several processes, as ``torchrun`` starts them.

Each process takes its share of every batch; the objective sees the descriptors of the
whole batch, so that its batch normalisation and its loss are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "average_gradients",
    "first_decides",
    "gather_rows",
    "place",
    "process_group",
    "replicate",
    "share_names",
    "share_of",
]


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Join the other processes if ``torchrun`` started several, and leave them at the end.

    Inside of another such context it does nothing.

    Parameters
    ----------
    device : str
        ``"auto"`` and ``"cuda"`` take one GPU a process where there are GPUs (NCCL);
        on the CPU the processes talk through gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Number of this process and how many there are: (0, 1) outside of ``torchrun``."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_of(count: int) -> tuple[int, int]:
    """Where this process's share of ``count`` images begins, and how many it holds."""
    rank, size = place()
    begin, end = count * rank // size, count * (rank + 1) // size
    return begin, end - begin


def replicate(network: nn.Module) -> nn.Module:
    """The network itself, or its copy that averages gradients over the processes."""
    if place()[1] == 1:
        return network
    return nn.parallel.DistributedDataParallel(network)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes in their order, whatever the number that each one has.

    Gradients flow into this process's own rows, times the number of processes, which
    the averaging over processes divides away again.
    """
    rank, size = place()
    if size == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    largest = max(int(count) for count in counts)
    padded = rows.new_zeros(largest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    parts = [part[: int(count)] for part, count in zip(parts, counts, strict=True)]
    if rows.requires_grad:
        rows.register_hook(lambda gradient: gradient * size)  # type: ignore[no-untyped-call]
        parts[rank] = rows
    return torch.cat(parts)


def average_gradients(module: nn.Module) -> None:
    """Replace each gradient of a module by its mean over the processes."""
    size = place()[1]
    if size == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= size


def first_decides(decision: bool, device: torch.device) -> bool:
    """The decision of the first process, in all of them."""
    if place()[1] == 1:
        return decision
    told = torch.tensor([int(decision)], device=device)
    dist.broadcast(told, 0)
    return bool(told.item())


def share_names(names: set[str] | None) -> None:
    """Add to a set what the other processes have in theirs."""
    size = place()[1]
    if names is None or size == 1:
        return
    found: list[set[str]] = [set() for _ in range(size)]
    dist.all_gather_object(found, names)
    names.update(*found)
