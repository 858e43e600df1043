"""Thresholds by number of images and by pose, against comparing everything by hand."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfpose import TemplateVerifier, build_templates
from sfpose._calibrated import from_conditions, to_conditions
from sfpose._kernels import reference
from sfpose._scoring import chi2_pairs
from sfpose.decision import Condition, choose_condition
from sfpose.metrics import LikelihoodRatioCalibrator, SmallSampleWarning


def _people(count=30, images=6, width=40, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, 1.0, (count, width))
    subjects = np.repeat(np.arange(count), images)
    return rng.gamma(centres[subjects] * 4 + 0.1).astype(np.float32), subjects


def _by_hand(descriptors, subjects, more, fewer, poses=None):
    """Distances, labels and poses of all templates without a shared image."""
    # Without poses a person's images come by chance: in the order of numbers drawn for all.
    drawn = np.random.default_rng(0).permutation(len(subjects))
    drawn = drawn if poses is None else np.arange(len(subjects))
    poses = np.zeros(len(subjects), int) if poses is None else poses

    def templates(images, last=False):
        for who in np.unique(subjects):
            for pose in np.unique(poses):
                rows = np.flatnonzero((subjects == who) & (poses == pose))
                rows = rows[np.argsort(drawn[rows])] if images > 1 else rows
                rows = rows[::-1] if last and images > 1 else rows
                for start in range(0, len(rows) - images + 1, images):
                    chosen = rows[start : start + images]
                    mean = descriptors[chosen].astype(np.float64).mean(0)
                    yield mean.astype(np.float32), who, pose, set(chosen)

    left, right = list(templates(more)), list(templates(fewer, last=more != fewer))
    found = []
    for i, (a, who_a, pose_a, rows_a) in enumerate(left):
        for j, (b, who_b, pose_b, rows_b) in enumerate(right):
            if rows_a & rows_b or (more == fewer and j <= i):
                continue
            distance = float(reference.chi2_pairs(a[None], b[None])[0])
            sides = sorted([pose_a, pose_b]) if more == fewer else [pose_a, pose_b]
            found.append((distance, who_a == who_b, *sides))
    return map(np.array, zip(*found, strict=True))


@pytest.mark.parametrize(("more", "fewer"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3)])
def test_each_number_of_images_has_the_threshold_of_its_own_comparisons(more, fewer):
    descriptors, subjects = _people()
    verifier = TemplateVerifier(0.05).fit(descriptors, subjects)
    calibration = verifier.calibrations_[Condition(more, fewer)]
    distances, genuine, _, _ = _by_hand(descriptors, subjects, more, fewer)
    assert calibration.genuine_pairs == genuine.sum()
    assert calibration.impostor_pairs == (~genuine).sum()
    accepted = distances <= calibration.threshold
    pair = 1.5 / (~genuine).sum()
    assert calibration.achieved_fmr == pytest.approx(accepted[~genuine].mean(), abs=pair)
    assert calibration.achieved_fmr == pytest.approx(0.05, abs=pair)
    assert calibration.fnmr == pytest.approx((~accepted)[genuine].mean(), abs=1.5 / genuine.sum())


def test_each_pair_of_poses_has_a_threshold_of_its_own():
    descriptors, subjects = _people()
    poses = np.tile(["frontal", "frontal", "frontal", "profile", "profile", "profile"], 30)
    descriptors[poses == "profile"] += (
        np.random.default_rng(1).gamma(1.0, 2.0, (90, 40)).astype(np.float32)
    )
    verifier = TemplateVerifier(0.05, groups=("pose", "size"), template_sizes=[(1, 1), (3, 1)])
    verifier.fit(descriptors, subjects, poses=poses)
    for more, fewer in [(1, 1), (3, 1)]:
        distances, genuine, *sides = _by_hand(descriptors, subjects, more, fewer, poses)
        swapped = [("profile", "frontal")] * (more != fewer)
        pairs = [("frontal", "frontal"), ("frontal", "profile"), ("profile", "profile"), *swapped]
        own = [c.poses for c in verifier.calibrations_ if c[:2] == (more, fewer)]
        assert {*own} <= {None, *pairs}
        for pair in pairs:
            chosen = (sides[0] == pair[0]) & (sides[1] == pair[1])
            found = verifier.calibrations_.get(Condition(more, fewer, pair))
            if not genuine[chosen].any():
                assert found is None
                continue
            assert found.impostor_pairs == (chosen & ~genuine).sum()
            assert found.genuine_pairs == (chosen & genuine).sum()
            accepted = distances[chosen & ~genuine] <= found.threshold
            assert found.achieved_fmr == pytest.approx(
                accepted.mean(), abs=1.5 / found.impostor_pairs
            )
    across = verifier.verify(descriptors[0], descriptors[3], poses=("profile", "frontal"))
    assert across.threshold == verifier.calibrations_[(1, 1, ("frontal", "profile"))].threshold
    assert across.threshold != verifier.threshold_
    assert verifier.verify(descriptors[0], descriptors[3]).threshold == verifier.threshold_


def _people_who_turn(count, seed):
    """Ten images each, five of either pose, which lies in the descriptors as a person does."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.gamma(1.0, 1.0, (count, 40)), 10, axis=0)
    poses = np.tile(np.repeat(["frontal", "profile"], 5), count)
    turned = np.random.default_rng(99).gamma(0.5, 3.0, 40) * (poses == "profile")[:, None]
    rows = rng.gamma(9 * (own + turned * rng.gamma(4.0, 0.25, (len(own), 1))) + 0.1)
    return (rows / rows.sum(1, keepdims=True)), np.repeat(np.arange(count), 10), poses


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("size", [2, 5])
def test_templates_of_several_poses_keep_the_rate(told, size):
    """Their mean lies nearer to strangers' than that of images of one pose."""
    rows, subjects, poses = _people_who_turn(150, seed=0)
    groups = ("size", "pose") if told else "size"
    verifier = TemplateVerifier(0.01, groups=groups, template_sizes=[(1, 1), (size, size)])
    verifier.fit(rows, subjects, poses=poses if told else None)
    rows, subjects, _ = _people_who_turn(150, seed=1)
    one_pose = np.arange(len(rows)).reshape(-1, 5)
    in_turn = np.arange(len(rows)).reshape(-1, 2, 5).transpose(0, 2, 1).reshape(-1, 10)
    for images, most in ((in_turn[:, :size], 0.015), (one_pose[::2, :size], 0.01)):
        means = rows[images].mean(axis=1)
        first, second = np.triu_indices(len(means), 1)
        strangers = chi2_pairs(means[first], means[second])
        accepted = strangers <= verifier.decision_rule(size, size).threshold
        assert accepted.mean() <= most
    if told and size == 2:  # Five and five images of one pose nobody has.
        alone = verifier.decision_rule(size, size, poses=("frontal", "frontal")).threshold
        assert alone > verifier.decision_rule(size, size).threshold


