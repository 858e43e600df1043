"""TemplateVerifier: distances, a calibrated threshold, a decision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import UNUSED

from sfpose._calibrated import Calibrated
from sfpose._calibration import Calibrator, check_parameters, check_poses_given
from sfpose._checks import as_array, check_groups
from sfpose._cohort import Cohort
from sfpose._estimators import NeedsNoFit
from sfpose._scoring import Floats, check_descriptors, chi2_matrix, chi2_of_checked, chi2_pairs
from sfpose.decision import (
    Condition,
    DescriptorForm,
    Poses,
    Rule,
    VerificationResult,
    Weights,
    choose_condition,
    shipped_rule,
)
from sfpose.templates import mean_of

__all__ = ["TemplateVerifier", "VerificationResult"]


class TemplateVerifier(NeedsNoFit, BaseEstimator):  # type: ignore[misc]
    """Decide whether descriptors or templates belong to the same person.

    By the chi-square distance (Alonso-Fernandez et al., section 4); before ``fit``, by thresholds
    that ship with the weights. ``fit`` calibrates on your own people, cameras and poses, which a
    threshold in use should rest on if there are fifty people or more.

    Parameters
    ----------
    target_fmr : float, default=1e-3
        False match rate to calibrate for: how often strangers may be taken for one person.
    weights : str or path, default="default"
        Artifact that makes the descriptors, whose calibration serves before ``fit``.
        Descriptors of another width or normalization than the threshold was calibrated on are
        refused; so is all after a ``fit`` on these weights if others are there now.
    groups : "size", "pose", sequence of both, or None, default="size"
        What ``fit`` calibrates thresholds apart for. ``"size"``: how many images make template and
        probe, since means of several lie closer together, strangers included. ``"pose"``: each
        pair of poses, told to ``fit`` and ``verify`` then. Without ``"size"``, the threshold of
        single images decides about several too, too kindly, as ``caution`` says.
    template_sizes : sequence of (int, int) or array of shape (k, 2), optional
        Images of template and probe that ``"size"`` calibrates for, all possible with the data; by
        default up to 5 a side, 10 against 1 and 10, where 3 false matches are expected.
    max_pairs : int, default=5_000_000
        ``fit`` compares all pairs of different people if they are at most so many, else a
        random sample of so many, each once; all pairs of the same person always.
    random_state : int, default=0
        Seeds that sample, and whose images make a template where no poses are given; at least 0.
    n_jobs : int, default=None
        Threads for scoring. None means one unless in a ``joblib.parallel_config``, -1 means
        all processors; the result has the same bits for any number.

    Attributes
    ----------
    threshold_ : float
        Largest distance that is accepted of one descriptor a side in any pose, by the
        size that decides about these. This and what follows are there only after ``fit``.
    calibration_ : ThresholdCalibration
        Target and achieved rates, counts and intervals of it.
    calibrations_ : dict of Condition to ThresholdCalibration
        The same for every kind of comparison.
    n_features_in_ : int
        Width of the descriptors.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose import TemplateVerifier
    >>> rng = np.random.default_rng(0)
    >>> subjects = np.repeat(np.arange(40), 5)
    >>> descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 50)), 5, axis=0) * 9)
    >>> verifier = TemplateVerifier(target_fmr=0.01).fit(descriptors, subjects)
    >>> bool(verifier.verify(descriptors[:3], descriptors[4]))
    True
    """

    # What scikit-learn calls X and y; poses and numbers of images can be routed.
    __metadata_request__fit: ClassVar = {"descriptors": UNUSED, "subjects": UNUSED}
    __metadata_request__predict: ClassVar = {"A": UNUSED}
    __metadata_request__decision_function: ClassVar = {"A": UNUSED}

    _cohort: Cohort | None = None
    _loaded: tuple[object, Weights] = (object(), "")

    def __init__(
        self,
        target_fmr: float = 1e-3,
        *,
        weights: str | os.PathLike[str] = "default",
        groups: str | Sequence[str] | None = "size",
        template_sizes: ArrayLike | None = None,
        max_pairs: int = 5_000_000,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.target_fmr = target_fmr
        self.weights = weights
        self.groups = groups
        self.template_sizes = template_sizes
        self.max_pairs = max_pairs
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(
        self,
        descriptors: ArrayLike,
        subjects: ArrayLike,
        *,
        poses: ArrayLike | None = None,
        cohort: ArrayLike | None = None,
    ) -> TemplateVerifier:
        """Calibrate thresholds on descriptors of known people.

        Parameters
        ----------
        descriptors : array of shape (n, d), values >= 0
            As ``FaceEmbedder.transform`` gives them. Templates of several are of images drawn at
            random; with ``poses``, of all in turn (strangers' of several), or of one for each pair.
        subjects : array of shape (n,)
            Whose each descriptor is. None of them should be among those whose errors
            are measured later.
        poses : array of shape (n,), optional
            Pose of each image, such as ``"frontal"`` and ``"profile"``; needed with
            ``groups`` of ``"pose"``, and refused without.
        cohort : array of shape (m, d), values >= 0, m >= 100, optional
            Descriptors of other people, one each, of all kinds that will be compared. All
            distances are normalised by them from then on (adaptive S-norm), so that the
            threshold holds for kinds of people whom ``subjects`` lack too.

        Returns
        -------
        TemplateVerifier
            Itself.

        Raises
        ------
        ValueError
            If descriptors, cohort or a parameter are refused, lengths differ, there is only one
            person, or nobody has two, or ``poses`` are missing or not asked for.

        Warns
        -----
        SmallSampleWarning
            If there are too few impostor pairs for ``target_fmr``, or fewer than 10 people.
        UserWarning
            If people's own distances are not the smaller ones: see ``calibrate_threshold``.
        """
        groups, sizes = self._checked()
        rows = check_descriptors(as_array(descriptors, "descriptors must have shape (n, d)"))
        form = DescriptorForm.of_rows(rows, self._source())
        strangers = None if cohort is None else Cohort(cohort, form)
        check_poses_given(groups, poses)
        calibrator = Calibrator(
            rows,
            subjects,
            poses,
            cohort=strangers,
            max_pairs=self.max_pairs,
            random_state=self.random_state,
            n_jobs=self.n_jobs,
        )
        if "size" not in groups:
            sizes = ((1, 1),)
        all_needed = self.template_sizes is not None
        found = calibrator.run(sizes, [self.target_fmr], needed=len(sizes) if all_needed else 1)
        return self._learned(found, form, strangers)

    def _learned(
        self, found: dict[Condition, Calibrated], form: DescriptorForm, cohort: Cohort | None
    ) -> TemplateVerifier:
        self._calibrated, self._form, self._cohort = found, form, cohort
        self._calibrated_groups = check_groups(self.groups)
        self.calibrations_ = {condition: known.thresholds[0] for condition, known in found.items()}
        self.calibration_ = self.calibrations_[choose_condition(found, Condition())]
        self.threshold_: float = self.calibration_.threshold
        self.n_features_in_: int = form.size
        return self

    def _check_form(self, **sides: Floats) -> None:
        """Refuse descriptors that the threshold was not calibrated for."""
        form: DescriptorForm | None = getattr(self, "_form", None)
        if form is None or form.digest is not None:
            now = DescriptorForm.of_weights(self._source())
            if form is not None:
                now.check_network(form.digest, "the threshold", f"weights {str(self.weights)!r}")
            form = now
        for name, rows in sides.items():
            form.check(rows, name)

    def _distances(self, A: ArrayLike, B: ArrayLike) -> NDArray[np.float64]:
        """Distances to decide by, of rows that the threshold was calibrated for."""
        first, second = check_descriptors(A, name="A"), check_descriptors(B, name="B")
        self._check_form(A=first, B=second)
        distances = chi2_of_checked(first, second, n_jobs=self.n_jobs)
        return self._normalised(distances, first, second).astype(np.float64)

    def _normalised(self, distances: Floats, A: ArrayLike, B: ArrayLike) -> Floats:
        """Distances over what strangers are at, after a fit with a cohort."""
        if self._cohort is None:
            return distances
        near = self._cohort.nearness_of_both(A, B, n_jobs=self.n_jobs)
        return self._cohort.normalised(distances, *near)

    def _source(self) -> Weights:
        """The weights; out of a bundle, what they said of themselves when it was loaded."""
        return self._loaded[1] if self.weights == self._loaded[0] else self.weights

    def _checked(self) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
        """Groups and template sizes to calibrate for; ValueError if a parameter is refused."""
        asked = self.target_fmr, self.template_sizes, self.max_pairs, self.random_state
        return check_groups(self.groups), check_parameters(*asked)

    def decision_rule(
        self, template_images: int = 1, probe_images: int = 1, poses: Poses = None
    ) -> Rule:
        """What decides about a comparison: its threshold, without a decision.

        Parameters and errors are those of ``decision_function``.

        Returns
        -------
        Rule
            ``threshold``, ``target_fmr`` and ``caution``: of the fit, or before it as shipped.
        """
        fitted = hasattr(self, "_calibrated")
        groups = self._calibrated_groups if fitted else check_groups(self.groups)
        if poses is not None and "pose" not in groups:
            raise ValueError(f'poses decide only where groups hold "pose"; got {groups}')
        wanted = Condition.of(template_images, probe_images, poses)
        used = wanted if "size" in groups else Condition.of(1, 1, wanted.poses)
        if fitted:
            rule = self._calibrated[choose_condition(self._calibrated, used)].rule()
        else:
            rule = shipped_rule(self._source(), self.target_fmr, used)
        return rule if used == wanted else rule.of_single_images()

    def score_pairs(self, A: ArrayLike, B: ArrayLike) -> Floats:
        """Distance of row i of ``A`` with row i of ``B``: chi-square, or normalised.

        Parameters
        ----------
        A, B : arrays of shape (n, d), values >= 0

        Returns
        -------
        array of shape (n,)
            float32 if both inputs are float32 and no cohort was fitted, else float64.

        Raises
        ------
        ValueError
            If an input is negative, NaN, infinite, empty or of another shape.
        """
        return self._normalised(chi2_pairs(A, B, n_jobs=self.n_jobs), A, B)

    def score_matrix(self, A: ArrayLike, B: ArrayLike) -> Floats:
        """Distance of each row of ``A`` with each row of ``B``: chi-square, or normalised.

        Errors and types are those of ``score_pairs``.

        Parameters
        ----------
        A : array of shape (n, d), values >= 0
        B : array of shape (m, d), values >= 0

        Returns
        -------
        array of shape (n, m)
        """
        return self._normalised(chi2_matrix(A, B, n_jobs=self.n_jobs), A, B)

    def decision_function(
        self,
        A: ArrayLike,
        B: ArrayLike,
        *,
        template_images: int = 1,
        probe_images: int = 1,
        poses: Poses = None,
    ) -> NDArray[np.float64]:
        """Threshold minus distance of row i of both: at least 0 means accepted.

        Parameters
        ----------
        A, B : arrays of shape (n, d), values >= 0
        template_images, probe_images : int, default=1
            Of how many images each row of ``A`` and of ``B`` is the mean.
        poses : pair of str or int, optional
            Pose of the images of ``A`` and of ``B``, where ``groups`` hold ``"pose"``;
            the threshold of all poses if not given.

        Returns
        -------
        array of shape (n,)

        Raises
        ------
        ValueError
            If an input is refused or nothing was calibrated for such comparisons.
        """
        rule = self.decision_rule(template_images, probe_images, poses)
        return rule.threshold - self._distances(A, B)

    def predict(
        self,
        A: ArrayLike,
        B: ArrayLike,
        *,
        template_images: int = 1,
        probe_images: int = 1,
        poses: Poses = None,
    ) -> NDArray[np.bool_]:
        """Whether row i of ``A`` and row i of ``B`` show the same person.

        Parameters and errors are those of ``decision_function``.

        Returns
        -------
        bool array of shape (n,)
        """
        margins = self.decision_function(
            A, B, template_images=template_images, probe_images=probe_images, poses=poses
        )
        return np.asarray(margins >= 0)

    def log_likelihood_ratio(
        self,
        A: ArrayLike,
        B: ArrayLike,
        *,
        template_images: int = 1,
        probe_images: int = 1,
        poses: Poses = None,
    ) -> NDArray[np.float64]:
        """How much more likely each distance is for one person than for two.

        Parameters and errors are those of ``decision_function``.

        Returns
        -------
        float64 array of shape (n,)
            Natural logarithms, by logistic calibration: above 0 speaks for one person.
        """
        rule = self.decision_rule(template_images, probe_images, poses)
        return np.asarray(rule.slope * self._distances(A, B) + rule.intercept)

    def verify(
        self,
        template: ArrayLike,
        probe: ArrayLike,
        *,
        template_images: int | None = None,
        probe_images: int | None = None,
        poses: Poses = None,
    ) -> VerificationResult:
        """Decide about one template and one probe.

        Parameters
        ----------
        template, probe : array of shape (d,) or (n, d), values >= 0
            A descriptor, or those of several images, whose mean is taken.
        template_images, probe_images : int, optional
            Of how many images either side is made; its number of rows if not given.
        poses : pair of str or int, optional
            Pose of template and of probe, where ``groups`` hold ``"pose"``.

        Returns
        -------
        VerificationResult

        Raises
        ------
        ValueError
            If an input is refused, or there is neither a fit nor a shipped calibration for
            ``target_fmr``, so many images and these poses.
        """
        first = check_descriptors(template, name="template", one=True)
        second = check_descriptors(probe, name="probe", one=True)
        rule = self.decision_rule(
            len(first) if template_images is None else template_images,
            len(second) if probe_images is None else probe_images,
            poses,
        )
        self._check_form(template=first, probe=second)
        means = [mean_of(rows)[None] for rows in (first, second)]
        return rule.decide(float(self._normalised(chi2_pairs(*means), *means)[0]))
