"""Displays show the numbers that the metrics give."""

import warnings

import numpy as np
import pytest
from scipy.stats import norm

matplotlib = pytest.importorskip("matplotlib", reason="displays need matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from sfpose import TemplateVerifier  # noqa: E402
from sfpose.metrics import (  # noqa: E402
    DetCurveDisplay,
    GroupErrorDisplay,
    PoseErrorDisplay,
    ScoreHistogramDisplay,
    TippettDisplay,
    clopper_pearson_interval,
    det_curve,
    equal_error_rate,
    error_rates_at_threshold,
    group_error_rates,
    log_likelihood_ratio_cost,
    people_rate_interval,
)


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


def _inside(axes, x, y):
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return (left < x) & (x <= right) & (bottom < y) & (y <= top)


@pytest.mark.parametrize(("threshold", "point"), [(2.0, (0, 0)), (0.5, (0, 1)), (9, (1, 0))])
def test_rates_of_zero_lie_in_the_picture(threshold, point):
    people = np.repeat(np.arange(20), 4)
    first, second = np.triu_indices(80, 1)
    genuine = people[first] == people[second]
    display = DetCurveDisplay.from_scores(
        np.where(genuine, 1.0, 3.0),
        genuine,
        threshold=threshold,
        first_people=people[first],
        second_people=people[second],
    )
    assert display.operating_point == point
    bars = display.ax_.containers[0]
    for artist in (bars.lines[0], *bars.lines[1]):
        assert not artist.get_clip_on()
        assert _inside(display.ax_, *artist.get_data()).all()
    x, y = display.line_.get_data()
    # Both kinds lie apart: the curve goes through the corner where both rates are 0.
    np.testing.assert_array_equal(_inside(display.ax_, x, y), [False, True, False])
    assert x[0] == x[1]
    assert y[1] == y[2]


def test_the_end_of_a_curve_runs_along_the_edge_of_the_picture():
    distances, genuine = _scores()
    x, y = DetCurveDisplay.from_scores(distances, genuine).line_.get_data()
    fmr, fnmr, _ = det_curve(distances, genuine)
    axes = plt.gca()
    for rates, other in ((fmr, fnmr), (fnmr, fmr)):
        ends = (rates == 0) & (other < 0.9)
        assert ends.any()
        assert _inside(axes, x[ends], y[ends]).all()


def test_people_who_are_few_have_no_bars():
    first = np.repeat(np.arange(30), 2)
    second = np.r_[first[:2], (first[2:] + 1) % 30]
    distances, genuine = np.where(first == second, 1.0, 3.0), first == second
    display = DetCurveDisplay.from_scores(
        distances, genuine, threshold=2.0, first_people=first, second_people=second
    )
    # None of 30 people is accepted: what that can exclude.
    assert display.operating_intervals == (pytest.approx((0.0, 1 - 0.05 ** (1 / 30))), None)
    with pytest.raises(ValueError, match=r"both sides must have shape \(60,\); got \(2,\)"):
        DetCurveDisplay.from_scores(
            distances, genuine, threshold=2.0, first_people=first[:2], second_people=second
        )
    with pytest.raises(ValueError, match="of both sides must be given"):
        DetCurveDisplay.from_scores(distances, genuine, threshold=2.0, first_people=first)


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


def test_groups_of_impostors_alone_are_drawn():
    display = GroupErrorDisplay.from_scores([1, 4, 2, 9], [0, 0, 0, 0], list("aabb"), 3)
    assert [bar.get_width() for bar in display.bars_.patches] == [50, 50]


def test_displays_refuse_what_metrics_refuse():
    with pytest.raises(ValueError, match="one impostor comparison"):
        DetCurveDisplay.from_scores([1.0], [True])


@pytest.fixture(scope="module")
def verifier_and_people():
    rng = np.random.default_rng(0)
    centres = rng.gamma(1.0, 1.0, (60, 30))
    subjects = np.repeat(np.arange(60), 4)
    descriptors = rng.gamma(centres[subjects] * 4 + 0.1)
    verifier = TemplateVerifier(0.02).fit(descriptors[:120], subjects[:120])
    return verifier, descriptors[120:], subjects[120:]


def test_an_estimators_curve_has_its_threshold_and_intervals_over_people(verifier_and_people):
    verifier, descriptors, subjects = verifier_and_people
    display = DetCurveDisplay.from_estimator(verifier, descriptors, subjects)
    first, second = np.triu_indices(len(subjects), 1)
    distances = verifier.score_pairs(descriptors[first], descriptors[second])
    genuine = subjects[first] == subjects[second]
    assert display.eer == pytest.approx(equal_error_rate(distances, genuine))
    assert display.operating_point == pytest.approx(
        error_rates_at_threshold(distances, genuine, verifier.threshold_)
    )
    strangers = ~genuine
    assert display.operating_intervals[0] == people_rate_interval(
        distances[strangers] <= verifier.threshold_,
        subjects[first][strangers],
        subjects[second][strangers],
    )
    histogram = ScoreHistogramDisplay.from_estimator(verifier, descriptors, subjects)
    assert len(histogram.genuine) == genuine.sum()
    assert histogram.threshold == verifier.threshold_
    with pytest.raises(ValueError, match=r"shape \(120,\); got \(3,\)"):
        DetCurveDisplay.from_estimator(verifier, descriptors, subjects[:3])


@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize("display", [DetCurveDisplay, ScoreHistogramDisplay, TippettDisplay])
def test_whoever_has_no_name_is_not_taken_for_one_person(verifier_and_people, display, missing):
    verifier, descriptors, subjects = verifier_and_people
    named = subjects.astype(object)
    named[7] = missing
    with pytest.raises(ValueError, match=r"subjects must name one person.*row 7 is missing"):
        display.from_estimator(verifier, descriptors, named)


@pytest.mark.parametrize("display", [DetCurveDisplay, ScoreHistogramDisplay, TippettDisplay])
def test_masked_descriptors_are_drawn_by_no_display(verifier_and_people, display):
    verifier, descriptors, subjects = verifier_and_people
    masked = np.ma.masked_array(descriptors, mask=np.zeros_like(descriptors, bool))
    masked[5] = np.ma.masked
    with pytest.raises(ValueError, match="none of them masked"):
        display.from_estimator(verifier, masked, subjects)


def test_a_tippett_plot_counts_ratios_that_are_at_least_so_large(verifier_and_people):
    verifier, descriptors, subjects = verifier_and_people
    display = TippettDisplay.from_estimator(verifier, descriptors, subjects)
    first, second = np.triu_indices(len(subjects), 1)
    ratios = verifier.log_likelihood_ratio(descriptors[first], descriptors[second])
    genuine = subjects[first] == subjects[second]
    assert display.cost == pytest.approx(log_likelihood_ratio_cost(ratios, genuine))
    for line, kind in zip(display.lines_, (genuine, ~genuine), strict=True):
        x, y = line.get_data()
        for place in range(0, len(x), 97):
            at_least = ratios[kind] >= x[place] * np.log(10) * (1 + 1e-12 * np.sign(-x[place]))
            assert y[place] == pytest.approx(100 * at_least.mean())


def test_a_tippett_plot_of_distances_is_that_of_their_calibration():
    distances, genuine = _scores()
    display = TippettDisplay.from_scores(distances, genuine)
    # Of N(1, 1) and N(3, 1) the ratio is 4 - 2 x: what the distances were drawn from.
    ideal = log_likelihood_ratio_cost(4 - 2 * distances, genuine)
    assert display.cost == pytest.approx(ideal, abs=0.01)
    stepped = TippettDisplay.from_scores(distances, genuine, method="isotonic")
    assert stepped.cost <= display.cost


def test_the_pose_table_pools_both_orders_of_a_pair():
    distances, genuine = _scores()
    rng = np.random.default_rng(1)
    first, second = rng.choice(["F", "P", "Q"], (2, len(genuine)))
    genuine = genuine & ~((first == "Q") & (second == "Q"))
    display = PoseErrorDisplay.from_scores(distances, genuine, first, second, poses=["P", "F", "Q"])
    for row, one in enumerate(["P", "F", "Q"]):
        for column, other in enumerate(["P", "F", "Q"]):
            own = [{a, b} == {one, other} for a, b in zip(first, second, strict=True)]
            if one == other == "Q":
                assert np.isnan(display.rates[row, column])
            else:
                expected = equal_error_rate(distances[own], genuine[own])
                assert display.rates[row, column] == expected
    with pytest.raises(ValueError, match=r"second_poses must .* shape \(3000,\); got \(2,\)"):
        PoseErrorDisplay.from_scores(distances, genuine, first, ["F", "P"])
    for poses in (["F", "F"], ["frontal"], []):
        with pytest.raises(
            ValueError, match=r"poses must be of \['F', 'P', 'Q'\], each once; got \["
        ):
            PoseErrorDisplay.from_scores(distances, genuine, first, second, poses=poses)


def test_poses_and_groups_of_an_estimator_are_those_of_its_pairs(verifier_and_people):
    verifier, descriptors, subjects = verifier_and_people
    labels = np.where(np.arange(len(subjects)) % 2, "F", "P")
    groups = np.where(subjects % 3, "a", "b")
    poses = PoseErrorDisplay.from_estimator(verifier, descriptors, subjects, labels)
    bars = GroupErrorDisplay.from_estimator(verifier, descriptors, subjects, groups)
    first, second = np.triu_indices(len(subjects), 1)
    distances = verifier.score_pairs(descriptors[first], descriptors[second])
    genuine = subjects[first] == subjects[second]
    apart = labels[first] != labels[second]
    assert poses.rates[0, 1] == pytest.approx(equal_error_rate(distances[apart], genuine[apart]))
    for row, name in enumerate("ab"):
        own = (groups[first] == name) & (groups[second] == name) & ~genuine
        assert bars.rates.impostor[row] == own.sum()
        assert bars.rates.fmr[row] == np.mean(distances[own] <= verifier.threshold_)
    assert bars.ax_.get_legend().get_texts()[0].get_text() == "target"
    for display in (PoseErrorDisplay, GroupErrorDisplay):
        with pytest.raises(
            ValueError, match=r"name one for each descriptor, shape \(120,\); got \(3,\)"
        ):
            display.from_estimator(verifier, descriptors, subjects, labels[:3])


@pytest.mark.parametrize("rate", ["fmr", "fnmr"])
def test_group_bars_show_rates_and_binomial_intervals(rate):
    distances, genuine = _scores()
    groups = np.random.default_rng(1).choice(["a", "b", "c"], len(genuine))
    groups[genuine & (groups == "c")] = "a"
    rates = group_error_rates(distances, genuine, groups, 2.0)
    display = GroupErrorDisplay(rates, rate).plot(target=0.1)
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert names == (["c", "b", "a"] if rate == "fmr" else ["b", "a"])
    for name, bar in zip(names, display.bars_.patches, strict=True):
        kind = (groups == name) & (~genuine if rate == "fmr" else genuine)
        wrong = distances[kind] <= 2.0 if rate == "fmr" else distances[kind] > 2.0
        assert bar.get_width() == pytest.approx(100 * wrong.mean())
    kind = (groups == "a") & (~genuine if rate == "fmr" else genuine)
    wrong = int((distances[kind] <= 2.0).sum() if rate == "fmr" else (distances[kind] > 2.0).sum())
    limits = display.bars_.errorbar.lines[2][0].get_segments()[-1][:, 0]
    np.testing.assert_allclose(limits, 100 * np.array(clopper_pearson_interval(wrong, kind.sum())))
    with pytest.raises(ValueError, match='"fmr" or "fnmr"; got \'eer\''):
        GroupErrorDisplay(rates, "eer")


def test_a_histogram_leaves_infinite_distances_out_and_counts_them():
    distances, genuine = _scores()
    lost = np.flatnonzero(genuine)[:3]
    distances[lost] = np.inf
    axes = ScoreHistogramDisplay.from_scores(distances, genuine).ax_
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["genuine (3 infinite left out)", "impostor"]
    rest = np.delete(distances, lost), np.delete(genuine, lost)
    expected = ScoreHistogramDisplay.from_scores(*rest).ax_
    for drawn, known in zip(axes.patches, expected.patches, strict=True):
        assert (drawn.get_x(), drawn.get_height()) == (known.get_x(), known.get_height())
    distances[genuine] = np.inf
    texts = ScoreHistogramDisplay.from_scores(distances, genuine).ax_.get_legend().get_texts()
    assert texts[0].get_text() == "genuine (800 infinite left out)"


def _normalised_people():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(20), 4)
    rows = rng.gamma(rng.gamma(1.0, 1.0, (20, 256))[subjects] * 4 + 0.1)
    return rows / rows.sum(axis=1, keepdims=True), subjects


