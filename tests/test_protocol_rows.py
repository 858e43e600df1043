"""Which rows, folds and files the readers of data sets choose."""

import itertools
import os

import numpy as np
import pytest

from sfpose.protocols import CFP, LFW, ImageFiles, VGGFace2Pose


def _touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_template_is_of_the_first_images_of_each_person(tmp_path):
    """In the order of the table, whose folders name another person first."""
    people = ("a/002", "b/001")
    poses = {"frontal": 4, "profile": 2}
    _touch(
        tmp_path,
        [f"{who}/{pose}/{n}.png" for who in people for pose in poses for n in range(poses[pose])],
    )
    cfp = CFP(tmp_path)
    for pose, count in (("frontal", 1), ("frontal", 3), ("profile", 1)):
        chosen = [cfp.images.names[row] for row in cfp.template_rows(pose, count)]
        assert chosen == [f"{who}/{pose}/{n}.png" for who in people for n in range(count)]


def test_images_left_over_are_the_last_ones():
    poses = np.tile(np.repeat(["F", "P"], [10, 8]), 2)
    made = VGGFace2Pose(np.repeat(["ann", "bo"], 18), poses).templates(3)
    first = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [10, 11, 12], [13, 14, 15]]
    assert made.rows.tolist() == first + (np.array(first) + 18).tolist()
    assert made.poses.tolist() == (["F"] * 3 + ["P"] * 2) * 2
    assert made.subjects.tolist() == ["ann"] * 5 + ["bo"] * 5


def test_within_a_pose_a_stranger_is_met_by_its_second_template():
    """Images 0 to 3 of ann, 4 to 7 of bo, 8 to 11 of cy: templates 0 1, 2 3, 4 5."""
    protocol = VGGFace2Pose(np.repeat(["ann", "bo", "cy"], 4), ["F"] * 12, impostors=1)
    trials = protocol.trials("F", "F", 2)
    pairs = list(zip(trials.first.tolist(), trials.second.tolist(), strict=True))
    assert pairs == [(0, 1), (2, 3), (4, 5), (0, 3), (2, 5), (4, 1)]
    assert trials.is_genuine.tolist() == [True] * 3 + [False] * 3


def test_a_table_of_several_columns_has_no_protocol():
    with pytest.raises(ValueError, match=r"shape \(n,\); got \(2, 2\) and \(2, 2\)"):
        VGGFace2Pose([["ann", "bo"]] * 2, [["F", "F"]] * 2)


def test_a_fold_holds_as_many_pairs_of_both_kinds_as_the_head_says(tmp_path):
    people = [f"P{n}" for n in range(7)]
    _touch(tmp_path, [f"{who}_{n:04d}.jpg" for who in people for n in (1, 2)])
    genuine = [f"{who} 1 2" for who in people]
    strangers = [f"{one} 1 {other} 2" for one, other in itertools.pairwise(people)]
    lines = ["2 3", *genuine[:3], *strangers[:3], "", *genuine[3:6], *strangers[3:6]]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    trials = LFW(tmp_path).trials()
    assert trials.folds.tolist() == [0] * 6 + [1] * 6
    assert trials.is_genuine.tolist() == ([True] * 3 + [False] * 3) * 2


def test_images_have_every_usual_suffix(tmp_path):
    names = [f"a.{suffix}" for suffix in ("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp")]
    names += [name.upper().replace("A.", "b.") for name in names]
    _touch(tmp_path, [*names, "a.apng", "a.jpg.txt", "jpg", "png"])
    assert ImageFiles(tmp_path).images() == sorted(names)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    _touch(tmp_path, ["001/frontal/1.png", "002/frontal/1.png"])
    scandir = os.scandir

    def closed(path):
        if os.fspath(path).endswith("002"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="002"):
        ImageFiles(tmp_path)


@pytest.mark.parametrize("count", [-1, 0, 1.0, True])
def test_a_template_of_no_number_of_images_is_refused(tmp_path, count):
    from PIL import Image

    for person in ("001", "002"):
        (tmp_path / person / "frontal").mkdir(parents=True)
        Image.new("RGB", (30, 40)).save(tmp_path / person / "frontal" / "01.jpg")
    with pytest.raises(ValueError, match="count must be a whole number, at least 1"):
        CFP(tmp_path).template_rows("frontal", count)
