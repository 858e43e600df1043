"""Templates of known people and their pairs, against making and comparing all by hand."""

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfpose._sampling import sample
from sfpose._template_pairs import KnownImages, template_pairs


def _known(subjects, poses=None, rows=None, random_state=0):
    """What a calibration knows of its people; their images are drawn where no poses are given."""
    rows = np.random.default_rng(0).random((len(subjects), 3)) if rows is None else rows
    numbers = np.unique(subjects, return_inverse=True)[1]
    if poses is None:
        return KnownImages(rows, numbers, np.zeros(len(rows), int), random_state)
    return KnownImages(rows, numbers, np.unique(poses, return_inverse=True)[1], None)


def test_templates_hold_images_of_all_poses_in_turn():
    subjects = np.array([1] * 7 + [0] * 5)
    poses = np.array(list("aaaabbc") + list("babaa"))
    rows = np.random.default_rng(0).random((12, 3))
    known = _known(subjects, poses, rows)
    mixed, apart = (known.side(3, mixed=mixed) for mixed in (True, False))
    assert ["".join(poses[each]) for each in mixed.images] == ["aba", "abc", "aba"]
    assert mixed.subjects.tolist() == [0, 1, 1]
    assert ["".join(poses[each]) for each in apart.images] == ["aaa", "aaa"]
    np.testing.assert_allclose(mixed.templates, rows[mixed.images].mean(1))
    assert mixed.meets_strangers.all()
    assert apart.meets_strangers.all()


def test_only_templates_of_several_poses_meet_strangers_if_a_person_has_them():
    poses = np.array(list("ffffffffffpppp") + list("fff"))
    known = _known([0] * 14 + [1] * 3, poses)
    for last, expected in [(False, "fp fp fp fp ff ff ff ff"), (True, "fp fp fp fp ff ff ff ff")]:
        pairs = known.side(2, mixed=True, last=last)
        assert " ".join("".join(poses[each]) for each in pairs.images) == expected
        assert pairs.meets_strangers.tolist() == [True] * 4 + [False] * 3 + [True]
    assert known.side(2, mixed=False).meets_strangers.all()
    assert known.side(1, mixed=True).meets_strangers.all()


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("posed", [True, False])
def test_the_other_side_begins_with_the_last_image(mixed, posed):
    subjects = np.repeat([0, 1], [10, 12])
    poses = np.array(list("ffffffpppp") + list("ffffffpppppp")) if posed else None
    known = _known(subjects, poses)
    first, other = (known.side(2, mixed=mixed, last=last) for last in (False, True))
    for number in (0, 1):
        sides = [side.images[side.subjects == number] for side in (first, other)]
        kinds = [slice(None)] if mixed or not posed else [poses[sides[0][:, 0]] == p for p in "fp"]
        for kind in kinds:
            own = [side[kind] for side in sides]
            assert {*own[0].ravel()} == {*own[1].ravel()}
            assert not {*own[0][0]} & {*own[1][0]}


def test_where_no_poses_are_known_a_template_holds_any_images_of_a_person():
    subjects = np.repeat([3, 1, 2], [40, 7, 12])
    images = _known(subjects, random_state=4).side(4, mixed=True).images
    assert images.shape == (1 + 3 + 10, 4)
    assert (subjects[images] == subjects[images[:, :1]]).all()
    assert len({*images.ravel()}) == images.size
    # Not those that lie beside each other in the folder.
    assert np.ptp(images[-10:], axis=1).mean() > 15


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("fp")), min_size=2, max_size=40).filter(
        lambda images: len({who for who, _ in images}) > 1
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 60),
    st.booleans(),
    st.booleans(),
)
def test_pairs_are_all_genuine_and_so_many_distinct_impostors(
    images, more, fewer, max_pairs, mixed, posed
):
    subjects, poses = (np.array(each) for each in zip(*images, strict=True))
    known = _known(subjects, poses if posed else None)
    left = known.side(more, mixed=mixed)
    right = left if more == fewer else known.side(fewer, mixed=mixed, last=True)
    if left is None or right is None:
        return

    def meets(who, rows):
        held = {*poses[rows]}
        has = {*poses[subjects == subjects[rows[0]]]}
        return not (posed and mixed and len(rows) > 1) or len(held) > 1 or len(has) == 1

    genuine, impostor = [], []
    for i, (who, rows) in enumerate(zip(left.subjects, left.images, strict=True)):
        for j, (other, others) in enumerate(zip(right.subjects, right.images, strict=True)):
            if {*rows} & {*others} or (left is right and i >= j):
                continue
            if who == other:
                genuine.append((i, j))
            elif meets(who, rows) and meets(other, others):
                impostor.append((i, j))
    pairs = template_pairs(left, right, max_pairs, 0)
    found = list(zip(*(side.tolist() for side in pairs), strict=True))
    assert found[: len(genuine)] == genuine
    drawn = found[len(genuine) :]
    assert len({*drawn}) == len(drawn) == min(max_pairs, len(impostor))
    assert {*drawn} <= {*impostor}
    if max_pairs >= len(impostor):
        assert drawn == impostor


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_sample_is_as_likely(size):
    rng = np.random.default_rng(0)
    sets = math.comb(6, size)
    found = Counter(tuple(sample(rng, 6, size).tolist()) for _ in range(400 * sets))
    assert len(found) == sets
    assert {*found} == {*itertools.combinations(range(6), size)}
    # Five standard deviations of a count of 400.
    assert max(abs(times - 400) for times in found.values()) < 100


def test_a_sample_of_many_pairs_needs_little_memory():
    subjects = np.repeat(np.arange(10_000), 2)
    side = _known(subjects, rows=np.ones((20_000, 1))).side(1, mixed=True)
    tracemalloc.start()
    first, second = template_pairs(side, side, 1_000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (subjects[first] == subjects[second]).sum() == 10_000
    assert len(first) == 11_000
    # A bit for each of the 200 million pairs would be 25 MB.
    assert peak < 10e6
