"""The networks by name: one place that knows which exist and how they are fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from sfpose.networks.lightcnn29 import LightCNN29
from sfpose.networks.mobiface import MobiFace
from sfpose.networks.mobilefacenet import MobileFaceNet
from sfpose.networks.resnet50 import ResNet50
from sfpose.networks.seesawfacenet import SeesawFaceNet
from sfpose.networks.senet50 import SENet50
from sfpose.networks.several_looks import SeveralLooks
from sfpose.networks.shufflefacenet import ShuffleFaceNet
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NETWORKS",
    "VGGFACE2_MEAN",
    "VGGFACE2_STD",
    "NetworkSpec",
    "build_network",
    "check_non_negative",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGGFACE2_MEAN = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)
VGGFACE2_STD = (1 / 255, 1 / 255, 1 / 255)
"""Of RGB images from 0 to 1, for the published VGGFace2 weights; see fill_from_resnet."""


@dataclass(frozen=True)
class NetworkSpec:
    """A network of the registry.

    Attributes
    ----------
    name : str
    architecture : type
        The torch module.
    input_size : int
        Side of the images that it takes unless built for another size.
    descriptor_size : int
        Number of values.
    non_negative : bool
        Whether all values are >= 0. Those networks suit the chi-square distance; the
        values of the others have signs and suit the cosine.
    fixed_size : bool
        Whether a built network takes images of one size only.
    published_parameters : float, optional
        Millions, as the SqueezeFacePoseNet paper lists them, with the classifier's where
        ``published_classes`` says so.
    published_megabytes : float, optional
        As the paper lists them.
    published_milliseconds : float, optional
        One image on the paper's laptop.
    published_classes : int
        Outputs of the classifier that the published count includes.
    options : mapping
        What makes this variant of the architecture.

    Examples
    --------
    >>> from sfpose.networks import NETWORKS
    >>> spec = NETWORKS["mobilefacenet"]
    >>> spec.input_size, spec.descriptor_size, spec.distance
    (112, 128, 'cosine')
    """

    name: str
    architecture: type[nn.Module]
    input_size: int
    descriptor_size: int
    non_negative: bool
    fixed_size: bool
    published_parameters: float | None = None
    published_megabytes: float | None = None
    published_milliseconds: float | None = None
    published_classes: int = 0
    options: Mapping[str, bool | int] = field(default_factory=dict)

    @property
    def distance(self) -> str:
        """Distance that the descriptor suits: ``"chi-square"`` or ``"cosine"``."""
        return "chi-square" if self.non_negative else "cosine"


def _variant(
    suffix: str,
    parameters: float | None,
    megabytes: float | None,
    milliseconds: float | None,
    input_size: int = 113,
    **options: bool | int,
) -> NetworkSpec:
    return NetworkSpec(
        name="squeezefaceposenet" + suffix,
        architecture=SqueezeFacePoseNet,
        input_size=input_size,
        descriptor_size=256 if options.get("mapped") else 1000,
        non_negative=True,
        fixed_size="gdc" in options or "places" in options,
        published_parameters=parameters,
        published_megabytes=megabytes,
        published_milliseconds=milliseconds,
        options=MappingProxyType(options),
    )


_SPECS = (
    _variant("", 1.24, 4.41, 37.7),
    _variant("+gdc", 1.4, 5.01, 38.7, gdc=True),
    _variant("+dwc", 0.69, 2.5, 36.4, dwc=True),
    _variant("+dwc+gdc", 0.86, 3.1, 36.9, dwc=True, gdc=True),
    _variant("+residual", None, None, None, residual=True),
    _variant("+preactivation", None, None, None, residual=True, preactivation=True),
    _variant("+deeper", None, None, None, deeper=4),
    _variant("+deeper+map", None, None, None, deeper=4, mapped=True),
    _variant("+deeper7", None, None, None, deeper=7),
    _variant("+deeper7+map", None, None, None, deeper=7, mapped=True),
    # Their weights are those of places, and they were taught at 64.
    _variant("+places+map", None, None, None, 64, places=64, mapped=True),
    _variant(
        "+tight+places+map", None, None, None, 76, places=64, mapped=True, values=256, tight=True
    ),
    _variant("+deeper7+places+map", None, None, None, 64, deeper=7, places=64, mapped=True),
    NetworkSpec("squeezefaceposenet+centre+places+map", SeveralLooks, 100, 256, True, True),
    NetworkSpec(
        "squeezefaceposenet+centre+coarse+places+map",
        SeveralLooks,
        100,
        256,
        True,
        True,
        options=MappingProxyType({"coarse": True, "values": 256}),
    ),
    NetworkSpec("resnet50", ResNet50, 224, 2048, True, False, 25.6, 146, 160, 1000),
    NetworkSpec("senet50", SENet50, 224, 2048, True, False, 28.1, 155, 210, 1000),
    NetworkSpec("lightcnn29", LightCNN29, 128, 256, False, True, 12.6),
    NetworkSpec("mobilefacenet", MobileFaceNet, 112, 128, False, True, 0.99, 4),
    NetworkSpec("mobiface", MobiFace, 112, 512, False, True, None, 11.3),
    NetworkSpec("shufflefacenet", ShuffleFaceNet, 112, 128, False, True, 2.6, 10.5),
    NetworkSpec("seesawfacenet", SeesawFaceNet, 112, 512, False, True, 1.3),
)

NETWORKS: Mapping[str, NetworkSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every network by its name."""


