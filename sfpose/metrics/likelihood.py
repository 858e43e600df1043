"""Distances as likelihood ratios: calibration, and what a calibration costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.metadata_routing import UNUSED

from sfpose.metrics._checks import as_numbers, check_ratios, check_scores

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = [
    "LikelihoodRatioCalibrator",
    "log_likelihood_ratio_cost",
    "minimum_log_likelihood_ratio_cost",
]

_FARTHEST = 1e6
"""Median deviations from the median beyond which a distance no longer counts as farther."""


def log_likelihood_ratio_cost(log_likelihood_ratios: ArrayLike, is_genuine: ArrayLike) -> float:
    """Cllr: how much information the ratios lose, in bits; 1 is that of knowing nothing.

    Parameters
    ----------
    log_likelihood_ratios : array of shape (n,)
        Natural logarithms of P(comparison | same person) / P(comparison | different
        people): *larger* means more alike. Infinite values are allowed.
    is_genuine : bool array of shape (n,)

    Returns
    -------
    float
        0 for perfect ratios; infinite if an infinite ratio is wrong.

    Raises
    ------
    ValueError
        If shapes differ, a ratio is NaN, or one kind of comparison is missing.

    References
    ----------
    Brummer and du Preez, "Application-independent evaluation of speaker detection",
    Computer Speech and Language, 2006.

    Examples
    --------
    >>> from sfpose.metrics import log_likelihood_ratio_cost
    >>> log_likelihood_ratio_cost([0.0, 0.0], [True, False])
    1.0
    """
    ratios, genuine = check_ratios(log_likelihood_ratios, is_genuine)
    # log(1 + exp(x)) as logaddexp, which neither overflows nor loses small values.
    missed = np.logaddexp(0.0, -ratios[genuine]).mean()
    accepted = np.logaddexp(0.0, ratios[~genuine]).mean()
    return float((missed + accepted) / 2 / np.log(2))


def _isotonic_ratios(
    scores: NDArray[np.float64], genuine: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct distances, rising, and the best falling log ratio of each (PAV)."""
    from sklearn.isotonic import isotonic_regression

    distances, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place)
    own = np.bincount(place, weights=genuine)
    posterior = isotonic_regression(
        own / counts, sample_weight=counts, y_min=0.0, y_max=1.0, increasing=False
    )
    share = genuine.mean()
    with np.errstate(divide="ignore"):
        ratios = np.log(posterior) - np.log1p(-posterior)
    return distances, ratios - (np.log(share) - np.log1p(-share))


