"""Filters that fire for no image, begun anew."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet

__all__ = ["wake_silent"]


@torch.no_grad()
def wake_silent(network: nn.Module, images: Tensor, targets: Tensor, *, seed: int = 0) -> int:
    """Begin those filters of fire9 and of conv10 anew that fire for no image.

    A filter below zero for all images has no gradient and stays silent. In networks that learned
    without batch normalisation most of the 1000 values are so
    (:mod:`sfpose.training.normalising`), and a descriptor has the room of the others alone. New
    filters of fire9 are random combinations of those that fire, new values what least squares give
    for directions among the teacher's embeddings, each beside its opposite.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet or a variant whose own values are its descriptor, without batch
        normalisation; changed in place.
    images : float Tensor of shape (n, 3, h, w)
        Normalised, of the kind that it will learn from; some thousands.
    targets : float Tensor of shape (n, d)
        What the teacher says of them, rows of length 1.
    seed : int, default=0

    Returns
    -------
    int
        Filters begun anew. What those that fired say does not change.

    Raises
    ------
    ValueError
        If the network is another one.
    """
    if (
        not isinstance(network, SqueezeFacePoseNet)
        or network.places is not None
        or network.map is not None
        or network.gdc is not None
        or network.conv10[0].bias is None
    ):
        raise ValueError(
            "the network to wake must be a SqueezeFacePoseNet whose own 1000 values, averages, are "
            f"its descriptor, without batch normalisation; got {type(network).__name__}"
        )
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    woken = _wake_maps(network, images[:512], generator)
    return woken + _wake_values(network, images, targets, generator)


def _wake_maps(network: SqueezeFacePoseNet, images: Tensor, generator: torch.Generator) -> int:
    narrow: list[Tensor] = []
    hook = network.fire9.squeeze.register_forward_hook(
        lambda _module, _given, result: narrow.append(result)
    )
    for part in torch.split(images, 64):
        network.last_maps(part)
    hook.remove()
    given = torch.cat(narrow)
    begin = woken = 0
    for layer in (network.fire9.expand1x1, network.fire9.expand3x3):
        convolution = layer[0]
        assert isinstance(convolution, nn.Conv2d)
        silent = convolution(given).amax((0, 2, 3)) <= 0
        # A depthwise filter sees a channel of its own, which no other can lend.
        if convolution.groups == 1 and bool(silent.any()):
            _combine(convolution, silent, given[:128], generator)
            # Nothing of what they say now is heard until conv10 has learned to.
            places = begin + torch.nonzero(silent)[:, 0]
            network.get_parameter("conv10.0.weight")[:, places] = 0
            woken += int(silent.sum())
        begin += len(silent)
    return woken


def _combine(
    convolution: nn.Conv2d, silent: Tensor, given: Tensor, generator: torch.Generator
) -> None:
    """Make silent filters random combinations of the others, below zero in half of all places."""
    side = convolution.kernel_size[0]
    seen = F.unfold(given, side, padding=side // 2).double()
    filters = convolution.weight[~silent].flatten(1).double()
    responses = torch.einsum("fk,nkp->fnp", filters, seen).flatten(1)
    length = responses.std(1, keepdim=True)
    drawn = torch.randn(int(silent.sum()), len(filters), generator=generator).double()
    new = drawn @ (filters / length)
    mean = seen.mean((0, 2))
    new -= (new @ mean / (mean @ mean))[:, None] * mean
    spread = torch.einsum("fk,nkp->fnp", new, seen).flatten(1).std(1, keepdim=True)
    new *= length.median() / spread
    convolution.weight[silent] = new.float().view(-1, *convolution.weight.shape[1:])
    convolution.get_parameter("bias")[silent] = 0


def _wake_values(
    network: SqueezeFacePoseNet, images: Tensor, targets: Tensor, generator: torch.Generator
) -> int:
    convolution = network.conv10[0]
    assert isinstance(convolution, nn.Conv2d)
    fires = torch.zeros(convolution.out_channels, dtype=torch.bool)
    values, maps = [], []
    for part in torch.split(images, 64):
        last = network.last_maps(part)
        responses = convolution(last)
        fires |= responses.amax((0, 2, 3)) > 0
        values.append(responses.relu().mean((2, 3)))
        maps.append(last.mean((2, 3)))
    count = int((~fires).sum())
    if not count:
        return 0
    sums = torch.cat(values).sum(1, keepdim=True)
    some = sums[:, 0] > 0
    # Shares, as a descriptor has them: without normalisation images differ in how large all is.
    shares = torch.cat(maps)[some] / sums[some]
    known = (shares / shares.mean()).double().numpy()
    ridge = Ridge(1e-3 * (known**2).mean() * len(known), fit_intercept=False)
    found = torch.from_numpy(ridge.fit(known, targets[some].double().numpy()).coef_)
    new = (_directions(len(found), (count + 1) // 2, generator) @ found).float()
    new = torch.cat([new, -new])[:count]
    spread = F.conv2d(last, new[:, :, None, None]).transpose(0, 1).flatten(1).std(1)
    usual = responses[:, fires].transpose(0, 1).flatten(1).std(1).median()
    convolution.weight[~fires] = (new * (usual / spread)[:, None])[:, :, None, None]
    convolution.get_parameter("bias")[~fires] = 0
    return count


def _directions(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Unit rows (count, size), spread evenly: one orthonormal basis after the other."""
    bases = []
    for _ in range(-(-count // size)):
        drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
        bases.append(torch.linalg.qr(drawn)[0])
    return torch.cat(bases)[:count]
