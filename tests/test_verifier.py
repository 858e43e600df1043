"""Templates and TemplateVerifier against counting by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sfpose import TemplateGallery, TemplateVerifier, build_templates, extend_template
from sfpose._kernels import reference
from sfpose.geometry import similarity_to_canonical
from sfpose.metrics import SmallSampleWarning
from sfpose.pose import head_pose, pose_labels
from sfpose.runtime.artifact import read_manifest
from sfpose.studies import PoseStudies
from sfpose.templates import mean_of

FEW = pytest.mark.filterwarnings("ignore:a threshold needs at least 10 people")
# Of rows and of whose they are said to be, drawn apart.
NO_ORDER = pytest.mark.filterwarnings("ignore:distances must be smaller the more alike")


def _people(count=40, images=5, width=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, 1.0, (count, width))
    subjects = np.repeat(np.arange(count), images)
    return rng.gamma(centres[subjects] * 6 + 0.1).astype(np.float32), subjects


@pytest.fixture(scope="module")
def fitted():
    return TemplateVerifier(target_fmr=0.01).fit(*_people())


def test_calibration_is_what_counting_all_pairs_gives(fitted):
    descriptors, subjects = _people()
    matrix = reference.chi2_matrix(descriptors, descriptors)
    first, second = np.triu_indices(len(subjects), 1)
    genuine = subjects[first] == subjects[second]
    accepted = matrix[first, second] <= fitted.threshold_
    calibration = fitted.calibration_
    # float32 against float64: a distance on the threshold may fall to either side.
    assert calibration.achieved_fmr == pytest.approx(accepted[~genuine].mean(), abs=1.5 / 19_500)
    assert calibration.fnmr == pytest.approx((~accepted)[genuine].mean(), abs=1.5 / 400)
    assert calibration.achieved_fmr <= 0.01
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == (400, 19_500)
    assert calibration.people == 40


def test_a_sample_of_impostors_gives_nearly_the_same_threshold(fitted):
    few = TemplateVerifier(target_fmr=0.01, max_pairs=8_000).fit(*_people())
    assert few.calibration_.genuine_pairs == 400
    assert few.calibration_.impostor_pairs == 8_000
    assert few.threshold_ == pytest.approx(fitted.threshold_, rel=0.05)
    again = clone(few).set_params(max_pairs=np.int64(8_000)).fit(*_people())
    assert again.calibration_ == few.calibration_
    other = clone(few).set_params(random_state=1).fit(*_people())
    assert other.threshold_ != few.threshold_


@FEW
def test_all_impostors_are_compared_where_they_are_at_most_max_pairs():
    # 1,600 pairs of strangers among 3,160 pairs.
    people = _people(2, 40)
    whole = TemplateVerifier(0.05).fit(*people).calibration_
    assert whole.impostor_pairs == 1_600
    assert TemplateVerifier(0.05, max_pairs=1_600).fit(*people).calibration_ == whole
    some = TemplateVerifier(0.05, max_pairs=1_599).fit(*people).calibration_
    assert (some.impostor_pairs, some.genuine_pairs) == (1_599, whole.genuine_pairs)


@NO_ORDER
def test_a_sample_is_whole_where_most_pairs_are_of_one_person():
    descriptors, _ = _people(2, 150)
    subjects = np.r_[np.zeros(280, int), np.arange(1, 21)]
    calibration = TemplateVerifier(0.05, max_pairs=5_000).fit(descriptors, subjects).calibration_
    assert (calibration.impostor_pairs, calibration.genuine_pairs) == (5_000, 280 * 279 // 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"random_state": state}, "random_state must be a whole number, at least 0; got")
            for state in (-1, 1.5, None, "0", True)
        ),
        *(
            ({"target_fmr": rate}, "target_fmr must be a rate, 0 < target_fmr < 1; got")
            for rate in (0, 1, -0.1, 2, "0.1", None, np.nan, [0.1], True)
        ),
        *(
            ({"groups": groups}, 'groups must be of "size" and "pose", or None; got')
            for groups in (5, 0, True, "", "sizes", [["size"]], [None], ["size", 1])
        ),
    ],
)
def test_parameters_that_mean_nothing_are_refused(settings, message):
    verifier = TemplateVerifier(0.01).set_params(**settings)
    with pytest.raises(ValueError, match=message) as error:
        verifier.fit(*_people(3, 2))
    assert str(error.value).endswith(f"got {next(iter(settings.values()))!r}")
    assert not hasattr(verifier, "threshold_")


@pytest.mark.parametrize("rate", ["0.1", None, np.nan])
def test_a_rate_that_is_no_number_is_refused_before_a_fit(rate):
    with pytest.raises(ValueError, match=f"target_fmr must be a finite number; got {rate!r}"):
        TemplateVerifier(rate).verify(np.full(256, 1 / 256), np.full(256, 1 / 256))


def test_groups_may_be_any_collection_of_names():
    for groups in (["size"], ("size",), {"size"}, np.array(["size"]), None, []):
        assert TemplateVerifier(0.01, groups=groups).fit(*_people()).threshold_ > 0


@FEW
@NO_ORDER
@pytest.mark.parametrize("labels", [[1, "a"], [(1,), "a"], [{}, {}], [1.0, "a"]])
def test_subjects_of_several_kinds_are_refused(labels):
    rows, _ = _people(2, 30)
    subjects = np.empty(60, object)
    subjects[:] = labels * 30
    message = "name one person for each descriptor, all by text or all by numbers; got"
    with pytest.raises(ValueError, match=message):
        TemplateVerifier(0.1).fit(rows, subjects)
    subjects[:] = [1, 2.5] * 30
    assert TemplateVerifier(0.1).fit(rows, subjects).calibration_.people == 2


@pytest.mark.parametrize("max_pairs", [0, -1, 1.5, True, "10", None])
def test_a_sample_of_no_whole_number_is_refused(max_pairs):
    verifier = TemplateVerifier(max_pairs=max_pairs)
    with pytest.raises(ValueError, match=f"a whole number, at least 1; got {max_pairs!r}"):
        verifier.fit(*_people(3, 2))


@FEW
@NO_ORDER
def test_one_pair_of_strangers_is_a_sample_too():
    with pytest.warns(SmallSampleWarning, match="got 1, in which"):
        verifier = TemplateVerifier(max_pairs=1).fit(_people(2, 5)[0], [0] * 9 + [1])
    assert verifier.calibration_.impostor_pairs == 1


def test_all_ways_to_decide_agree(fitted):
    descriptors, _ = _people()
    a, b = descriptors[:-1], descriptors[1:]
    distances = fitted.score_pairs(a, b)
    np.testing.assert_allclose(distances, reference.chi2_pairs(a, b), rtol=1e-6)
    np.testing.assert_allclose(np.diag(fitted.score_matrix(a[:9], b[:9])), distances[:9], rtol=1e-6)
    decisions = fitted.predict(a, b)
    np.testing.assert_array_equal(decisions, distances <= fitted.threshold_)
    np.testing.assert_array_equal(decisions, fitted.decision_function(a, b) >= 0)
    for row in range(0, len(a), 17):
        result = fitted.verify(a[row], b[row])
        assert result.match == bool(result) == decisions[row]
        assert result.distance == pytest.approx(distances[row], rel=1e-6)
        assert (result.threshold, result.target_fmr) == (fitted.threshold_, 0.01)


def test_a_distance_on_the_threshold_is_accepted(fitted):
    descriptors, subjects = _people()
    one_by_one = fitted.score_matrix(descriptors, descriptors)
    strangers = np.unique(one_by_one[subjects[:, None] != subjects])
    rule = fitted.decision_rule()
    on_it = rule.decide(rule.threshold)
    assert on_it.match
    assert not rule.decide(float(np.nextafter(rule.threshold, np.inf))).match
    # Between the last that is accepted and the first stranger who is not, as distances are.
    assert np.float32(rule.threshold) == rule.threshold
    assert rule.threshold not in strangers


def test_many_images_are_averaged(fitted):
    descriptors, _ = _people()
    whole = fitted.verify(descriptors[:2], descriptors[5:7])
    mean = fitted.verify(
        descriptors[:2].mean(0), descriptors[5:7].mean(0), template_images=2, probe_images=2
    )
    assert whole.distance == pytest.approx(mean.distance, rel=1e-5)
    assert whole.threshold == mean.threshold < fitted.threshold_
    assert "for one false match in 100)" in str(whole)


def test_before_fit_the_shipped_calibration_decides():
    descriptors, _ = _people(2, 10, 256)
    descriptors /= descriptors.sum(axis=1, keepdims=True)
    for entry in read_manifest("default")["calibration"]["conditions"]:
        first = descriptors[: entry["template_images"]]
        second = descriptors[-entry["probe_images"] :]
        for stated in entry["thresholds"]:
            verifier = TemplateVerifier(stated["target_fmr"], groups=("size", "pose"))
            poses = entry["poses"] and tuple(entry["poses"])
            result = verifier.verify(first, second, poses=poses)
            assert result.threshold == stated["threshold"]
            if poses:
                assert verifier.verify(second, first, poses=poses[::-1]) == result
    with pytest.raises(ValueError, match=r"before fit, target_fmr must be one .*0\.001.*got 0\.02"):
        TemplateVerifier(0.02).verify(descriptors[0], descriptors[1])


def test_a_target_that_the_data_cannot_support_warns_with_the_count():
    with pytest.warns(SmallSampleWarning, match="got 19500"):
        TemplateVerifier(target_fmr=1e-5).fit(*_people())
    with pytest.warns(SmallSampleWarning, match="rule of 30") as caught:
        TemplateVerifier(target_fmr=1e-3).fit(*_people())
    assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TemplateVerifier(target_fmr=0.01).fit(*_people())


@pytest.mark.parametrize(
    ("descriptors", "subjects", "message"),
    [
        (np.ones((3, 4)), [1, 1, 1], "at least two people, or there is no impostor pair; got 1"),
        (np.ones((3, 4)), [1, 2, 3], "one person with two descriptors"),
        (np.ones((3, 4)), [1, 2], r"shape \(3,\); got \(2,\)"),
        (-np.ones((3, 4)), [1, 1, 2], "must not be negative"),
        (np.full((3, 4), np.nan), [1, 1, 2], "must be finite"),
        (np.ones((0, 4)), [], "at least one row"),
    ],
)
def test_fit_refuses_what_calibrates_nothing(descriptors, subjects, message):
    verifier = TemplateVerifier()
    with pytest.raises(ValueError, match=message):
        verifier.fit(descriptors, subjects)
    assert not hasattr(verifier, "threshold_")


def test_verify_names_the_side_that_is_wrong(fitted):
    with pytest.raises(ValueError, match="template must not be negative"):
        fitted.verify([-1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="probe must be finite"):
        fitted.verify([1.0, 2.0], [1.0, np.inf])
    with pytest.raises(ValueError, match=r"probe must have 60 values a row, .*; got 3"):
        fitted.verify(np.ones(60), [1.0, 2.0, 3.0])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_templates_are_group_means(groups, seed):
    rng = np.random.default_rng(seed)
    rows = rng.random((len(groups), 7)).astype(np.float32)
    built = build_templates(rows, groups)
    assert built.groups.tolist() == sorted(set(groups))
    for template, group, count in zip(*built, strict=True):
        members = rows[np.array(groups) == group].astype(np.float64)
        assert count == len(members)
        np.testing.assert_allclose(template, members.mean(0), rtol=1e-6)
    assert built.templates.dtype == np.float32


def test_weighted_templates_equal_numpys_average():
    rows, weights = np.random.default_rng(0).random((2, 6, 4))
    weights = weights[:, 0]
    built = build_templates(rows, [0, 0, 0, 1, 1, 1], weights=weights)
    np.testing.assert_allclose(built.templates[0], np.average(rows[:3], 0, weights[:3]))
    np.testing.assert_allclose(built.templates[1], np.average(rows[3:], 0, weights[3:]))


def test_a_medoid_is_the_descriptor_nearest_to_the_others():
    rows, subjects = _people(6, 7)
    rows[0] = 99.0  # the wrong picture among the first person's
    built = build_templates(rows, subjects, method="medoid")
    for template, person, count in zip(*built, strict=True):
        members = rows[subjects == person]
        sums = [reference.chi2_pairs(members, row).sum() for row in members]
        np.testing.assert_array_equal(template, members[np.argmin(sums)])
        assert count == 1
    with pytest.raises(ValueError, match='"mean" or "medoid"; got \'median\''):
        build_templates(rows, subjects, method="median")


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_an_extended_template_is_the_mean_of_all_images(count, more, seed):
    rows = np.random.default_rng(seed).random((count + more, 5))
    template, total = extend_template(rows[:count].mean(0), count, rows[count:])
    assert total == count + more
    np.testing.assert_allclose(template, rows.mean(0))


@pytest.mark.parametrize(
    ("count", "rows", "message"),
    [
        (0, [[1.0, 2.0]], "count must be a whole number, at least 1; got 0"),
        (1.5, [[1.0, 2.0]], "got 1.5"),
        (1, [[1.0, 2.0, 3.0]], "must have 2 values a row; got 3"),
        (1, [[1.0, np.nan]], "must be finite"),
    ],
)
def test_a_template_cannot_be_extended_by_nonsense(count, rows, message):
    with pytest.raises(ValueError, match=message):
        extend_template([1.0, 2.0], count, rows)


@pytest.mark.parametrize(
    ("groups", "weights", "message"),
    [
        ([0], None, r"groups must name one for each descriptor, shape \(2,\); got \(1,\)"),
        ([0, np.nan], None, "groups must name one for each descriptor; that of row 1 is missing"),
        ([0, 1], [1.0], r"weights must have shape \(2,\)"),
        ([0, 1], [1.0, -1.0], "finite and not negative"),
        ([0, 1], [1.0, 0.0], "must not all be zero; they are for 1"),
    ],
)
def test_templates_of_nothing_are_refused(groups, weights, message):
    with pytest.raises(ValueError, match=message):
        build_templates(np.ones((2, 3)), groups, weights=weights)


def test_an_image_without_weight_is_no_medoid():
    rows = [[1.0, 0, 1], [0, 1, 1], [0.5, 0.5, 1]]
    built = build_templates(rows, [0, 0, 0], weights=[1, 2, 0], method="medoid")
    assert built.templates.tolist() == [[0, 1, 1]]


def test_images_without_weight_count_for_nothing():
    rows = np.random.default_rng(0).random((5, 4))
    built = build_templates(rows, list("aaabb"), weights=[2, 0, 0, 1, 3])
    assert built.counts.tolist() == [1, 2]
    np.testing.assert_array_equal(built.templates[0], rows[0])
    # Each group by its own weights: those of another may be of any size.
    built = build_templates(rows, list("aaabb"), weights=[3e-300, 1e-300, 0, 1e300, 1e300])
    np.testing.assert_allclose(built.templates[0], (3 * rows[0] + rows[1]) / 4, rtol=1e-15)
    np.testing.assert_allclose(built.templates[1], rows[3:].mean(0), rtol=1e-15)
    with pytest.raises(ValueError, match=r"weights must be numbers of shape \(5,\)"):
        build_templates(rows, list("aaabb"), weights=["much"] * 5)


def test_what_is_no_table_of_descriptors_is_told_by_its_rule():
    with pytest.raises(ValueError, match=r"template must have shape \(n, d\); got a list"):
        TemplateVerifier().verify([[1.0, 2.0], [3.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"descriptors must have shape \(n, d\); got a list"):
        build_templates([[1.0, 2.0], [3.0]], ["a", "b"])
    hidden = np.ma.array(np.ones((2, 3)), mask=[[0, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="none of them masked; got 1 that are"):
        build_templates(hidden, ["a", "b"])
    shown = np.ma.array(np.ones((2, 3)), mask=False)
    assert build_templates(shown, ["a", "b"]).templates.shape == (2, 3)


def test_what_is_masked_is_told_wherever_it_is_given():
    masked = np.ma.array([1.0, 99.0], mask=[False, True])
    landmarks = np.ma.array(np.ones((1, 5, 2)), mask=False)
    landmarks[0, 0, 0] = np.ma.masked
    gallery = TemplateGallery()
    for refused in [
        lambda: extend_template(masked, 3, [[6.0, 10.0]]),
        lambda: extend_template([1.0, 2.0], 3, masked[None]),
        lambda: build_templates(np.eye(2), ["a", "a"], weights=masked),
        lambda: gallery.add(["ann", "bo"], np.eye(2), counts=masked.astype(int)),
        lambda: build_templates([np.ones(2), masked], ["a", "a"]),
        lambda: pose_labels(masked),
        lambda: pose_labels([3.0, np.ma.masked]),
        lambda: PoseStudies(masked[None], ["a"], ["frontal"]),
        lambda: head_pose(landmarks),
        lambda: similarity_to_canonical(landmarks),
    ]:
        with pytest.raises(ValueError, match="none of them masked; got 1 that are"):
            refused()
    assert len(gallery) == 0


def test_the_mean_of_large_descriptors_is_no_infinity():
    """And that of many is not what rounding in float32 makes of their sum."""
    np.testing.assert_array_equal(mean_of(np.full((3, 2), 2e38, np.float32)), np.float32(2e38))
    rows = np.random.default_rng(0).random((5_000, 3), dtype=np.float32)
    expected = rows.astype(np.float64).mean(0)
    np.testing.assert_array_equal(mean_of(rows), expected.astype(np.float32))
    verifier = TemplateVerifier()
    rows = np.random.default_rng(1).random((3, 256))
    rows = (rows / rows.sum(1, keepdims=True)).astype(np.float32)
    template = build_templates(rows, [0, 0, 0]).templates
    found = verifier.verify(rows, rows[:1]).distance
    assert found == verifier.score_pairs(template, rows[:1])[0]


def test_without_weights_there_is_no_calibration_and_it_is_said():
    rows = np.full((2, 256), 1 / 256)
    with pytest.raises(ValueError, match="weights must be a shipped name or a path; got None"):
        TemplateVerifier(weights=None).verify(*rows)


def test_a_rate_in_float32_is_the_one_that_ships():
    rows = np.full((2, 256), 1 / 256)
    rate = TemplateVerifier(np.float32(1e-3)).verify(*rows)
    assert rate.threshold == TemplateVerifier(1e-3).verify(*rows).threshold
