"""The torch modules of descriptor networks, one file an architecture, one registry.

They may import torch and each other, nothing else of the library; inference does
not need them.
"""

from sfpose.networks.facelandmarknet import FaceLandmarkNet
from sfpose.networks.registry import NETWORKS, build_network
from sfpose.networks.squeezefaceposenet import Fire, SqueezeFacePoseNet

__all__ = ["NETWORKS", "FaceLandmarkNet", "Fire", "SqueezeFacePoseNet", "build_network"]
