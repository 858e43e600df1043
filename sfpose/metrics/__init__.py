"""How well a comparison works: error rates, intervals and thresholds from distances.

May import numpy, scipy and scikit-learn, and of the library ``_checks`` alone.
"""

from sfpose.metrics.displays import (
    DetCurveDisplay,
    GroupErrorDisplay,
    PoseErrorDisplay,
    ScoreHistogramDisplay,
    TippettDisplay,
)
from sfpose.metrics.error_rates import (
    DetCurve,
    ErrorRates,
    d_prime,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    false_acceptance_rate,
    false_rejection_rate,
    fnmr_at_fmr,
    threshold_at_fmr,
)
from sfpose.metrics.folds import FoldAccuracy, k_fold_accuracy
from sfpose.metrics.groups import GroupErrorRates, group_error_rates
from sfpose.metrics.identification import cumulative_match_curve, identification_rate_at_fpir
from sfpose.metrics.intervals import (
    Interval,
    clopper_pearson_interval,
    people_interval,
    people_rate_interval,
)
from sfpose.metrics.likelihood import (
    LikelihoodRatioCalibrator,
    log_likelihood_ratio_cost,
    minimum_log_likelihood_ratio_cost,
)
from sfpose.metrics.summary import VerificationSummary, verification_summary
from sfpose.metrics.thresholds import (
    SmallSampleWarning,
    ThresholdCalibration,
    calibrate_threshold,
)

__all__ = [
    "DetCurve",
    "DetCurveDisplay",
    "ErrorRates",
    "FoldAccuracy",
    "GroupErrorDisplay",
    "GroupErrorRates",
    "Interval",
    "LikelihoodRatioCalibrator",
    "PoseErrorDisplay",
    "ScoreHistogramDisplay",
    "SmallSampleWarning",
    "ThresholdCalibration",
    "TippettDisplay",
    "VerificationSummary",
    "calibrate_threshold",
    "clopper_pearson_interval",
    "cumulative_match_curve",
    "d_prime",
    "det_curve",
    "equal_error_rate",
    "error_rates_at_threshold",
    "false_acceptance_rate",
    "false_rejection_rate",
    "fnmr_at_fmr",
    "group_error_rates",
    "identification_rate_at_fpir",
    "k_fold_accuracy",
    "log_likelihood_ratio_cost",
    "minimum_log_likelihood_ratio_cost",
    "people_interval",
    "people_rate_interval",
    "threshold_at_fmr",
    "verification_summary",
]