def test_profiles_that_are_used_up_do_not_dilute_the_rate():
    """Of five frontal images of a person and two profiles, two pairs hold both, one does not."""
    kept = np.tile([True] * 7 + [False] * 3, 120)
    rows, subjects, poses = (each[kept] for each in _people_who_turn(120, seed=0))
    verifier = TemplateVerifier(0.01, groups=("size", "pose"), template_sizes=[(1, 1), (2, 2)])
    verifier.fit(rows, subjects, poses=poses)
    own = rows.reshape(120, 7, -1)
    means = np.stack([own[:, [0, 5]].mean(1), own[:, [1, 6]].mean(1)], axis=1).reshape(240, -1)
    whose = np.arange(240) // 2
    strangers = reference.chi2_matrix(means, means)[np.triu(whose[:, None] != whose)]
    known = verifier.calibrations_[Condition(2, 2)]
    assert known.impostor_pairs == len(strangers)
    assert known.genuine_pairs == 120 * 3
    assert (strangers <= known.threshold).mean() == pytest.approx(0.01, abs=1e-4)


def test_copies_of_a_photo_are_told():
    """Two of them in one template are one image, and at no distance from each other."""
    rows, subjects = _people(30, 5)
    copied = np.concatenate([rows, rows[:7]])
    with pytest.warns(UserWarning, match="different images; 7 are copies of others"):
        TemplateVerifier(0.05).fit(copied, np.r_[subjects, subjects[:7]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TemplateVerifier(0.05).fit(rows, subjects)


def test_both_sides_of_a_person_with_just_enough_images():
    rows, subjects = _people(30, 5)
    verifier = TemplateVerifier(0.05, template_sizes=[(3, 2)]).fit(rows, subjects)
    assert verifier.calibrations_[Condition(3, 2)].genuine_pairs == 30


def test_a_threshold_of_single_images_lets_too_many_strangers_match_as_templates():
    # Why sizes are calibrated apart: means of several images lie closer together.
    descriptors, subjects = _people(60, 10)
    verifier = TemplateVerifier(0.01).fit(descriptors, subjects)
    distances, genuine, _, _ = _by_hand(descriptors, subjects, 5, 5)
    strangers = distances[~genuine]
    assert (strangers <= verifier.threshold_).mean() > 0.03
    own = verifier.verify(descriptors[:5], descriptors[5:10]).threshold
    assert (strangers <= own).mean() <= 0.01


def test_between_two_sizes_the_stricter_one_decides():
    descriptors, subjects = _people(40, 12)
    verifier = TemplateVerifier(0.05).fit(descriptors, subjects)
    seven = verifier.verify(descriptors[:7], descriptors[-1])
    assert seven.threshold == verifier.calibrations_[Condition(10, 1)].threshold
    assert seven.threshold < verifier.calibrations_[Condition(5, 1)].threshold
    with pytest.raises(ValueError, match=r"got 12 against 1 images, calibrated are: 1 against 1"):
        verifier.verify(descriptors[:12], descriptors[-1])
    one_rule = TemplateVerifier(0.05, groups=None).fit(descriptors, subjects)
    many = one_rule.verify(descriptors[:12], descriptors[-1])
    assert many.threshold == one_rule.threshold_
    assert "(target FMR 0.05, calibrated on single images)" in str(many)
    assert one_rule.verify(descriptors[0], descriptors[-1]).caution is None
    assert list(one_rule.calibrations_) == [Condition()]


def test_a_sample_of_impostors_never_shares_an_image():
    descriptors, subjects = _people(40, 6)
    settings = {"template_sizes": [(1, 1), (3, 1)]}
    whole = TemplateVerifier(0.05, **settings).fit(descriptors, subjects)
    some = TemplateVerifier(0.05, max_pairs=3_000, **settings).fit(descriptors, subjects)
    for condition, calibration in some.calibrations_.items():
        assert calibration.genuine_pairs == whole.calibrations_[condition].genuine_pairs
        assert calibration.impostor_pairs == 3_000
        expected = whole.calibrations_[condition].threshold
        assert calibration.threshold == pytest.approx(expected, rel=0.1)


def test_the_ratio_is_that_of_a_logistic_calibration():
    descriptors, subjects = _people()
    verifier = TemplateVerifier(0.05).fit(descriptors, subjects)
    distances, genuine, _, _ = _by_hand(descriptors, subjects, 1, 1)
    expected = LikelihoodRatioCalibrator().fit(distances, genuine)
    ratios = verifier.log_likelihood_ratio(descriptors[:20], descriptors[20:40])
    near = verifier.score_pairs(descriptors[:20], descriptors[20:40])
    np.testing.assert_allclose(ratios, expected.transform(near), rtol=1e-3, atol=1e-3)
    result = verifier.verify(descriptors[0], descriptors[20])
    assert result.log_likelihood_ratio == pytest.approx(ratios[0], rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_the_chosen_size_covers_what_is_asked_as_closely_as_any(sizes, template, probe):
    known = [Condition.of(*size) for size in sizes]
    wanted = Condition.of(template, probe)
    assert wanted == Condition.of(probe, template)
    covering = [
        c
        for c in known
        if c.template_images >= wanted.template_images and c.probe_images >= wanted.probe_images
    ]
    if not covering:
        with pytest.raises(ValueError, match="needs a threshold calibrated for its poses"):
            choose_condition(known, wanted)
        return
    chosen = choose_condition(known, wanted)
    assert chosen in covering
    assert sum(chosen[:2]) == min(sum(c[:2]) for c in covering)


_SIDES = st.tuples(st.integers(1, 5), st.sampled_from(["frontal", "profile"]))


@given(st.lists(st.tuples(_SIDES, _SIDES), min_size=1, max_size=8), st.tuples(_SIDES, _SIDES))
def test_each_side_brings_its_own_pose(known, wanted):
    def condition(first, second):
        return Condition.of(first[0], second[0], (first[1], second[1]))

    def covers(other, asked):
        return all(o[0] >= a[0] and o[1] == a[1] for o, a in zip(other, asked, strict=True))

    asked = condition(*wanted)
    assert asked == condition(*wanted[::-1])
    known_conditions = [condition(*sides) for sides in known]
    covering = [
        sum(images for images, _ in sides)
        for sides in known
        if covers(sides, wanted) or covers(sides, wanted[::-1])
    ]
    if not covering:
        with pytest.raises(ValueError, match="needs a threshold calibrated for its poses"):
            choose_condition(known_conditions, asked)
    else:
        assert sum(choose_condition(known_conditions, asked)[:2]) == min(covering)


def test_many_profiles_against_one_frontal_image_have_a_threshold_of_their_own():
    """People who all look alike from the side: many profiles are nearer to strangers."""
    rows, subjects, poses = _people_who_turn(60, 3)
    verifier = TemplateVerifier(0.05, groups=("size", "pose"), template_sizes=[(4, 1)])
    verifier.fit(rows, subjects, poses=poses)
    for pair in [("frontal", "profile"), ("profile", "frontal")]:
        rule = verifier.decision_rule(4, 1, pair)
        assert rule.threshold == verifier.calibrations_[Condition(4, 1, pair)].threshold
        assert rule == verifier.decision_rule(1, 4, pair[::-1])
        many, one = (rows[poses == pose].reshape(60, 5, -1) for pose in pair)
        distances = reference.chi2_matrix(many[:, :4].mean(1), one.reshape(300, -1))
        strangers = distances[np.arange(60)[:, None] != np.arange(300) // 5]
        assert (strangers <= rule.threshold).mean() == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "poses", "message"),
    [
        ({"groups": "age"}, None, "groups must be of"),
        ({"groups": "pose"}, None, "and no poses"),
        ({"groups": "size"}, ["frontal"] * 180, "and poses"),
        ({"groups": ("size", "pose")}, ["frontal"], r"shape \(180,\); got \(1,\)"),
        ({"template_sizes": [(1, 1), (7, 1)]}, None, "templates of 7 against 1 images need"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(settings, poses, message):
    verifier = TemplateVerifier(0.05, **settings)
    with pytest.raises(ValueError, match=message):
        verifier.fit(*_people(), poses=poses)
    assert not hasattr(verifier, "threshold_")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(5, 1), (1, 1)], (1, 1)), ([(5, 5), (3, 1)], (3, 1)), ([(1, 3)], (3, 1))],
)
@pytest.mark.parametrize("groups", ["size", ("size", "pose")])
def test_the_usual_threshold_is_what_decides_about_single_images(sizes, expected, groups):
    descriptors, subjects = _people(20, 20)
    poses = np.tile(["frontal", "profile"], 200) if "pose" in groups else None
    verifier = TemplateVerifier(0.05, groups=groups, template_sizes=sizes)
    verifier.fit(descriptors, subjects, poses=poses)
    alone = TemplateVerifier(0.05, groups=groups, template_sizes=[expected])
    alone.fit(descriptors, subjects, poses=poses)
    assert verifier.calibration_ == alone.calibrations_[Condition(*expected)]
    assert verifier.threshold_ == verifier.calibration_.threshold
    a, b = descriptors[:-1], descriptors[1:]
    expected = verifier.score_pairs(a, b) <= verifier.threshold_
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(verifier.predict(a, b), expected)


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        (3, 1),
        5,
        "31",
        [(0, 1)],
        [(1, -1)],
        [(1.0, 1.0)],
        [("1", "1")],
        [(1, 1), (1,)],
        [(1, 2, 3)],
        np.ones((2, 2)),
        np.empty((0, 2), int),
    ],
)
def test_sizes_that_are_no_pairs_of_numbers_are_refused_before_anything(sizes):
    verifier = TemplateVerifier(template_sizes=sizes)
    with pytest.raises(ValueError, match="template_sizes must be one or more pairs of whole") as no:
        verifier.fit(np.full((4, 3), np.nan), [1, 1, 2, 2])
    assert f"at least 1; got {sizes!r}" in str(no.value)


