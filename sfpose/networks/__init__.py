"""The torch modules of descriptor networks, one file an architecture, one registry.

They may import torch and each other, nothing else of the library; inference does
not need them.
"""

from sfpose.networks.facelandmarknet import FaceLandmarkNet
from sfpose.networks.registry import NETWORKS, NetworkSpec, build_network
from sfpose.networks.squeezefaceposenet import Fire, SqueezeFacePoseNet
from sfpose.networks.summary import NetworkSummary, network_summary

__all__ = [
    "NETWORKS",
    "FaceLandmarkNet",
    "Fire",
    "NetworkSpec",
    "NetworkSummary",
    "SqueezeFacePoseNet",
    "build_network",
    "network_summary",
]
