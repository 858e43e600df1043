"""Training with torch: data, augmentation, objectives, loop, checkpoints, export.

May import ``networks``, ``alignment``, ``geometry``, ``preprocessing``, ``protocols``,
``runtime`` and torch; nothing that runs at inference imports it, except
``FaceEmbedder.fit`` from inside.
"""

from sfpose.training.identification import IdentificationSettings, train_identification
from sfpose.training.landmarks import train_landmarks
from sfpose.training.loop import LoopSettings, Stage, train
from sfpose.training.paper import PaperRecipe, PaperStage, train_paper
from sfpose.training.recipes import DistillationRecipe, distil

__all__ = [
    "DistillationRecipe",
    "IdentificationSettings",
    "LoopSettings",
    "PaperRecipe",
    "PaperStage",
    "Stage",
    "distil",
    "train",
    "train_identification",
    "train_landmarks",
    "train_paper",
]
