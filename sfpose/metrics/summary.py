"""All error rates of a list of comparisons at once, failures to acquire among them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from sfpose.metrics._checks import as_numbers, check_scores
from sfpose.metrics.error_rates import d_prime, equal_error_rate, fnmr_at_fmr

__all__ = ["VerificationSummary", "verification_summary"]


@dataclass(frozen=True)
class VerificationSummary:
    """Error rates of verification, 0 to 1, and what they rest on.

    A comparison with an image that could not be acquired is refused at every
    threshold: the rates are what ISO/IEC 19795-1 calls generalised ones.

    Attributes
    ----------
    genuine, impostor : int
        Comparisons of either kind, failed ones included.
    failed_genuine, failed_impostor : int
        How many of them failed: their distance is NaN.
    eer, convex_hull_eer : float
        See ``equal_error_rate``.
    fmr100, fmr1000, zero_fmr : float
        False non-match rate at a false match rate of 1 %, of 0.1 %, and without any
        false match.
    d_prime : float
        Of the comparisons that did not fail; NaN if one of those is infinite.

    References
    ----------
    ISO/IEC 19795-1; Maio et al., "FVC2000: Fingerprint verification competition", 2002
    (FMR100, FMR1000, ZeroFMR).

    Examples
    --------
    >>> from sfpose.metrics import verification_summary
    >>> summary = verification_summary([0.1, 0.4, 0.35, 0.8], [1, 1, 0, 0])
    >>> summary.eer, summary.fmr100, summary.genuine
    (0.5, 0.5, 2)
    """

    genuine: int
    impostor: int
    failed_genuine: int
    failed_impostor: int
    eer: float
    convex_hull_eer: float
    fmr100: float
    fmr1000: float
    zero_fmr: float
    d_prime: float

    @property
    def failure_to_acquire(self) -> float:
        """Share of comparisons that failed."""
        failed = self.failed_genuine + self.failed_impostor
        return failed / (self.genuine + self.impostor)

    def to_dict(self) -> dict[str, float]:
        """Attributes as plain numbers, for JSON."""
        return {**asdict(self), "failure_to_acquire": self.failure_to_acquire}


def verification_summary(distances: ArrayLike, is_genuine: ArrayLike) -> VerificationSummary:
    """Sum up labelled comparisons, some of which may have failed.

    Parameters
    ----------
    distances : array of shape (n,)
        Smaller means more alike.
        NaN where an image of the comparison could not be acquired.
    is_genuine : bool array of shape (n,)

    Returns
    -------
    VerificationSummary

    Raises
    ------
    ValueError
        If shapes differ, a label is neither 0 nor 1, or genuine or impostor
        comparisons are missing among those that did not fail.

    Examples
    --------
    >>> from sfpose.metrics import verification_summary
    >>> nan = float("nan")
    >>> summary = verification_summary([0.1, nan, 0.2, 0.9, 0.8], [1, 1, 1, 0, 0])
    >>> summary.failed_genuine, summary.failure_to_acquire, round(summary.zero_fmr, 3)
    (1, 0.2, 0.333)
    """
    given = as_numbers(distances, "distances")
    failed = np.isnan(given)
    refused, genuine = check_scores(np.where(failed, np.inf, given), is_genuine)
    acquired = genuine[~failed]
    if acquired.all() or not acquired.any():
        raise ValueError(
            "genuine and impostor comparisons of images that were acquired must be left; of "
            f"{len(failed)} comparisons {failed.sum()} have an image that was not"
        )
    return VerificationSummary(
        genuine=int(genuine.sum()),
        impostor=int((~genuine).sum()),
        failed_genuine=int((failed & genuine).sum()),
        failed_impostor=int((failed & ~genuine).sum()),
        eer=equal_error_rate(refused, genuine),
        convex_hull_eer=equal_error_rate(refused, genuine, convex_hull=True),
        fmr100=fnmr_at_fmr(refused, genuine, 0.01),
        fmr1000=fnmr_at_fmr(refused, genuine, 0.001),
        zero_fmr=fnmr_at_fmr(refused, genuine, 0.0),
        # Means of infinities say nothing.
        d_prime=d_prime(refused[~failed], acquired),
    )
