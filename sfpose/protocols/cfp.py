"""Celebrities in Frontal-Profile."""

from __future__ import annotations

import numpy as np

from sfpose.protocols.pose_folder import PoseFolder
from sfpose.protocols.trials import Trials, all_pairs, first_of_each

__all__ = ["CFP"]


class CFP(PoseFolder):
    """Images of people in two poses, and all comparisons between them.

    The comparisons are all pairs of the selected people, not the ten folds of the
    original protocol: more of them, from the same images. Parameters, attributes and
    errors are those of :class:`PoseFolder`; CFP's own layout is
    ``001/frontal/01.jpg``, ``001/profile/01.jpg``.

    References
    ----------
    Sengupta et al., "Frontal to profile face verification in the wild", WACV 2016.
    """

    def trials(self, first: str = "frontal", second: str = "profile") -> Trials:
        """All pairs of images of two poses; of one pose, each pair once.

        Parameters
        ----------
        first, second : str
            Poses.
        """
        if first == second:
            return all_pairs(self.subjects, self.rows(first))
        return all_pairs(self.subjects, self.rows(first), self.rows(second))

    def template_rows(self, pose: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows of the first ``count`` images of each person in one pose."""
        return first_of_each(self.subjects, self.rows(pose), count)