def _logistic_line(scores: NDArray[np.float64], genuine: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of standardised scores."""
    from sklearn.linear_model import LogisticRegression

    # Both kinds weigh the same, so that log-odds are log-likelihood ratios: prior odds of 1. And
    # no more than the rarer one has comparisons, which is what the line must be as sure as:
    # where kinds do not overlap, only the penalty (of 1, the default) ends its slope.
    counts = np.where(genuine, genuine.sum(), (~genuine).sum())
    model = LogisticRegression(solver="newton-cholesky", tol=1e-9, max_iter=1000)
    model.fit(scores[:, None], genuine, counts.min() / counts)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def minimum_log_likelihood_ratio_cost(distances: ArrayLike, is_genuine: ArrayLike) -> float:
    """Cllr of the best monotone calibration: what discrimination alone costs.

    The difference to ``log_likelihood_ratio_cost`` of given ratios is what their
    calibration loses.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
    is_genuine : bool array of shape (n,)

    Returns
    -------
    float
        0 to 1, in bits.

    Raises
    ------
    ValueError
        If shapes differ, a distance is NaN, or one kind of comparison is missing.

    Examples
    --------
    >>> from sfpose.metrics import minimum_log_likelihood_ratio_cost
    >>> minimum_log_likelihood_ratio_cost([1, 2, 3, 4], [1, 1, 0, 0])
    0.0
    """
    scores, genuine = check_scores(distances, is_genuine)
    known, ratios = _isotonic_ratios(scores, genuine)
    return log_likelihood_ratio_cost(ratios[np.searchsorted(known, scores)], genuine)


class LikelihoodRatioCalibrator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns distances into log-likelihood ratios, learnt from labelled comparisons.

    Parameters
    ----------
    method : {"logistic", "isotonic"}, default="logistic"
        ``"logistic"`` fits a straight line (two numbers, safe on little data, and no surer than
        the rarer kind of comparison has comparisons, by a penalty on its slope);
        ``"isotonic"`` any falling function by pool adjacent violators, whose ends may
        be infinite.

    Attributes
    ----------
    slope_, intercept_ : float
        Of the line; only for ``"logistic"``.
    distances_, ratios_ : float64 arrays
        The steps of the function; only for ``"isotonic"``.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.metrics import LikelihoodRatioCalibrator
    >>> rng = np.random.default_rng(0)
    >>> genuine = np.arange(4000) < 2000
    >>> distances = rng.normal(np.where(genuine, 1.0, 3.0))
    >>> calibrator = LikelihoodRatioCalibrator().fit(distances, genuine)
    >>> ratios = calibrator.transform([1.0, 2.0, 3.0])
    >>> bool(ratios[0] > 1.5), bool(abs(ratios[1]) < 0.3), bool(ratios[2] < -1.5)
    (True, True, True)
    """

    # They are what scikit-learn calls X and y, no further data to route.
    __metadata_request__fit: ClassVar = {"distances": UNUSED, "is_genuine": UNUSED}
    __metadata_request__transform: ClassVar = {"distances": UNUSED}

    def __init__(self, method: str = "logistic") -> None:
        self.method = method

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags

    def fit(self, distances: ArrayLike, is_genuine: ArrayLike) -> LikelihoodRatioCalibrator:
        """Learn from comparisons whose truth is known.

        Parameters
        ----------
        distances : array of shape (n,)
            Smaller means more alike.
            Infinite ones are welcome to ``"isotonic"``, which knows only their order.
        is_genuine : bool array of shape (n,)

        Returns
        -------
        LikelihoodRatioCalibrator
            Itself.

        Raises
        ------
        ValueError
            If the scores are refused, ``method`` is unknown, or ``"logistic"`` is given
            infinite distances: leave out comparisons that could not be acquired.
        """
        scores, genuine = check_scores(distances, is_genuine)
        for learnt in ("slope_", "intercept_", "distances_", "ratios_"):
            # What another method learnt before must not answer now.
            self.__dict__.pop(learnt, None)
        if self.method == "logistic":
            infinite = int(np.isinf(scores).sum())
            if infinite:
                raise ValueError(
                    f"the method 'logistic' needs finite distances; got {infinite} infinite"
                )
            # Median and median deviation, which one far distance does not move; without the
            # deviations of 0, or many equal distances would leave no scale.
            centre = float(np.median(scores))
            deviations = np.abs(scores - centre)
            spread = float(np.median(deviations[deviations > 0])) if deviations.any() else 1.0
            # What lies farther out is far, whatever the line; its square would drown the rest.
            standard = np.clip((scores - centre) / spread, -_FARTHEST, _FARTHEST)
            slope, intercept = _logistic_line(standard, genuine)
            self.slope_: float = slope / spread
            self.intercept_: float = intercept - self.slope_ * centre
        elif self.method == "isotonic":
            self.distances_, self.ratios_ = _isotonic_ratios(scores, genuine)
        else:
            raise ValueError(f"method must be 'logistic' or 'isotonic'; got {self.method!r}")
        return self

    def transform(self, distances: ArrayLike) -> NDArray[np.float64]:
        """Log-likelihood ratios (natural logarithm) of distances, same shape.

        Parameters
        ----------
        distances : array
            Smaller means more alike.

        Returns
        -------
        float64 array
            Larger means more alike. Between two known distances, ``"isotonic"`` keeps
            the ratio of the smaller one. An infinite distance has the ratio that its
            method tends to: minus infinity on a falling line.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If a distance is NaN.
        """
        if not (hasattr(self, "slope_") or hasattr(self, "ratios_")):
            raise NotFittedError("a calibrator must be fitted before it transforms; call fit first")
        scores = as_numbers(distances, "distances")
        if np.isnan(scores).any():
            count = np.isnan(scores).sum()
            raise ValueError(f"distances must not be NaN; got {count} NaN: leave them out")
        if hasattr(self, "slope_"):
            # A level line stays level at infinity, where the product would be NaN.
            rise = self.slope_ * scores if self.slope_ else np.zeros_like(scores)
            return rise + self.intercept_
        place = np.searchsorted(self.distances_, scores, side="right") - 1
        return np.asarray(self.ratios_[np.maximum(place, 0)])
