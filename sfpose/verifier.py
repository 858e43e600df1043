"""TemplateVerifier: distances, a calibrated threshold, a decision."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from sfpose._scoring import check_descriptors, chi2_matrix, chi2_pairs, chi2_pairs_at
from sfpose.decision import VerificationResult, shipped_threshold
from sfpose.metrics.thresholds import ThresholdCalibration, calibrate_threshold

__all__ = ["TemplateVerifier", "VerificationResult"]


class TemplateVerifier(BaseEstimator):  # type: ignore[misc]
    """Decide whether descriptors or templates belong to the same person.

    Before ``fit``, decisions rest on the calibration that ships with the weights.
    ``fit`` replaces it by one on your own people, cameras and poses, which is what a
    threshold in use should rest on.

    Parameters
    ----------
    target_fmr : float, default=1e-3
        False match rate to calibrate for: how often two different people may be
        taken for the same.
    weights : str or path, default="default"
        Artifact whose shipped calibration serves before ``fit``.
    max_pairs : int, default=5_000_000
        ``fit`` compares all pairs of different people up to this number, else a
        random sample of this size; all pairs of the same person always.
    random_state : int, default=0
        Seeds that sample.
    n_jobs : int, default=None
        Threads for scoring. None means one, -1 means all processors; the result has
        the same bits for any number.

    Attributes
    ----------
    threshold_ : float
        Largest distance that is accepted; only after ``fit``.
    calibration_ : ThresholdCalibration
        Target and achieved rates, counts and interval; only after ``fit``.
    n_features_in_ : int
        Width of the descriptors; only after ``fit``.

    See Also
    --------
    FaceEmbedder : From images to descriptors.
    build_templates : From descriptors of several images to templates.

    References
    ----------
    Alonso-Fernandez et al., section 4: chi-square distance of mean descriptors.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import TemplateVerifier
    >>> rng = np.random.default_rng(0)
    >>> subjects = np.repeat(np.arange(40), 5)
    >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
    >>> verifier = TemplateVerifier(target_fmr=0.01).fit(descriptors, subjects)
    >>> verifier.calibration_.people
    40
    >>> bool(verifier.verify(descriptors[:3], descriptors[4]))
    True
    """

    def __init__(
        self,
        target_fmr: float = 1e-3,
        *,
        weights: str | os.PathLike[str] = "default",
        max_pairs: int = 5_000_000,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.target_fmr = target_fmr
        self.weights = weights
        self.max_pairs = max_pairs
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, descriptors: ArrayLike, subjects: ArrayLike) -> TemplateVerifier:
        """Calibrate the threshold on descriptors of known people.

        Parameters
        ----------
        descriptors : array of shape (n, d), values >= 0
            As ``FaceEmbedder.transform`` gives them, or templates.
        subjects : array of shape (n,)
            Whose each descriptor is. None of them should be among those whose errors
            are measured later.

        Returns
        -------
        TemplateVerifier
            Itself.

        Raises
        ------
        ValueError
            If descriptors are refused, lengths differ, there is only one person, or
            nobody has two descriptors.

        Warns
        -----
        SmallSampleWarning
            If there are too few impostor pairs for ``target_fmr``.
        """
        rows = check_descriptors(descriptors)
        people = np.asarray(subjects)
        if people.shape != (len(rows),):
            raise ValueError(
                f"subjects must name one person for each descriptor, shape ({len(rows)},); "
                f"got {people.shape}"
            )
        names, codes = np.unique(people, return_inverse=True)
        if len(names) < 2:
            raise ValueError(
                "a calibration needs at least two people, or there is no impostor pair; "
                f"got {len(names)}"
            )
        first, second = self._pairs(codes)
        genuine = codes[first] == codes[second]
        if not genuine.any():
            raise ValueError(
                "a calibration needs at least one person with two descriptors; everyone has one"
            )
        distances = chi2_pairs_at(rows, first, second, n_jobs=self.n_jobs)
        self.calibration_: ThresholdCalibration = calibrate_threshold(
            distances, genuine, self.target_fmr, people=names.tolist()
        )
        self.threshold_: float = self.calibration_.threshold
        self.n_features_in_: int = rows.shape[1]
        return self

    def _pairs(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All genuine pairs, and all or a sample of the impostor pairs, as indices."""
        count = len(codes)
        if count * (count - 1) // 2 <= self.max_pairs:
            first, second = np.triu_indices(count, 1)
            return first, second
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) > 0])
        groups = np.split(order, starts[1:])
        genuine = np.concatenate(
            [group[np.stack(np.triu_indices(len(group), 1))] for group in groups], axis=1
        )
        rng = np.random.default_rng(self.random_state)
        drawn = rng.integers(0, count, (2, self.max_pairs))
        drawn = drawn[:, codes[drawn[0]] != codes[drawn[1]]]
        both = np.concatenate([genuine, drawn], axis=1)
        return both[0], both[1]

    def _decision(self) -> tuple[float, float]:
        """Threshold and target FMR that decisions rest on."""
        if hasattr(self, "threshold_"):
            return self.threshold_, self.calibration_.target_fmr
        return shipped_threshold(self.weights, self.target_fmr), self.target_fmr

    def score_pairs(self, A: ArrayLike, B: ArrayLike) -> NDArray[np.floating[Any]]:
        """Chi-square distance of row i of ``A`` with row i of ``B``.

        Parameters
        ----------
        A, B : arrays of shape (n, d), values >= 0

        Returns
        -------
        array of shape (n,)
            float32 if both inputs are float32, else float64.

        Raises
        ------
        ValueError
            If an input is negative, NaN, infinite, empty or of another shape.
        """
        return chi2_pairs(A, B, n_jobs=self.n_jobs)

    def score_matrix(self, A: ArrayLike, B: ArrayLike) -> NDArray[np.floating[Any]]:
        """Chi-square distance of each row of ``A`` with each row of ``B``.

        Parameters
        ----------
        A : array of shape (n, d), values >= 0
        B : array of shape (m, d), values >= 0

        Returns
        -------
        array of shape (n, m)
            float32 if both inputs are float32, else float64.

        Raises
        ------
        ValueError
            If an input is negative, NaN, infinite, empty or of another width.
        """
        return chi2_matrix(A, B, n_jobs=self.n_jobs)

    def decision_function(self, A: ArrayLike, B: ArrayLike) -> NDArray[np.floating[Any]]:
        """Threshold minus distance of row i of both: at least 0 means accepted.

        Parameters
        ----------
        A, B : arrays of shape (n, d), values >= 0

        Returns
        -------
        array of shape (n,)
        """
        threshold, _ = self._decision()
        return threshold - self.score_pairs(A, B).astype(np.float64)

    def predict(self, A: ArrayLike, B: ArrayLike) -> NDArray[np.bool_]:
        """Whether row i of ``A`` and row i of ``B`` show the same person.

        Parameters
        ----------
        A, B : arrays of shape (n, d), values >= 0

        Returns
        -------
        bool array of shape (n,)
        """
        return np.asarray(self.decision_function(A, B) >= 0)

    def verify(self, template: ArrayLike, probe: ArrayLike) -> VerificationResult:
        """Decide about one template and one probe.

        Parameters
        ----------
        template, probe : array of shape (d,) or (n, d), values >= 0
            A descriptor, or those of several images, whose mean is taken.

        Returns
        -------
        VerificationResult

        Raises
        ------
        ValueError
            If an input is refused, widths differ, or there is neither a fit nor a
            shipped calibration for ``target_fmr``.
        """
        first, second = _mean(template, "template"), _mean(probe, "probe")
        threshold, target = self._decision()
        distance = float(chi2_pairs(first, second)[0])
        return VerificationResult(distance <= threshold, distance, threshold, target)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "threshold_")


def _mean(descriptors: ArrayLike, name: str) -> NDArray[np.floating[Any]]:
    rows = np.asarray(descriptors)
    checked = check_descriptors(rows[None] if rows.ndim == 1 else rows, name=name)
    return np.asarray(checked.mean(axis=0, keepdims=True))