def test_sizes_may_be_an_array():
    sizes = [(1, 1), (3, 1)]
    listed = TemplateVerifier(0.05, template_sizes=sizes).fit(*_people())
    array = TemplateVerifier(0.05, template_sizes=np.array(sizes)).fit(*_people())
    assert array.calibrations_ == listed.calibrations_
    assert [tuple(condition[:2]) for condition in array.calibrations_] == sizes


def test_poses_may_be_numbers():
    descriptors, subjects = _people()
    # As text, 10 comes before 2.
    poses = np.tile([2, 2, 2, 10, 10, 10], 30)
    descriptors[poses == 10] += (
        np.random.default_rng(1).gamma(1.0, 2.0, (90, 40)).astype(np.float32)
    )
    verifier = TemplateVerifier(0.05, groups=("size", "pose"), template_sizes=[(1, 1)])
    verifier.fit(descriptors, subjects, poses=poses)
    distances, genuine, low, high = _by_hand(descriptors, subjects, 1, 1, poses)
    for pair in [(2, 2), (2, 10), (10, 2), (10, 10)]:
        chosen = (low == min(pair)) & (high == max(pair)) & ~genuine
        told = [pair, tuple(map(str, pair)), np.array(pair), list(pair)]
        found = {verifier.verify(descriptors[0], descriptors[3], poses=each) for each in told}
        assert len(found) == 1
        accepted = (distances[chosen] <= found.pop().threshold).mean()
        assert accepted == pytest.approx(0.05, abs=1.5 / chosen.sum())