def test_an_unfitted_verifier_is_drawn_with_the_threshold_that_it_decides_by():
    rows, subjects = _normalised_people()
    verifier = TemplateVerifier(0.01)
    known = verifier.verify(rows[0], rows[1]).threshold
    assert verifier.decision_rule().threshold == known
    assert ScoreHistogramDisplay.from_estimator(verifier, rows, subjects).threshold == known
    curve = DetCurveDisplay.from_estimator(verifier, rows, subjects)
    first, second = np.triu_indices(len(rows), 1)
    distances = verifier.score_pairs(rows[first], rows[second])
    genuine = subjects[first] == subjects[second]
    expected = error_rates_at_threshold(distances, genuine, known)
    assert curve.operating_point == pytest.approx(expected)
    bars = GroupErrorDisplay.from_estimator(verifier, rows, subjects, subjects % 2)
    assert bars.rates.groups.tolist() == [0, 1]
    for display in (DetCurveDisplay, ScoreHistogramDisplay):
        with pytest.raises(ValueError, match="before fit, target_fmr must be one that"):
            display.from_estimator(TemplateVerifier(0.02), rows, subjects)


@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize("display", [PoseErrorDisplay, GroupErrorDisplay])
def test_a_missing_pose_or_group_of_a_descriptor_is_told_with_its_row(display, missing):
    rows, subjects = _normalised_people()
    labels = np.where(subjects % 2, "odd", "even").astype(object)
    labels[5] = missing
    with pytest.raises(ValueError, match="name one for each descriptor; that of row 5 is missing"):
        display.from_estimator(TemplateVerifier(0.01), rows, subjects, labels)


