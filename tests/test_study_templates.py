"""Each study of templates against means and distances of one's own, with halves that differ."""

import numpy as np
import pytest

from sfpose.metrics import equal_error_rate
from sfpose.studies import PoseStudies, keep_ocular_region

POSES = ["frontal", "profile", "three_quarter"]
PEOPLE = 12


def _distance(rows, first, second):
    return np.abs(np.float64(rows[first]) - rows[second]).sum(1)


@pytest.fixture(scope="module")
def table():
    """Descriptors that tell people badly, so that no two ways have the same error rate."""
    rng = np.random.default_rng(3)
    subjects, poses = [], []
    for person in range(PEOPLE):
        for number, pose in enumerate(POSES):
            images = 5 + (person + number) % 3
            subjects += [person] * images
            poses += [pose] * images
    order = rng.permutation(len(subjects))
    subjects, poses = np.array(subjects)[order], np.array(poses)[order]
    centres = rng.gamma(1.0, 1.0, (PEOPLE, 12))
    turns = {pose: rng.gamma(2.0, 0.5, 12) for pose in POSES}
    rows = rng.gamma(2.0, 1.0, (len(subjects), 12)) + 0.7 * centres[subjects]
    return rows * np.stack([turns[pose] for pose in poses]), subjects, poses


@pytest.fixture(scope="module")
def studies(table):
    return PoseStudies(*table, compare=_distance, draws=5)