@pytest.mark.parametrize("poses", ["ab", "frontal", ("frontal",), ("a", "b", "c"), 5, {"a", "b"}])
def test_poses_of_a_comparison_are_two(poses):
    verifier = TemplateVerifier(0.001, groups=("size", "pose"))
    with pytest.raises(ValueError, match="poses must be two, one of each side; got") as no:
        verifier.predict(np.ones((1, 256)), np.ones((1, 256)), poses=poses)
    assert repr(poses) in str(no.value)


def test_a_stored_calibration_needs_a_threshold_for_all_poses_mixed():
    descriptors, subjects = _people()
    poses = np.tile(["frontal", "profile"], 90)
    verifier = TemplateVerifier(0.05, groups="pose").fit(descriptors, subjects, poses=poses)
    stored = to_conditions(verifier._calibrated)
    assert from_conditions({"calibration": {"conditions": stored}}) == verifier._calibrated
    for lacking in ([], [entry for entry in stored if entry["poses"]]):
        with pytest.raises(ValueError, match="with a threshold for all poses mixed; it has none"):
            from_conditions({"calibration": {"conditions": lacking}})
    stored[-1]["poses"] = "ab"
    with pytest.raises(ValueError, match=r"of another form.*poses must be two"):
        from_conditions({"calibration": {"conditions": stored}})


