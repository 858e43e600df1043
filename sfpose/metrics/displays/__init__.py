"""Pictures of error rates, in scikit-learn's manner; matplotlib is imported when drawn.

May import the rest of ``metrics``; estimators are only called, never imported.
"""

from sfpose.metrics.displays.det import DetCurveDisplay
from sfpose.metrics.displays.groups import GroupErrorDisplay
from sfpose.metrics.displays.histogram import ScoreHistogramDisplay
from sfpose.metrics.displays.poses import PoseErrorDisplay
from sfpose.metrics.displays.tippett import TippettDisplay

__all__ = [
    "DetCurveDisplay",
    "GroupErrorDisplay",
    "PoseErrorDisplay",
    "ScoreHistogramDisplay",
    "TippettDisplay",
]