def _halves(table, person, pose):
    """Images to enrol and to probe with: of an odd number one more is enrolled."""
    _, subjects, poses = table
    own = [n for n in range(len(subjects)) if subjects[n] == person and poses[n] == pose]
    middle = -(-len(own) // 2)
    return own[:middle], own[middle:]


def _check(row, table, templates, probes, owners):
    """The row's error rate and counts are those of templates (people, d) against probes."""
    matrix = np.abs(np.array(templates)[:, None] - np.array(probes)[None]).sum(2)
    genuine = np.arange(PEOPLE)[:, None] == np.array(owners)[None]
    _check_matrix(row, matrix, genuine)


def _check_matrix(row, matrix, genuine):
    assert (row.rates.genuine, row.rates.impostor) == (genuine.sum(), (~genuine).sum())
    expected = equal_error_rate(matrix.ravel(), genuine.ravel())
    assert 0.02 < expected < 0.6
    assert row.rates.eer == pytest.approx(expected, abs=1e-6)


def _probes(table, poses):
    images = [
        (n, who) for pose in poses for who in range(PEOPLE) for n in _halves(table, who, pose)[1]
    ]
    return table[0][[n for n, _ in images]], [who for _, who in images]


def _means(table, pose, count=None):
    return [table[0][_halves(table, who, pose)[0][:count]].mean(0) for who in range(PEOPLE)]


def test_more_images_are_the_first_of_the_half_that_everybody_has(table, studies):
    found = studies.number_of_images("profile", "three_quarter", (1, 2, 3, 4))
    assert [row.name for row in found] == [f"{n} profile - 1 three_quarter" for n in (1, 2, 3)]
    for count, row in zip((1, 2, 3), found, strict=True):
        _check(row, table, _means(table, "profile", count), *_probes(table, ["three_quarter"]))


@pytest.mark.parametrize("total", [2, 4, 5, 10])
def test_mixed_templates_take_poses_in_turn(table, studies, total):
    found = {row.name: row for row in studies.mixed_poses(total)}
    assert len(found) == 12
    mixed = []
    for who in range(PEOPLE):
        halves = [_halves(table, who, pose)[0] for pose in POSES]
        turns = [half[turn] for turn in range(4) for half in halves if turn < len(half)]
        mixed.append(table[0][turns[:total]].mean(0))
    for probed in POSES:
        probes = _probes(table, [probed])
        # More images than poses are those that half of a person's reach to.
        most = "up to " if total > len(POSES) else ""
        _check(found[f"{most}{total} mixed - 1 {probed}"], table, mixed, *probes)
        for pose in POSES:
            means = _means(table, pose, total)
            _check(found[f"up to {total} {pose} - 1 {probed}"], table, means, *probes)


def test_several_templates_are_fused_in_three_ways(table, studies):
    nearest, mean, together = studies.several_enrolled()
    probes, owners = _probes(table, POSES)
    templates = np.array([_means(table, pose) for pose in POSES])
    apart = np.abs(templates[:, :, None] - probes).sum(3)
    genuine = np.arange(PEOPLE)[:, None] == np.array(owners)[None]
    _check_matrix(nearest, apart.min(0), genuine)
    _check_matrix(mean, apart.mean(0), genuine)
    _check(together, table, templates.mean(0), probes, owners)


def test_frames_are_chosen_among_all_poses_and_meet_a_frontal_template(table, studies):
    measure = np.random.default_rng(1).random(len(table[0]))
    every, best, worst, averaged = studies.best_frame({"up": measure, "down": -measure})
    assert [row.name for row in (every, best)] == ["every frame", "best frame by up"]
    frontal = _means(table, "frontal")
    _check(every, table, frontal, *_probes(table, POSES))
    frames = [
        np.array([n for pose in POSES for n in _halves(table, who, pose)[1]])
        for who in range(PEOPLE)
    ]
    people = range(PEOPLE)
    for row, key in ((best, measure), (worst, -measure)):
        _check(row, table, frontal, [table[0][own[key[own].argmin()]] for own in frames], people)
    _check(averaged, table, frontal, [table[0][own].mean(0) for own in frames], people)


def test_single_images_of_a_pose_meet_those_of_the_same_pose(table, studies):
    for pose, row in zip(POSES, studies.same_pose(), strict=True):
        assert row.name == f"1 {pose} - 1 {pose}"
        _check(row, table, _means(table, pose, 1), *_probes(table, [pose]))


def test_without_frontal_images_the_first_pose_is_enrolled(table):
    rows, subjects, poses = table
    renamed = np.where(poses == "frontal", "upward", poses)
    row = PoseStudies(rows, subjects, renamed, compare=_distance, draws=5).best_frame({})[0]
    probes, owners = _probes(table, ["profile", "three_quarter", "frontal"])
    _check(row, table, _means(table, "profile"), probes, owners)


def test_people_are_resampled_as_often_as_asked(table):
    few, many = (
        PoseStudies(*table, compare=_distance, draws=draws).same_pose()[0].eer_interval
        for draws in (2, 400)
    )
    # The ends of two drawings lie closer together than those of 400.
    assert few[1] - few[0] < many[1] - many[0]


def test_brows_to_cheekbones_stay():
    """A hundred lines of their own level: 30 to 61 stay, unless told otherwise."""
    crops = np.repeat(np.uint8(np.arange(100) + 20)[None, :, None, None], 100, 2).repeat(3, 3)
    kept = keep_ocular_region(crops)[0, :, 0, 0]
    assert np.flatnonzero(kept == np.arange(100) + 20).tolist() == list(range(30, 62))


def test_a_band_may_reach_both_edges_and_is_not_empty():
    crops = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(keep_ocular_region(crops, top=0, bottom=1), crops)
    for top, bottom in ((0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.2, float("nan"))):
        with pytest.raises(ValueError, match=r"band must lie in 0 <= top < bottom <= 1; got"):
            keep_ocular_region(crops, top=top, bottom=bottom)


@pytest.mark.parametrize("shape", [(20, 20, 3), (2, 20, 20, 4), (2, 20, 20)])
def test_what_are_no_crops_have_no_band(shape):
    """Of a single crop the band would be of columns."""
    with pytest.raises(ValueError, match=r"crops must be uint8 of shape \(n, size, size, 3\); got"):
        keep_ocular_region(np.zeros(shape, np.uint8))


def test_who_has_a_single_image_of_a_pose_takes_no_part(table):
    """One is enrolled, so that none is left to probe with; of two, one is."""
    rows, subjects, poses = table
    kept = np.ones(len(subjects), bool)
    for person, count in ((4, 1), (7, 2)):
        kept[np.flatnonzero((subjects == person) & (poses == "profile"))[count:]] = False
    studies = PoseStudies(rows[kept], subjects[kept], poses[kept], compare=_distance, draws=3)
    assert studies.people.tolist() == [who for who in range(PEOPLE) if who != 4]
    assert studies.left_out == 1


def test_each_image_needs_a_pose(table):
    rows, subjects, poses = table
    count = len(rows)
    with pytest.raises(ValueError, match=f"got {count}, {count} and {count - 1}"):
        PoseStudies(rows, subjects, poses[1:])


@pytest.mark.parametrize("pair", [("profil", "frontal"), ("frontal", "profil")])
def test_poses_that_nobody_shows_are_refused(studies, pair):
    """And do not give an empty table."""
    with pytest.raises(ValueError, match=r"pose must be one of \['frontal', .*; got 'profil'"):
        studies.number_of_images(*pair)