def test_a_pose_without_genuine_pairs_is_named():
    descriptors, subjects = _people(30, 2)
    poses = np.tile(["frontal", "profile"], 30)
    verifier = TemplateVerifier(0.1, groups="pose")
    with pytest.warns(
        SmallSampleWarning, match=r"(frontal|profile) - \1: genuine or impostor pairs"
    ) as caught:
        verifier.fit(descriptors, subjects, poses=poses)
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(ValueError, match="got 1 against 1 images, frontal - frontal"):
        verifier.verify(descriptors[0], descriptors[2], poses=("frontal", "frontal"))


def test_poses_decide_only_where_they_were_asked_for():
    descriptors, subjects = _people()
    verifier = TemplateVerifier(0.05).fit(descriptors, subjects)
    with pytest.raises(ValueError, match='poses decide only where groups hold "pose"'):
        verifier.predict(descriptors[:1], descriptors[1:2], poses=("frontal", "profile"))
    with pytest.raises(
        ValueError, match="template_images must be a whole number, at least 1; got 0"
    ):
        verifier.predict(descriptors[:1], descriptors[1:2], template_images=0)


def test_numbers_of_images_come_from_numpy_too():
    descriptors, subjects = _people()
    verifier = TemplateVerifier(0.05).fit(descriptors, subjects)
    built = build_templates(descriptors[:5], ["ann"] * 3 + ["bo"] * 2)
    found = verifier.verify(built.templates[0], descriptors[5], template_images=built.counts[0])
    assert found == verifier.verify(descriptors[:3], descriptors[5])