@pytest.mark.parametrize(
    "display", [DetCurveDisplay, ScoreHistogramDisplay, TippettDisplay, GroupErrorDisplay]
)
def test_no_threshold_is_drawn_on_descriptors_that_it_is_not_for(display):
    rows = np.random.default_rng(0).random((8, 50))
    people = np.repeat([1, 2, 3, 4], 2)
    more = [people] if display is GroupErrorDisplay else []
    with pytest.raises(ValueError, match="must have 256 values a row"):
        display.from_estimator(TemplateVerifier(), rows, people, *more)


@pytest.mark.parametrize("threshold", ["2.5", np.nan])
def test_a_histograms_threshold_is_a_number(threshold):
    with pytest.raises(ValueError, match="threshold must be a number"):
        ScoreHistogramDisplay.from_scores([1, 2], [1, 0], threshold=threshold)


def test_a_table_of_poses_that_nothing_fills_is_drawn_empty():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = PoseErrorDisplay.from_scores([1, 2], [1, 0], ["a", "b"], ["a", "b"])
    assert np.isnan(drawn.rates).all()
    assert not drawn.ax_.texts


def test_a_tippett_plot_says_how_many_ratios_lie_outside_of_it():
    drawn = TippettDisplay.from_ratios([np.inf, 2.0, -1.0], [1, 1, 0])
    labels = [line.get_label() for line in drawn.lines_]
    assert labels == ["genuine (1 infinite left out)", "impostor"]
