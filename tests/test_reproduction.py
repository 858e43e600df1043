"""The paper's tables and figures: each number in its place beside those that were measured."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from sfpose.evaluation import PoseColumn
from sfpose.protocols import CFP, all_pairs
from sfpose.reproduction import (
    TABLE_4,
    TABLE_5,
    count_trials,
    det_figure,
    format_trial_counts,
    pose_table,
    table_cells,
    table_columns,
)


def test_table_5_is_the_papers():
    printed = {
        "MS1M": "16.82 16.23 20.24 17.45 21.24 24.19 1.17 2.17 3.25 1.70 5.24 7.01",
        "VGGFace2": "8.93 6.97 8.34 8.35 8.16 10.35 0.27 0.27 0.64 0.20 0.55 1.09",
    }
    for name, rates in printed.items():
        assert TABLE_5[name] == tuple(float(rate) for rate in rates.split())
    # The third row is of the network that Table 4 begins with.
    assert TABLE_5["MS1M, then VGGFace2"] == TABLE_4["SqueezeFacePoseNet"]
    assert len(TABLE_5) == 3


def test_counts_are_of_frontal_images_and_stand_beside_the_papers():
    """Twelve frontal and ten profile images of each of three people."""
    poses = np.tile(np.repeat(["frontal", "profile"], [12, 10]), 3)
    folder = SimpleNamespace(subjects=np.repeat(["ann", "bo", "cy"], 22), poses=poses)
    pairs = 12 * 11 // 2
    # 368 people with ten images of a pose, or two templates; 100 strangers of each.
    assert count_trials(folder) == [
        ("same pose, 1 image", 3 * pairs, 6, 368 * 45, 368 * 100),
        ("cross pose, 1 image", 3 * 12 * 10, 6, 368 * 10 * 10, 368 * 100),
        ("same pose, 5 images", 3, 6, 368, 368 * 100),
        ("cross pose, 5 images", 3 * 4, 6, 368 * 4, 368 * 100),
    ]


def test_what_there_are_too_few_images_for_has_no_count():
    """Ten frontal, four profile and, of a pose that does not count, one image of each."""
    poses = np.tile(np.repeat(["frontal", "profile", "video"], [10, 4, 1]), 3)
    folder = SimpleNamespace(subjects=np.repeat(["ann", "bo", "cy"], 15), poses=poses)
    counts = [row[1:3] for row in count_trials(folder)]
    assert counts == [(3 * 45, 6), (3 * 40, 6), (3, 6), (None, None)]
    assert format_trial_counts(folder).splitlines()[4].split() == [
        *["cross", "pose,", "5", "images"],
        "1,472",
        "36,800",
    ]
    folder.poses = np.where(poses == "frontal", "left", poses)
    with pytest.raises(ValueError, match="two frontal images of everybody"):
        count_trials(folder)


def test_columns_of_cfp_that_there_are_too_few_images_for_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for person in range(1, 4):
        for pose in ("frontal", "profile"):
            folder = tmp_path / f"{person:03d}" / pose
            folder.mkdir(parents=True)
            for number in range(1, 4):
                Image.fromarray(np.uint8(rng.integers(0, 255, (8, 8, 3)))).save(
                    folder / f"{number:02d}.jpg"
                )
    cells = table_cells(CFP(tmp_path), lambda images: rng.random((len(images), 4)), draws=20)
    assert sorted(cells) == [(1, "F-F"), (1, "F-P"), (1, "P-P")]


def test_published_rates_of_one_and_of_five_images_have_their_own_lines():
    table = pose_table({}, {"theirs": tuple(np.arange(1.0, 13))}, "made up").splitlines()
    heads = ["F-F", "3/4-3/4", "P-P", "F-3/4", "3/4-P", "F-P"]
    assert table[0] == "made up"
    assert [line.split() for line in table[1:]] == [
        ["one", "image", *heads],
        ["paper:", "theirs", *(f"{rate}.00" for rate in range(1, 7))],
        ["five", "images", *heads],
        ["paper:", "theirs", *(f"{rate}.00" for rate in range(7, 13))],
    ]


def _not_reached(images):
    raise AssertionError("embedded what cannot be compared")


@pytest.mark.parametrize(
    ("poses", "count", "message"),
    [
        (["left", "right"], 10, "called frontal, three_quarter, profile; got ['left', 'right']"),
        (["frontal", "three_quarter", "profile"], 1, "two templates of 1 need 2 images"),
    ],
)
@pytest.mark.parametrize("measure", [table_cells, lambda *given: list(table_columns(*given))])
def test_what_cannot_be_compared_is_refused_before_it_is_embedded(measure, poses, count, message):
    folder = SimpleNamespace(
        subjects=np.repeat(["ann", "bo", "cy"], len(poses) * count),
        poses=np.tile(np.repeat(poses, count), 3),
        images=[],
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(folder, _not_reached)


def test_all_columns_are_of_one_embedding():
    calls = []

    def embed(rows):
        calls.append(len(rows))
        return rows

    folder = SimpleNamespace(
        subjects=np.repeat(["ann", "bo", "cy"], 20),
        poses=np.tile(np.repeat(["frontal", "profile"], 10), 3),
        images=np.repeat(np.eye(3), 20, axis=0),
    )
    assert len(table_cells(folder, embed)) == 4
    assert calls == [60]


def test_images_of_all_poses_follow_the_protocol_whoever_reads_them(tmp_path):
    """Two templates of five against two, and not one of five against one of four."""
    for person in ("1", "2", "3"):
        for pose in ("frontal", "profile", "three_quarter"):
            (tmp_path / person / pose).mkdir(parents=True)
            for image in range(10):
                (tmp_path / person / pose / f"{image}.png").touch()
    folder = CFP(tmp_path)
    rows = np.random.default_rng(0).random((90, 8)) + 3 * np.repeat(np.eye(3, 8), 30, 0)
    cells = table_cells(folder, lambda images: rows, draws=20)
    assert len(cells) == 12
    assert cells[5, "F-P"].rates.genuine == 3 * 2 * 2


def _column(size, poses, seed, lost=0.0):
    """Comparisons of 40 people, of which some genuine ones have no distance."""
    rng = np.random.default_rng(seed)
    trials = all_pairs(np.repeat(np.arange(40), 3), range(120))
    distances = rng.normal(np.where(trials.is_genuine, 1.0, 3.0))
    genuine = np.flatnonzero(trials.is_genuine)
    distances[genuine[: round(lost * len(genuine))]] = np.nan
    return PoseColumn(size, poses, trials, distances)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The figure of two systems of three columns each; one lost a quarter of its first."""
    plt = pytest.importorskip("matplotlib.pyplot", reason="figures need matplotlib")
    plt.switch_backend("Agg")
    frontal, profile = ("frontal", "frontal"), ("profile", "profile")
    across = ("frontal", "profile")
    ours = [_column(1, frontal, 0, lost=0.25), _column(1, profile, 1), _column(5, across, 2)]
    theirs = [_column(1, frontal, 3), _column(1, profile, 4), _column(5, across, 5)]
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", figures.append)
        path = tmp_path_factory.mktemp("figure") / "det.png"
        det_figure({"ours": ours, "theirs": theirs}, path, "made up")
    yield figures[0]
    plt.close(figures[0])