def test_sizes_that_come_by_themselves_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # 30 x 29 / 2 x 36 impostor pairs of single images: 30 false matches at 0.01.
        TemplateVerifier(0.01).fit(*_people())


@pytest.mark.parametrize("target", [1e-5, 5e-5])
def test_an_image_under_two_people_is_told_and_not_calibrated_on(target):
    descriptors, subjects = _people()
    descriptors[6] = descriptors[0]
    with pytest.raises(ValueError, match=r"different people must differ.* 0 and 1 share one"):
        TemplateVerifier(target, template_sizes=[(1, 1)]).fit(descriptors, subjects)


def test_changed_groups_do_not_change_what_was_fitted():
    descriptors, subjects = _people(60)
    verifier = TemplateVerifier(0.01, template_sizes=[(1, 1), (2, 2)]).fit(descriptors, subjects)
    sides = descriptors[:2], descriptors[6:8]
    before = verifier.verify(*sides).threshold
    assert before != verifier.threshold_
    verifier.set_params(groups=None)
    assert verifier.verify(*sides).threshold == before
    one = TemplateVerifier(0.01, groups=None).fit(descriptors, subjects).set_params(groups="size")
    assert one.verify(*sides).threshold == one.threshold_


def test_weights_of_templates_may_be_of_any_size():
    descriptors, subjects = _people(3, images=3)
    weights = np.tile([1.0, 2.0, 3.0], 3)
    expected = build_templates(descriptors, subjects, weights=weights).templates
    for scale in (1e-300, 1e300):
        found = build_templates(descriptors, subjects, weights=weights * scale).templates
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_image_under_many_people_is_told_where_distances_are_normalised_too():
    descriptors, subjects = _people(60)
    strangers = np.random.default_rng(5).gamma(1.0, 1.0, (200, descriptors.shape[1]))
    descriptors[np.flatnonzero(np.r_[True, subjects[1:] != subjects[:-1]])] = descriptors[0]
    with pytest.raises(ValueError, match=r"different people must differ for an FMR of 0\.01"):
        TemplateVerifier(0.01, groups=None).fit(descriptors, subjects, cohort=strangers)


def test_a_damaged_row_among_normalised_ones_is_told():
    descriptors, subjects = _people()
    descriptors /= descriptors.sum(axis=1, keepdims=True)
    descriptors[7] = 0
    with pytest.raises(ValueError, match="most rows sum to 1, row 7 to 0"):
        TemplateVerifier(0.01).fit(descriptors, subjects)


