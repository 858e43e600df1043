"""What displays draw: on which axis, at which place, and for which rate."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone

matplotlib = pytest.importorskip("matplotlib", reason="displays need matplotlib")
matplotlib.use("Agg")


from sfpose import TemplateVerifier  # noqa: E402
from sfpose.metrics import (  # noqa: E402
    DetCurveDisplay,
    GroupErrorDisplay,
    PoseErrorDisplay,
    ScoreHistogramDisplay,
    TippettDisplay,
    people_rate_interval,
)


def _people(people=40, images=3):
    """Whole distances, so that some lie on every threshold, of all pairs; and who they are of."""
    owners = np.repeat(np.arange(people), images)
    first, second = np.triu_indices(len(owners), 1)
    genuine = owners[first] == owners[second]
    rng = np.random.default_rng(0)
    distances = np.rint(rng.normal(np.where(genuine, 10, 30), 8)).clip(0)
    return distances, genuine, owners[first], owners[second]


def _percents(labels):
    return [float(label.get_text()) for label in labels]


def test_false_matches_run_to_the_right_and_false_non_matches_upwards():
    distances, genuine, first, second = _people()
    display = DetCurveDisplay.from_scores(
        distances, genuine, threshold=16, first_people=first, second_people=second
    )
    axes = display.ax_
    fmr, fnmr = (distances[~genuine] <= 16).mean(), (distances[genuine] > 16).mean()
    assert abs(fmr - fnmr) > 0.02
    assert axes.get_xlabel() == "False match rate (%)"
    assert axes.get_ylabel() == "False non-match rate (%)"
    container = axes.containers[0]
    (x,), (y,) = container.lines[0].get_data()
    assert norm.cdf([x, y]).tolist() == pytest.approx([fmr, fnmr])
    # The bars reach to the ends of the intervals over people, each along its own axis.
    across, up = (bars.get_segments()[0] for bars in container.lines[2])
    kinds = ~genuine, genuine
    wrong = distances <= 16, distances > 16
    for kind, errors, ends in zip(kinds, wrong, (across[:, 0], up[:, 1]), strict=True):
        expected = people_rate_interval(errors[kind], first[kind], second[kind])
        np.testing.assert_allclose(norm.cdf(ends), expected, rtol=1e-6)
    assert across[0, 1] == across[1, 1] == y
    assert up[0, 0] == up[1, 0] == x
    for places, labels in (
        (axes.get_xticks(), axes.get_xticklabels()),
        (axes.get_yticks(), axes.get_yticklabels()),
    ):
        np.testing.assert_allclose(100 * norm.cdf(places), _percents(labels), rtol=1e-6)


def test_between_two_thresholds_a_curve_is_no_better_than_at_either():
    """It goes to the next false match rate first, and to the lower false non-match rate there."""
    display = DetCurveDisplay.from_scores([1, 3, 2, 4], [True, True, False, False])
    x, y = display.line_.get_data()
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) <= 0).all()
    assert display.line_.get_drawstyle() == "steps-post"


def test_a_pose_table_has_each_rate_in_its_own_cell():
    rates = np.array([[0.01, 0.02, 0.03], [0.04, 0.05, 0.06], [0.07, 0.08, 0.5]])
    axes = PoseErrorDisplay(["F", "Q", "P"], rates).plot().ax_
    shown = {text.get_position(): text for text in axes.texts}
    assert len(shown) == 9
    image = axes.get_images()[0]
    for (row, column), rate in np.ndenumerate(rates):
        text = shown[column, row]
        assert text.get_text() == f"{100 * rate:.2f}"
        assert image.get_array()[row, column] == pytest.approx(100 * rate)
        # White letters on dark red alone.
        assert text.get_color() == ("white" if rate == 0.5 else "black")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["F", "Q", "P"]


def test_a_tippett_curve_holds_its_share_up_to_a_ratio():
    """At 1 of the ratios 0, 1, 2 and 3 there are three of four at least as large, above it two."""
    ratios = np.array([0.0, 1, 2, 3, -4]) * np.log(10)
    line = TippettDisplay.from_ratios(ratios, [1, 1, 1, 1, 0]).lines_[0]
    np.testing.assert_allclose(line.get_xdata(), [0, 1, 2, 3])
    assert line.get_ydata().tolist() == [100, 75, 50, 25]
    # What is drawn to the left of a point is as high as the point.
    assert line.get_drawstyle() == "steps-pre"


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(64), 4)
    descriptors = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (64, 30)), 4, axis=0) * 4 + 0.1)
    return TemplateVerifier(0.02).fit(descriptors, subjects), descriptors[:200], subjects[:200]


@pytest.mark.parametrize("cohort", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tippett_plot_is_of_what_the_verifier_says_of_each_pair(many, cohort, dtype):
    verifier, descriptors, subjects = many
    descriptors = descriptors.astype(dtype)
    if cohort:
        strangers = np.random.default_rng(1).gamma(1.0, 1.0, (120, 30)) + 0.1
        verifier = clone(verifier).fit(descriptors, subjects, cohort=strangers)
    display = TippettDisplay.from_estimator(verifier, descriptors, subjects)
    first, second = np.triu_indices(200, 1)
    genuine = subjects[first] == subjects[second]
    ratios = verifier.log_likelihood_ratio(descriptors[first], descriptors[second])
    np.testing.assert_allclose(display.genuine, np.sort(ratios[genuine]))
    np.testing.assert_allclose(display.impostor, np.sort(ratios[~genuine]))


def _lines(axes):
    """Places of the upright lines of the axes that have a name."""
    return {line.get_label(): line.get_xdata()[0] for line in axes.lines}


def test_thresholds_and_targets_are_lines_in_their_place(many):
    verifier, descriptors, subjects = many
    histogram = ScoreHistogramDisplay.from_estimator(verifier, descriptors, subjects)
    assert _lines(histogram.ax_)["threshold"] == verifier.threshold_
    assert "threshold" not in _lines(ScoreHistogramDisplay.from_scores([1, 2], [1, 0]).ax_)
    groups = np.where(subjects % 2, "odd", "even")
    matches = GroupErrorDisplay.from_estimator(verifier, descriptors, subjects, groups)
    assert _lines(matches.ax_)["target"] == pytest.approx(2.0)  # percent
    assert matches.ax_.get_xlabel() == "False match rate (%)"
    missed = GroupErrorDisplay.from_estimator(verifier, descriptors, subjects, groups, rate="fnmr")
    # The target is one of false matches.
    assert "target" not in _lines(missed.ax_)
    assert missed.ax_.get_xlabel() == "False non-match rate (%)"
