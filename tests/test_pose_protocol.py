"""The paper's protocol of subjects and poses: its counts, its pairs, what it refuses."""

import numpy as np
import pytest

from sfpose.protocols import PoseFolder, VGGFace2Pose, all_pairs


def _vggface2(people=368, images=10):
    subjects = np.repeat(np.arange(people), 3 * images)
    poses = np.tile(np.repeat(["F", "3/4", "P"], images), people)
    return VGGFace2Pose(subjects, poses)


@pytest.mark.parametrize(
    ("poses", "size", "genuine"),
    [
        (("F", "F"), 1, 16_560),
        (("P", "P"), 5, 368),
        (("F", "3/4"), 1, 36_800),
        (("3/4", "P"), 5, 1_472),
    ],
)
def test_counts_are_those_of_table_3(poses, size, genuine):
    trials = _vggface2().trials(*poses, template_size=size)
    assert int(trials.is_genuine.sum()) == genuine
    assert int((~trials.is_genuine).sum()) == 36_800


@pytest.mark.parametrize("size", [1, 2, 5])
def test_pose_trials_follow_the_protocol(size):
    protocol = _vggface2(people=6, images=10)
    protocol.impostors = 3
    templates = protocol.templates(size)
    assert templates.rows.shape == (6 * 3 * (10 // size), size)
    assert (np.diff(templates.rows, axis=1) == 1).all()
    trials = protocol.trials("F", "P", size)
    assert set(templates.poses[trials.first]) == {"F"}
    assert set(templates.poses[trials.second]) == {"P"}
    strangers = ~trials.is_genuine
    steps = (trials.second_people[strangers] - trials.first_people[strangers]) % 6
    assert steps.reshape(6, 3).tolist() == [[1, 2, 3]] * 6
    # First template of the one, second of the other: of five images, 1 to 5 against 6 to 10.
    first_rows = templates.rows[trials.first[strangers], 0] % 30
    second_rows = templates.rows[trials.second[strangers], 0] % 30
    assert set(first_rows) == {0}
    assert set(second_rows) == {20 + size}
    genuine = trials.is_genuine
    assert genuine.sum() == 6 * (10 // size) ** 2
    assert (trials.first_people[genuine] == trials.second_people[genuine]).all()
    pairs = set(zip(trials.first.tolist(), trials.second.tolist(), strict=True))
    assert len(pairs) == len(trials)


def test_fewer_people_than_impostors_take_all_the_others():
    trials = _vggface2(people=50).trials("F", "P")
    assert int((~trials.is_genuine).sum()) == 50 * 49


def test_the_pose_protocol_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="pose must be one of"):
        _vggface2(3).trials("F", "back")
    with pytest.raises(ValueError, match="need 20 images of each person and pose; 0 has 10"):
        _vggface2(3).templates(10)
    with pytest.raises(ValueError, match="at least two people; got 1"):
        _vggface2(1)
    with pytest.raises(ValueError, match=r"shape \(n,\); got \(2,\) and \(3,\)"):
        VGGFace2Pose([0, 1], ["F"] * 3)
    table = [0, 0, 1, 1], ["F"] * 4
    assert VGGFace2Pose(*table, [1, 2, 1, 2]).people.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"got \(1, 'F', 2\) 2 times"):
        VGGFace2Pose(*table, [1, 2, 2, 2])
    with pytest.raises(ValueError, match=r"images must have shape \(4,\); got \(1,\)"):
        VGGFace2Pose(*table, [1])


def test_the_real_kdef_has_the_layout_of_the_protocol(shared_data):
    folder = PoseFolder(shared_data / "kdef_pose.zip")
    protocol = VGGFace2Pose(folder.subjects, folder.poses)
    trials = protocol.trials("frontal", "three_quarter", 5)
    assert int(trials.is_genuine.sum()) == 50 * 4
    assert int((~trials.is_genuine).sum()) == 50 * 49


def test_templates_of_no_images_are_refused():
    with pytest.raises(ValueError, match="template_size must be"):
        _vggface2(3, 4).trials("F", "P", template_size=0)


def test_a_table_of_nobody_is_refused_as_one_of_too_few():
    with pytest.raises(ValueError, match="at least two people; got 0"):
        VGGFace2Pose([], [], [])
    with pytest.raises(ValueError, match="subjects must name one person for each row"):
        all_pairs("abc", [0])
