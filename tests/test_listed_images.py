"""Which images the lines of LFW's list name, and which files are images."""

import numpy as np
import pytest
from PIL import Image

from sfpose.protocols import LFW, ImageFiles, LazyImages


def _level(root, name, level):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level,) * 3).save(root / name)


def test_both_numbers_of_a_line_count(tmp_path):
    """Image 2 of one against image 3 of the other, each known by its level of grey."""
    levels = {}
    for person, first in (("Ann", 40), ("Bo", 140)):
        for number in (1, 2, 3):
            levels[person, number] = first + 20 * number
            _level(tmp_path, f"{person}/{person}_{number:04d}.jpg", levels[person, number])
    (tmp_path / "pairs.txt").write_text("1 2\nAnn 1 3\nBo 3 2\nAnn 2 Bo 3\nBo 1 Ann 3\n")
    data = LFW(tmp_path)
    trials = data.trials()
    expected = [
        (("Ann", 1), ("Ann", 3)),
        (("Bo", 3), ("Bo", 2)),
        (("Ann", 2), ("Bo", 3)),
        (("Bo", 1), ("Ann", 3)),
    ]
    for place, pair in enumerate(expected):
        rows = int(trials.first[place]), int(trials.second[place])
        for row, image in zip(rows, pair, strict=True):
            assert data.images[row].mean() == pytest.approx(levels[image], abs=3)
    assert trials.first_people.tolist() == ["Ann", "Bo", "Ann", "Bo"]
    assert trials.second_people.tolist() == ["Ann", "Bo", "Bo", "Ann"]
    assert trials.is_genuine.tolist() == [True, True, False, False]


@pytest.mark.parametrize("lines", [["Ann 1 2"], ["Ann 1 2", "Ann 1 Bo 1", "Ann 2 Bo 1"]])
def test_a_list_has_as_many_lines_as_its_head_says(tmp_path, lines):
    for name in ("Ann_0001", "Ann_0002", "Bo_0001"):
        _level(tmp_path, f"{name}.jpg", 90)
    (tmp_path / "pairs.txt").write_text("\n".join(["1 1", *lines]))
    with pytest.raises(ValueError, match=f"1 genuine and 1 impostor pairs; got {len(lines)} lines"):
        LFW(tmp_path)


def test_images_are_told_by_their_suffix_and_cut_as_a_list_is(tmp_path):
    names = ["a.jpeg", "b.JPG", "c.png", "d.WebP"]
    for number, name in enumerate(names):
        _level(tmp_path, name, 40 + 30 * number)
    for other in ("e.gif", "f.txt", "jpg"):
        (tmp_path / other).write_text("no image")
    files = ImageFiles(tmp_path)
    assert files.images() == names
    images = LazyImages(files, files.images())
    for cut in (slice(None, None, 2), slice(None, None, -1), slice(-2, None), slice(1, 3)):
        assert images[cut].names == names[cut]
        assert len(images[cut]) == len(names[cut])
    assert [round(float(np.mean(image)), -1) for image in images[::-1]] == [130, 100, 70, 40]
