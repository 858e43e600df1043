"""How well a comparison works: error rates, intervals and thresholds from distances.

May import numpy, scipy and scikit-learn, and nothing of the library.
"""

from sfpose.metrics.error_rates import (
    DetCurve,
    ErrorRates,
    FoldAccuracy,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    false_acceptance_rate,
    false_rejection_rate,
    fnmr_at_fmr,
    k_fold_accuracy,
    threshold_at_fmr,
)
from sfpose.metrics.intervals import (
    Interval,
    PeopleResampler,
    clopper_pearson_interval,
    people_interval,
)
from sfpose.metrics.thresholds import (
    SmallSampleWarning,
    ThresholdCalibration,
    calibrate_threshold,
)

__all__ = [
    "DetCurve",
    "ErrorRates",
    "FoldAccuracy",
    "Interval",
    "PeopleResampler",
    "SmallSampleWarning",
    "ThresholdCalibration",
    "calibrate_threshold",
    "clopper_pearson_interval",
    "det_curve",
    "equal_error_rate",
    "error_rates_at_threshold",
    "false_acceptance_rate",
    "false_rejection_rate",
    "fnmr_at_fmr",
    "k_fold_accuracy",
    "people_interval",
    "threshold_at_fmr",
]
