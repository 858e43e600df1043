"""The networks by name: one place that knows which exist and how they are fed."""

from __future__ import annotations

from torch import nn

from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "NETWORKS", "build_network"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NETWORKS: dict[str, type[SqueezeFacePoseNet]] = {"squeezefaceposenet": SqueezeFacePoseNet}


def build_network(name: str, *, batch_norm: bool = False, dropout: float = 0.0) -> nn.Module:
    """Make a descriptor network by name, without any training head.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.
    batch_norm : bool, default=False
        Batch normalisation after each convolution, folded away by export.
    dropout : float, default=0.0
        Share dropped before the last convolution in training; 0.5 in the paper.

    Returns
    -------
    torch.nn.Module
        Maps normalised images (n, 3, h, w) to non-negative descriptors (n, 1000).

    Raises
    ------
    ValueError
        If there is no network of that name.

    Examples
    --------
    >>> from sfpose.networks import build_network
    >>> build_network("squeezefaceposenet").descriptor_size
    1000
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {sorted(NETWORKS)}; got {name!r}")
    return NETWORKS[name](batch_norm=batch_norm, dropout=dropout)
