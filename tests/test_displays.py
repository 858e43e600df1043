"""Displays show the numbers that the metrics give."""

import numpy as np
import pytest
from scipy.stats import norm

matplotlib = pytest.importorskip("matplotlib", reason="displays need matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from sfpose.metrics import (  # noqa: E402
    DetCurveDisplay,
    PoseErrorDisplay,
    ScoreHistogramDisplay,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _scores():
    rng = np.random.default_rng(0)
    genuine = np.arange(3000) < 800
    return rng.normal(np.where(genuine, 1.0, 3.0)), genuine


def test_det_display_draws_the_curve_and_the_operating_point():
    distances, genuine = _scores()
    display = DetCurveDisplay.from_scores(distances, genuine, name="us", threshold=2.0)
    fmr, fnmr, _ = det_curve(distances, genuine)
    inside = (fmr > 0.001) & (fmr < 0.999) & (fnmr > 0.001) & (fnmr < 0.999)
    x, y = display.line_.get_data()
    np.testing.assert_allclose(norm.cdf(x)[inside], fmr[inside])
    np.testing.assert_allclose(norm.cdf(y)[inside], fnmr[inside])
    assert display.operating_point == pytest.approx(
        error_rates_at_threshold(distances, genuine, 2.0)
    )
    eer = f"{100 * equal_error_rate(distances, genuine):.2f}"
    assert display.ax_.get_legend().get_texts()[0].get_text() == f"us (EER {eer} %)"


def test_several_curves_share_axes():
    distances, genuine = _scores()
    first = DetCurveDisplay.from_scores(distances, genuine, name="a")
    second = DetCurveDisplay.from_scores(-distances, ~genuine, name="b", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert len(first.ax_.get_legend().get_texts()) == 2


def test_histograms_hold_every_comparison():
    distances, genuine = _scores()
    display = ScoreHistogramDisplay.from_scores(distances, genuine, threshold=2.0, bins=20)
    assert (len(display.genuine), len(display.impostor)) == (800, 2200)
    areas = [
        sum(patch.get_height() * patch.get_width() for patch in container)
        for container in display.ax_.containers
    ]
    assert areas == pytest.approx([1.0, 1.0])


def test_pose_table_writes_each_rate_in_percent():
    display = PoseErrorDisplay(["F", "P"], [[0.01, 0.0525], [np.nan, 0.2]]).plot()
    assert [text.get_text() for text in display.ax_.texts] == ["1.00", "5.25", "20.00"]
    with pytest.raises(ValueError, match=r"rates must have shape \(2, 2\); got \(2, 3\)"):
        PoseErrorDisplay(["F", "P"], np.zeros((2, 3)))


def test_displays_refuse_what_metrics_refuse():
    with pytest.raises(ValueError, match="one impostor comparison"):
        DetCurveDisplay.from_scores([1.0], [True])
