"""What decides about a comparison: its kind, its descriptors, its threshold to the last digit."""

import math
import warnings

import numpy as np
import pytest

from sfpose import TemplateVerifier, build_templates, extend_template
from sfpose._kernels import reference
from sfpose.decision import Condition, DescriptorForm, choose_condition, shipped_conditions
from sfpose.metrics import SmallSampleWarning


def _people(count, images=6, width=40):
    """Descriptors of people, float64, and whose they are."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(count), images)
    return rng.gamma(4 * rng.gamma(1.0, 1.0, (count, width))[subjects] + 0.1), subjects


def test_descriptors_are_normalised_if_all_of_them_sum_to_one():
    rows = np.array([[0.5, 0.5], [1.0, 2.0], [0.25, 0.75]])
    # Some of those that are not do so by chance.
    DescriptorForm(2, "none").check(rows, "rows")
    with pytest.raises(ValueError, match=r"rows must not be normalised, .*; each row sums to 1"):
        DescriptorForm(2, "none").check(rows[[0, 2]], "rows")
    DescriptorForm(2, "l1").check(rows[[0, 2]], "rows")
    with pytest.raises(ValueError, match=r"rows must sum to 1 in each row, .*; row 1 does not"):
        DescriptorForm(2, "l1").check(rows, "rows")


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_sizes_as_near_the_one_of_smaller_templates_decides(order):
    known = [Condition(4, 2), Condition(3, 3)][::order]
    assert choose_condition(known, Condition(3, 2)) == Condition(3, 3)


@pytest.mark.parametrize("groups", ["size", ("size", "pose")])
def test_too_large_a_template_is_refused_with_the_sizes_of_its_poses_alone(groups):
    verifier = TemplateVerifier(groups=groups)
    row = np.full(256, 1 / 256)
    with pytest.raises(ValueError, match="got 11 against 1 images, calibrated are: 1 ag") as error:
        verifier.verify(row, row, template_images=11)
    assert "frontal" not in str(error.value)
    if "pose" in groups:
        poses = ("frontal", "profile")
        with pytest.raises(ValueError, match="got 11 against 1 images, frontal - prof") as error:
            verifier.verify(row, row, template_images=11, poses=poses)
        assert "frontal - frontal" not in str(error.value)
        with pytest.raises(ValueError, match="calibrated are: frontal - frontal; frontal - profi"):
            verifier.verify(row, row, poses=("frontal", "three_quarter"))


def test_an_unknown_target_names_the_command_that_calibrates_too():
    row = np.full(256, 1 / 256)
    with pytest.raises(ValueError, match=r"sfpose calibrate --target-fmr 0\.02"):
        TemplateVerifier(0.02).verify(row, row)


LINE = {"slope": -1.0, "intercept": 1.0}
THRESHOLD = {"target_fmr": 0.1, "threshold": 0.5}


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        *[({"target_fmr": rate}, {}) for rate in (0, 1, -0.1, 1.5, math.nan)],
        *[({"threshold": value}, {}) for value in (-0.1, math.inf, math.nan)],
        *[({}, {"slope": value}) for value in (math.inf, -math.inf, math.nan)],
        *[({}, {"intercept": value}) for value in (math.inf, -math.inf, math.nan)],
    ],
)
def test_a_calibration_of_weights_that_decides_nothing_is_refused(threshold, line):
    def manifest(threshold, line):
        entry = {"template_images": 1, "probe_images": 1, "poses": None}
        entry |= {"thresholds": [THRESHOLD | threshold], "log_likelihood_ratio": LINE | line}
        return {"calibration": {"conditions": [entry]}}

    assert list(shipped_conditions(manifest({}, {}))) == [Condition()]
    with pytest.raises(ValueError, match="calibration is of another form"):
        shipped_conditions(manifest(threshold, line))


def test_one_and_many_are_decided_alike_to_the_last_digit():
    """A float32 distance just above a threshold between float64 distances, which it rounds to."""
    people = _people(12, 4, width=2)
    fits = (TemplateVerifier(0.1 + 0.01 * n, groups=None).fit(*people) for n in range(30))
    verifier = next(fit for fit in fits if float(np.float32(fit.threshold_)) > fit.threshold_)
    distance = np.float32(verifier.threshold_)
    template, probe = np.array([[distance, 0]], np.float32), np.zeros((1, 2), np.float32)
    result = verifier.verify(template, probe)
    assert (result.distance, result.match) == (float(distance), False)
    assert verifier.predict(template, probe).tolist() == [False]
    margins = verifier.decision_function(template, probe)
    assert margins.dtype == np.float64
    assert margins.tolist() == [verifier.threshold_ - float(distance)]


def test_sizes_that_are_asked_for_are_calibrated_on_few_pairs_too():
    people = _people(10)
    verifier = TemplateVerifier(0.01, template_sizes=[(1, 1), (3, 3)])
    with pytest.warns(SmallSampleWarning) as caught:
        verifier.fit(*people)
    assert list(verifier.calibrations_) == [Condition(1, 1), Condition(3, 3)]
    # 45 pairs of people, 36 of images and 4 of templates of each.
    said = [str(warning.message) for warning in caught]
    assert ["got 1620," in said[0], "got 180," in said[1]] == [True, True]


def test_sizes_that_come_by_themselves_have_three_false_matches_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        verifier = TemplateVerifier(0.01).fit(*_people(12))
    pairs = {
        (more, fewer): 12 * 11 * (6 // more) * (6 // fewer) // (2 if more == fewer else 1)
        for more, fewer in [*((n, 1) for n in range(1, 6)), (2, 2), (3, 2), (4, 2), (3, 3), (4, 3)]
    }
    expected = {Condition(*sizes): count for sizes, count in pairs.items() if 0.01 * count >= 3}
    assert 1 < 0.01 * pairs[3, 3] < 3
    found = {condition: known.impostor_pairs for condition, known in verifier.calibrations_.items()}
    assert found == expected


@pytest.mark.parametrize("weights", [(1, 1, 1), (9, 1, 1), (1, 1, 9)])
def test_a_weighted_medoid_is_nearest_to_those_of_most_weight(weights):
    rows = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    sums = reference.chi2_matrix(rows, rows) @ np.array(weights, float)
    built = build_templates(rows, [0] * 3, weights=weights, method="medoid")
    np.testing.assert_array_equal(built.templates, rows[[np.argmin(sums)]])


def test_a_mean_of_very_many_images_is_no_sum_in_float32():
    rows = np.full((200_000, 1), 0.1, np.float32)
    template = build_templates(rows, np.zeros(len(rows))).templates[0, 0]
    assert template == pytest.approx(np.float32(0.1), rel=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (np.float32, np.float32, np.float32),
        (np.float64, np.float32, np.float64),
        (np.float32, np.float64, np.float64),
        (np.float16, np.float16, np.float32),
    ],
)
def test_an_extended_template_has_the_type_of_what_it_is_made_of(old, new, expected):
    template, _ = extend_template(np.ones(3, old), 2, np.ones((1, 3), new))
    assert template.dtype == expected
