"""Who is compared with whom: data sets as tables of images and lists of trials.

May import numpy and ``preprocessing``; a protocol never embeds or scores anything.
"""

from sfpose.protocols.cfp import CFP
from sfpose.protocols.files import ImageFiles, LazyImages
from sfpose.protocols.lfw import LFW
from sfpose.protocols.pose_folder import PoseFolder
from sfpose.protocols.trials import Trials, all_pairs
from sfpose.protocols.vggface2_pose import PoseTemplates, VGGFace2Pose

__all__ = [
    "CFP",
    "LFW",
    "ImageFiles",
    "LazyImages",
    "PoseFolder",
    "PoseTemplates",
    "Trials",
    "VGGFace2Pose",
    "all_pairs",
]