def _spec(name: str) -> NetworkSpec:
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {sorted(NETWORKS)}; got {name!r}")
    return NETWORKS[name]


def build_network(
    name: str,
    *,
    batch_norm: bool | None = None,
    dropout: float = 0.0,
    input_size: int | None = None,
) -> nn.Module:
    """Make a descriptor network by name, without any training head.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.
    batch_norm : bool, optional
        Batch normalisation after each convolution, folded away by export. None does
        what the network's paper does: no for SqueezeFacePoseNet and LightCNN-29, which
        never has it, yes for the others. False builds the network that export leaves.
    dropout : float, default=0.0
        Share dropped before the last layer in training; 0.5 in the paper.
    input_size : int, optional
        Side of the images in pixels; that of the network's paper if not given.

    Returns
    -------
    torch.nn.Module
        Maps normalised images (n, 3, input_size, input_size) to descriptors
        (n, descriptor_size).

    Raises
    ------
    ValueError
        If there is no network of that name, or ``input_size`` does not suit it.

    Examples
    --------
    >>> from sfpose.networks import NETWORKS, build_network
    >>> network = build_network("squeezefaceposenet+dwc")
    >>> sum(p.numel() for p in network.parameters())
    694056
    >>> NETWORKS["squeezefaceposenet+dwc"].descriptor_size
    1000
    """
    spec = _spec(name)
    options = dict(spec.options)
    if batch_norm is not None:
        options["batch_norm"] = batch_norm
    size = spec.input_size if input_size is None else input_size
    if size < 1:
        raise ValueError(f"input_size must be at least 1; got {size}")
    return spec.architecture(dropout=dropout, input_size=size, **options)


def check_non_negative(name: str) -> None:
    """Refuse a network whose descriptor the chi-square distance cannot compare.

    Parameters
    ----------
    name : str
        One of ``NETWORKS``.

    Raises
    ------
    ValueError
        If there is no network of that name, or its values have signs.

    Examples
    --------
    >>> from sfpose.networks.registry import check_non_negative
    >>> check_non_negative("resnet50")  # says nothing: its values are >= 0
    """
    if not _spec(name).non_negative:
        suited = sorted(other.name for other in _SPECS if other.non_negative)
        raise ValueError(
            "the descriptor must be non-negative, because faces are compared by the chi-square "
            f"distance: network must be one of {suited}; got {name!r}, whose values have signs "
            "and suit the cosine"
        )
