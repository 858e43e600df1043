"""Celebrities in Frontal-Profile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfpose._checks import check_whole
from sfpose.protocols.pose_folder import PoseFolder
from sfpose.protocols.trials import Trials, all_pairs

__all__ = ["CFP"]


class CFP(PoseFolder):
    """Images of people in two poses, and all comparisons between them.

    The comparisons are all pairs of the selected people, not the ten folds of the
    original protocol: more of them, from the same images. Parameters, attributes and
    errors are those of ``PoseFolder``; CFP's own layout is
    ``001/frontal/01.jpg``, ``001/profile/01.jpg``.

    References
    ----------
    Sengupta et al., "Frontal to profile face verification in the wild", WACV 2016.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sfpose.protocols import CFP
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for person in ("001", "002"):
    ...         for pose in ("frontal", "profile"):
    ...             (Path(root) / person / pose).mkdir(parents=True)
    ...             Image.new("RGB", (30, 40)).save(f"{root}/{person}/{pose}/01.jpg")
    ...     trials = CFP(root).trials("frontal", "profile")
    >>> len(trials), int(trials.is_genuine.sum())
    (4, 2)
    """

    def trials(self, first: str = "frontal", second: str = "profile") -> Trials:
        """All pairs of images of two poses; of one pose, each pair once.

        Parameters
        ----------
        first, second : str
            Poses.

        Returns
        -------
        Trials

        Raises
        ------
        ValueError
            If no image shows a pose.
        """
        if first == second:
            return all_pairs(self.subjects, self.rows(first))
        return all_pairs(self.subjects, self.rows(first), self.rows(second))

    def template_rows(self, pose: str, count: int) -> NDArray[np.int64]:
        """Rows of the first ``count`` images of each person in one pose.

        Parameters
        ----------
        pose : str
        count : int

        Returns
        -------
        int64 array of shape (people * count,)

        Raises
        ------
        ValueError
            If no image shows the pose, somebody has fewer images of it, or ``count`` is no whole
            number above 0.
        """
        check_whole(count, "count", 1)
        rows = self.rows(pose)
        chosen = []
        for person in np.unique(self.subjects):
            own = rows[self.subjects[rows] == person]
            if len(own) < count:
                raise ValueError(
                    f"a template of {count} needs as many {pose} images of each person; "
                    f"{person} has {len(own)}"
                )
            chosen.append(own[:count])
        return np.sort(np.concatenate(chosen))
