"""Training with torch: data, augmentation, objectives, loop, checkpoints, export.

May import ``networks``, ``alignment``, ``geometry``, ``runtime`` and torch; nothing that
runs at inference imports it, except ``FaceEmbedder.fit`` from inside.
"""

from sfpose.training.identification import IdentificationSettings, train_identification
from sfpose.training.landmarks import train_landmarks
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.recipes import DistillationRecipe, distil

__all__ = [
    "DistillationRecipe",
    "IdentificationSettings",
    "LoopSettings",
    "Stage",
    "distil",
    "train",
    "train_identification",
    "train_landmarks",
]