def _curves(panel):
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    return dict(zip(labels, panel.get_legend().get_lines(), strict=True))


def test_a_column_has_one_colour_and_a_system_one_style(drawn):
    curves = {label.split(" (")[0]: line for label, line in _curves(drawn.axes[0]).items()}
    assert list(curves) == ["ours F-F", "ours P-P", "theirs F-F", "theirs P-P"]
    colours = [line.get_color() for line in curves.values()]
    assert colours[:2] == colours[2:]
    assert colours[0] != colours[1]
    assert [line.get_linestyle() for line in curves.values()] == ["-", "-", "--", "--"]


def test_panels_say_what_they_show(drawn):
    assert [text.get_text() for text in drawn.texts] == ["made up"]
    shown = [panel.get_title() for panel in drawn.axes if panel.get_visible()]
    assert shown == ["same pose, 1 image a template", "across poses, 5 images a template"]


def test_images_that_were_lost_are_matched_at_no_threshold(drawn):
    """A quarter of the genuine comparisons is missed wherever the threshold lies."""
    lines = [line for line in drawn.axes[0].lines if len(line.get_ydata()) > 9]
    assert len(lines) == 4
    # There is no threshold where all strangers are matched.
    least = [norm.cdf(line.get_ydata()[line.get_xdata() < norm.ppf(0.99)].min()) for line in lines]
    assert least[0] == pytest.approx(0.25)
    assert max(least[1:]) < 0.01


def test_five_images_are_compared_where_everybody_has_ten():
    """And those of one image are not lost where somebody has fewer."""
    subjects = np.repeat(["ann", "bo", "cy"], [14, 14, 12])
    poses = np.concatenate([["frontal"] * count + ["profile"] * 4 for count in (10, 10, 8)])
    rows = np.random.default_rng(0).random((len(subjects), 5))
    whole = SimpleNamespace(subjects=subjects[:28], poses=poses[:28], images=rows[:28])
    assert sorted(table_cells(whole, np.asarray)) == [
        (1, "F-F"),
        (1, "F-P"),
        (1, "P-P"),
        (5, "F-F"),
    ]
    fewer = SimpleNamespace(subjects=subjects, poses=poses, images=rows)
    assert sorted(table_cells(fewer, np.asarray)) == [(1, "F-F"), (1, "F-P"), (1, "P-P")]
