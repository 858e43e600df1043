"""Values begun anew, as directions among a teacher's embeddings that are spread evenly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet
from sfpose.training.objectives import spread_directions

__all__ = ["spread_values"]


@torch.no_grad()
def spread_values(network: nn.Module, images: Tensor, targets: Tensor) -> int:
    """Begin the values of a descriptor anew, and filters of fire9 that fire for no image.

    A filter below zero for all images has no gradient and stays silent: in networks that learned
    without batch normalisation (``sfpose.training.normalising``) three in four of the 1000
    values are so. New values are what least squares give for
    ``spread_directions`` among the teacher's embeddings; new
    filters of fire9 are random combinations of those that fire.

    Parameters
    ----------
    network : nn.Module
        SqueezeFacePoseNet or a variant whose own values are its descriptor, without batch
        normalisation; changed in place.
    images : float Tensor of shape (n, 3, h, w)
        Normalised, of the kind that it will learn from; some thousands.
    targets : float Tensor of shape (n, d)
        What the teacher says of them, rows of length 1.

    Returns
    -------
    int
        Filters of fire9 that are new.

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
            "the network must be a SqueezeFacePoseNet whose own values, averages, are its "
            f"descriptor, without batch normalisation; got {type(network).__name__}"
        )
    network.eval()
    woken = _wake_maps(network, images[:512])
    _begin_values(network, images, targets)
    return woken


def _wake_maps(network: SqueezeFacePoseNet, images: Tensor) -> int:
    generator = torch.Generator().manual_seed(0)
    narrow: list[Tensor] = []
    hook = network.fire9.squeeze.register_forward_hook(
        lambda _module, _given, result: narrow.append(result)
    )
    for part in torch.split(images, 64):
        network.last_maps(part)
    hook.remove()
    given = torch.cat(narrow)
    woken = 0
    for layer in (network.fire9.expand1x1, network.fire9.expand3x3):
        convolution = layer[0]
        assert isinstance(convolution, nn.Conv2d)
        silent = convolution(given).amax((0, 2, 3)) <= 0
        # A depthwise filter sees a channel of its own, which no other can lend.
        if convolution.groups == 1 and bool(silent.any()):
            _combine(convolution, silent, given[:128], generator)
            woken += int(silent.sum())
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


def _begin_values(network: SqueezeFacePoseNet, images: Tensor, targets: Tensor) -> None:
    convolution = network.conv10[0]
    assert isinstance(convolution, nn.Conv2d)
    means = []
    for part in torch.split(images, 64):
        last = network.last_maps(part)
        means.append(last.mean((2, 3)))
    # Without normalisation images differ in how large all maps are.
    shares = torch.cat(means)
    known = (shares / shares.mean(1, keepdim=True)).double().numpy()
    ridge = Ridge(1e-3 * (known**2).mean() * len(known), fit_intercept=False)
    found = torch.from_numpy(ridge.fit(known, targets.double().numpy()).coef_).float()
    new = spread_directions(convolution.out_channels, len(found)) @ found
    responses = F.conv2d(last / last.mean(), new[:, :, None, None])
    spread = responses.transpose(0, 1).flatten(1).std(1)
    convolution.weight.copy_((new / spread[:, None])[:, :, None, None])
    convolution.get_parameter("bias").zero_()