def test_templates_of_one_pose_need_none_of_several():
    """Four frontal and two profile images: in turn, all templates of 4 and 2 share some."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 6)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 30)), 6, axis=0) * 9 + 0.1)
    poses = np.tile(["frontal"] * 4 + ["profile"] * 2, 40)
    found = TemplateVerifier(0.05, groups=("size", "pose"), template_sizes=[(1, 1), (4, 2)])
    found.fit(rows, subjects, poses=poses)
    assert [condition for condition in found.calibrations_ if condition.template_images == 4] == [
        Condition(4, 2, ("frontal", "profile"))
    ]
    with pytest.raises(ValueError, match="templates of 5 against 5 images need two people"):
        found.set_params(template_sizes=[(5, 5)]).fit(rows, subjects, poses=poses)


@pytest.mark.filterwarnings("ignore::sfpose.metrics.SmallSampleWarning")
def test_a_fit_that_fails_leaves_the_last_one_whole():
    """Of these people, 4 against 2 images are compared of one pose each alone, or not at all."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 6)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (40, 30)), 6, axis=0) * 9 + 0.1)
    cohort = rng.gamma(rng.gamma(1.0, 1.0, (150, 30)) * 9 + 0.1)
    poses = np.tile(["frontal"] * 4 + ["profile"] * 2, 40)
    kept = TemplateVerifier(0.05, groups=("size", "pose"), template_sizes=[(1, 1)])
    kept.fit(rows, subjects, poses=poses)
    before = vars(kept).copy()
    distances = kept.score_pairs(rows[:-1], rows[1:])
    kept.set_params(template_sizes=[(4, 2)])
    with pytest.raises(ValueError, match="4 against 2 images of all poses in turn need two"):
        kept.fit(rows, subjects, poses=poses, cohort=cohort)
    assert vars(kept) == {**before, "template_sizes": [(4, 2)]}
    np.testing.assert_array_equal(kept.score_pairs(rows[:-1], rows[1:]), distances)


@pytest.mark.parametrize("sizes", [(1, 2), (1, 5), (2, 3)])
def test_the_smaller_number_may_come_first(sizes):
    descriptors, subjects = _people(20, 20)
    poses = np.tile(["frontal", "profile"], 200)
    found = []
    for pair in (sizes, sizes[::-1]):
        verifier = TemplateVerifier(0.05, groups=("size", "pose"), template_sizes=[pair])
        found.append(verifier.fit(descriptors, subjects, poses=poses).calibrations_)
    assert found[0] == found[1]
    assert Condition(*sizes[::-1], ("frontal", "profile")) in found[0]


def test_long_names_of_people_cost_a_fit_no_more_than_numbers():
    """There is one on either side of each pair, of which there may be millions."""
    codes = np.repeat(np.arange(100), 3)
    rng = np.random.default_rng(0)
    rows = rng.gamma(np.repeat(rng.gamma(1.0, 1.0, (100, 20)), 3, axis=0) * 9 + 0.1)
    peaks, found = [], []
    for subjects in (codes, np.array([f"{code:050d}" for code in codes])):
        tracemalloc.start()
        found.append(TemplateVerifier(0.01, groups=None).fit(rows, subjects).calibration_)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[0] == found[1]
    assert peaks[1] < 1.1 * peaks[0]


def test_one_threshold_for_all_says_that_it_is_that_of_single_images():
    """Before a fit too, and beside what else there is to be careful about."""
    shipped = TemplateVerifier(groups=None)
    assert shipped.decision_rule(1, 1).caution is None
    assert shipped.decision_rule(2, 1).caution == "calibrated on single images"
    assert shipped.decision_rule(2, 1).threshold == shipped.decision_rule().threshold
    descriptors, subjects = _people(9)
    with pytest.warns(SmallSampleWarning):
        few = TemplateVerifier(0.1, groups=None).fit(descriptors, subjects)
    assert few.decision_rule(2, 2).caution == "calibrated on 9 people, calibrated on single images"
