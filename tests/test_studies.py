"""Studies of section 6 and the paper's tables, against counting by hand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from sfpose._kernels import reference
from sfpose.cli import main, reproduce
from sfpose.evaluation import (
    evaluate_poses,
    format_table,
    pose_columns,
    row_from_distances,
)
from sfpose.metrics import equal_error_rate
from sfpose.protocols import CFP, PoseFolder, all_pairs
from sfpose.reproduction import (
    TABLE_4,
    TABLE_5,
    det_figure,
    format_trial_counts,
    pose_table,
    table_cells,
)
from sfpose.studies import PoseStudies, keep_ocular_region

POSES = ("frontal", "profile", "three_quarter")


def _table(people=8, images=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, 1.0, (people, 20))
    subjects = np.repeat(np.arange(people), 3 * images)
    poses = np.tile(np.repeat(POSES, images), people)
    rows = rng.gamma(centres[subjects] * 3 + 0.1).astype(np.float32)
    rows[poses == "profile"] *= rng.gamma(2, 0.5, (people * images, 20)).astype(np.float32)
    return rows, subjects, poses


def _half(subjects, poses, person, pose, second):
    rows = np.flatnonzero((subjects == person) & (poses == pose))
    return rows[3:] if second else rows[:3]


def _eer(templates, probes, owners, people):
    matrix = reference.chi2_matrix(np.asarray(templates), np.asarray(probes))
    genuine = np.asarray(people)[:, None] == np.asarray(owners)[None]
    return equal_error_rate(matrix.ravel(), genuine.ravel()), genuine.sum()


def test_templates_of_more_images_are_means_of_the_first_half():
    rows, subjects, poses = _table()
    found = PoseStudies(rows, subjects, poses, draws=5).number_of_images(
        "frontal", "profile", (1, 2, 3, 4)
    )
    assert [row.name.split()[0] for row in found] == ["1", "2", "3"]
    for count, row in zip((1, 2, 3), found, strict=True):
        templates = [
            rows[_half(subjects, poses, who, "frontal", False)[:count]].mean(0) for who in range(8)
        ]
        probes = np.concatenate([_half(subjects, poses, who, "profile", True) for who in range(8)])
        eer, genuine = _eer(templates, rows[probes], subjects[probes], range(8))
        assert row.rates.genuine == genuine
        assert row.rates.eer == pytest.approx(eer, abs=1e-6)


def test_templates_of_no_images_are_refused():
    studies = PoseStudies(*_table(), draws=5)
    with pytest.raises(ValueError, match="counts must be a whole number, at least 1; got 0"):
        studies.number_of_images("frontal", "profile", counts=(1, 0))
    with pytest.raises(ValueError, match="images must be a whole number, at least 1; got 0"):
        studies.mixed_poses(0)


def test_mixed_templates_hold_an_image_of_each_pose():
    rows, subjects, poses = _table()
    found = PoseStudies(rows, subjects, poses, draws=5).mixed_poses()
    assert len(found) == 3 * 4
    by_name = {row.name: row for row in found}
    templates = [
        rows[[_half(subjects, poses, who, pose, False)[0] for pose in POSES]].mean(0)
        for who in range(8)
    ]
    probes = np.concatenate([_half(subjects, poses, who, "profile", True) for who in range(8)])
    eer, _ = _eer(templates, rows[probes], subjects[probes], range(8))
    assert by_name["3 mixed - 1 profile"].rates.eer == pytest.approx(eer, abs=1e-6)


def test_mixed_templates_of_more_images_say_that_there_may_be_fewer():
    found = PoseStudies(*_table(), draws=5).mixed_poses(10)
    assert {row.name for row in found if "mixed" in row.name} == {
        f"up to 10 mixed - 1 {pose}" for pose in POSES
    }


def test_the_nearest_of_several_templates_is_taken():
    rows, subjects, poses = _table()
    nearest, mean, together = PoseStudies(rows, subjects, poses, draws=5).several_enrolled()
    probes = np.concatenate(
        [_half(subjects, poses, who, pose, True) for pose in POSES for who in range(8)]
    )
    matrices = []
    for pose in POSES:
        templates = np.stack(
            [rows[_half(subjects, poses, who, pose, False)].mean(0) for who in range(8)]
        )
        matrices.append(reference.chi2_matrix(templates, rows[probes]))
    genuine = np.arange(8)[:, None] == subjects[probes][None]
    for row, fused in ((nearest, np.min(matrices, 0)), (mean, np.mean(matrices, 0))):
        expected = equal_error_rate(fused.ravel(), genuine.ravel())
        assert row.rates.eer == pytest.approx(expected, abs=1e-6)
    assert together.rates.genuine == genuine.sum()


def test_the_best_frame_is_the_one_with_the_least_measure():
    rows, subjects, poses = _table()
    measure = (poses != "frontal") + np.random.default_rng(1).random(len(rows)) / 2
    found = PoseStudies(rows, subjects, poses, draws=5).best_frame({"turn": measure})
    assert [row.rates.genuine for row in found] == [72, 8, 8]
    chosen = []
    for who in range(8):
        own = np.concatenate([_half(subjects, poses, who, pose, True) for pose in POSES])
        chosen.append(own[np.argmin(measure[own])])
    assert set(poses[chosen]) == {"frontal"}
    templates = [rows[_half(subjects, poses, who, "frontal", False)].mean(0) for who in range(8)]
    eer, _ = _eer(templates, rows[chosen], subjects[chosen], range(8))
    assert found[1].rates.eer == pytest.approx(eer, abs=1e-6)


def test_who_lacks_images_is_counted():
    rows, subjects, poses = _table()
    kept = ~((subjects == 3) & (poses == "profile"))
    studies = PoseStudies(rows[kept], subjects[kept], poses[kept], draws=5)
    assert studies.left_out == 1
    assert 3 not in studies.people
    with pytest.raises(ValueError, match=r"two people need two images in each of .*; got 1"):
        PoseStudies(rows[:18], subjects[:18], poses[:18])
    with pytest.raises(ValueError, match="one descriptor, subject and pose an image; got 2, 1"):
        PoseStudies(rows[:2], subjects[:1], poses[:2])


def test_the_ocular_region_alone_is_left():
    crops = np.random.default_rng(0).integers(0, 256, (2, 50, 50, 3), np.uint8)
    kept = keep_ocular_region(crops, top=0.2, bottom=0.6)
    np.testing.assert_array_equal(kept[:, 10:30], crops[:, 10:30])
    assert (kept[:, :10] == 128).all()
    assert (kept[:, 30:] == 128).all()
    with pytest.raises(ValueError, match=r"must lie in 0 <= top < bottom <= 1; got 0\.5"):
        keep_ocular_region(crops, top=0.5, bottom=0.4)
    with pytest.raises(ValueError, match=r"got float64 \(2, 50, 50, 3\)"):
        keep_ocular_region(crops.astype(float))


@pytest.mark.parametrize(
    "measure", [[1.0] * 7, [float("nan")] * 32, np.ma.masked_equal([*range(32)], 4)]
)
def test_a_measure_is_needed_of_each_image(measure):
    rows = np.random.default_rng(0).random((32, 5))
    subjects = np.repeat(["a", "b"], 16)
    studies = PoseStudies(rows, subjects, np.tile(["frontal", "profile"], 16), draws=3)
    with pytest.raises(ValueError, match="measure 'yaw' must be a number for each of 32 images"):
        studies.best_frame({"yaw": measure})


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for person in range(3):
        own = rng.integers(0, 256, (8, 8, 3))
        for pose in POSES:
            (tmp_path / f"P{person}" / pose).mkdir(parents=True)
            for image in range(10):
                noisy = np.clip(own + rng.integers(-30, 30, own.shape), 0, 255).astype(np.uint8)
                large = Image.fromarray(noisy).resize((80, 80))
                large.save(tmp_path / f"P{person}" / pose / f"{image:02d}.png")
    return tmp_path


def _pixels(images):
    return np.stack([np.asarray(image, np.float32)[::8, ::8].ravel() for image in images])


def test_published_tables_are_complete():
    paper = Path(__file__).parent / "data" / "table_4.txt"
    assert {len(rates) for rates in (*TABLE_4.values(), *TABLE_5.values())} == {12}
    for line in paper.read_text().splitlines():
        name, *numbers = line.split()
        assert TABLE_4[name] == tuple(float(number) for number in numbers)


def test_a_table_has_our_row_beside_the_papers(folder):
    data = PoseFolder(folder)
    rows = evaluate_poses(data, _pixels, draws=5)
    cells = table_cells(data, _pixels, draws=5)
    assert len(cells) == 12
    lines = pose_table({"ours": cells}, TABLE_4, "title").splitlines()
    ours = [line.split()[1:] for line in lines if line.startswith("ours")]
    expected = [f"{100 * row.rates.eer:.2f}" for row in rows]
    assert ours == [expected[:6], expected[6:]]
    theirs = next(line for line in lines if line.startswith("paper: SENet50ft"))
    assert theirs.split()[2:] == ["3.86", "2.87", "4.16", "3.36", "3.71", "4.48"]
    counted = format_trial_counts(data).splitlines()
    # 45 pairs of ten images each of 3 people; two strangers each.
    assert re.split(r"\s{2,}", counted[1]) == ["same pose, 1 image", "135", "6", "16,560", "36,800"]
    assert counted[-1].startswith("3 people, 2 others each")
    two = format_trial_counts(data, template_sizes=(2,)).splitlines()
    # Five templates of two images; the paper has no such row.
    assert re.split(r"\s{2,}", two[1].strip()) == ["same pose, 2 images", "30", "6"]


@pytest.fixture
def like_cfp(folder):
    """The folder with no pose between frontal and profile, and four profile images of each."""
    for person in range(3):
        shutil.rmtree(folder / f"P{person}" / "three_quarter")
        for image in range(4, 10):
            (folder / f"P{person}" / "profile" / f"{image:02d}.png").unlink()
    return folder


def test_cfp_fills_the_columns_that_it_has(like_cfp):
    cells = table_cells(CFP(like_cfp), _pixels, draws=5)
    expected = {(1, "F-F"), (1, "P-P"), (1, "F-P"), (5, "F-F"), (5, "F-P")}
    assert set(cells) == expected
    assert cells[5, "F-P"].name == "5 frontal against 4 profile"
    assert (cells[1, "P-P"].rates.genuine, cells[1, "P-P"].rates.impostor) == (18, 6)
    five = pose_table({"ours": cells}, TABLE_4, "title").split("five images")[1].splitlines()[1]
    assert [cell == "-" for cell in five.split()[1:]] == [False, True, True, True, True, False]


def test_the_figure_has_four_panels(folder, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib").use("Agg")
    columns = list(pose_columns(PoseFolder(folder), _pixels))
    path = det_figure({"ours": columns}, tmp_path / "det.png", "title")
    with Image.open(path) as image:
        assert min(image.size) > 800


def test_the_figure_has_every_system(folder, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot", reason="figures need matplotlib")
    plt.switch_backend("Agg")
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    columns = list(pose_columns(PoseFolder(folder), _pixels, poses=POSES[:1], template_sizes=(1,)))
    det_figure(dict.fromkeys("abcde", columns), tmp_path / "det.png", "title")
    monkeypatch.undo()
    panel = figures[0].axes[0]
    names = [text.get_text().split()[0] for text in panel.get_legend().get_texts()]
    assert names == list("abcde")
    styles = [line.get_linestyle() for line in panel.lines if not line.get_label().startswith("_")]
    assert len(set(styles[:4])) == 4
    assert styles[4] == styles[0]
    plt.close(figures[0])


def _rows_of(people, apart, images=4):
    rng = np.random.default_rng(0)
    trials = all_pairs(np.repeat(np.arange(people), images), range(people * images))
    return row_from_distances("made up", trials, rng.normal(np.where(trials.is_genuine, 0, apart)))


def test_no_error_is_told_as_what_the_people_can_exclude():
    none, some = _rows_of(50, 50.0), _rows_of(50, 2.0)
    # The rate at which one of twenty samples of 50 people would have no error.
    upper = 100 * stats.binomtest(0, 50).proportion_ci(0.90, method="exact").high
    assert none.eer_interval == pytest.approx((0, upper / 100))
    assert (none.people, none.interval_in_percent()) == (50, f"below {upper:.1f}")
    low, high = some.eer_interval
    assert some.interval_in_percent() == f"{100 * low:.2f} to {100 * high:.2f}"
    table = pose_table({"ours": {(1, "F-F"): none, (1, "P-P"): some}}, {}, "title").splitlines()
    assert table[3].split() == ["below", f"{upper:.1f}", *some.interval_in_percent(1).split()]
    assert "below 5.8" in format_table([none, some])
    assert none.to_dict()["people"] == 50


def test_people_are_those_of_the_rarer_kind_of_comparison():
    trials = all_pairs(["a", "a", "b", "c", "d"], range(5))
    assert row_from_distances("made up", trials, np.arange(10.0)).people == 1


def test_rates_that_few_false_matches_decide_about_are_marked():
    # 12,000, 3,120 and 2,944 impostor pairs: 12, 3 and 3 false matches at 0.1 %.
    rows = [_rows_of(*case) for case in ((40, 2.0), (40, 2.0, 2), (24, 2.0, 3), (80, 2.0, 4))]
    table = format_table(rows).splitlines()
    assert table[-1] == "*: fewer than 30 false matches decide"
    assert len(table) == 6
    for row, line in zip(rows, table[1:], strict=False):
        at_1, at_01 = line.split()[-2:]
        assert at_1.endswith("*") == (row.rates.impostor < 3_000)
        assert at_01.endswith("*") == (row.rates.impostor < 30_000)
        assert float(at_01.rstrip("*")) == round(100 * row.rates.fmr1000, 2)
    # Digits stand below each other, marked or not.
    assert len({line.rindex(".") for line in table[1:5]}) == 1
    assert "*" not in format_table(rows[3:])
    assert "*" not in format_table([])


@pytest.mark.usefixtures("any_crop_is_a_face")
def test_the_figure_of_cfp_has_the_panels_that_it_fills(like_cfp, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot", reason="figures need matplotlib")
    plt.switch_backend("Agg")
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    arguments = ["reproduce", "figures", "--data", str(like_cfp), "--n-jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "det.png")]) == 0
    monkeypatch.undo()
    (figure,) = figures
    drawn = [
        [text.get_text().split()[2] for text in panel.get_legend().get_texts()]
        for panel in figure.axes
        if panel.get_visible()
    ]
    assert drawn == [["F-F", "P-P"], ["F-P"], ["F-F"]]
    plt.close(figure)


def _one_job(part):
    """What only counts has no threads."""
    return [] if part == "table3" else ["--n-jobs", "1"]


@pytest.mark.usefixtures("any_crop_is_a_face")
@pytest.mark.parametrize("part", ["table3", "table4", "table5", "studies"])
def test_the_command_reproduces(folder, part, capsys):
    assert main(["reproduce", part, "--data", str(folder), "--draws", "20", *_one_job(part)]) == 0
    printed = capsys.readouterr().out
    for word in {
        "table3": ["16,560", "3 people"],
        "table4": ["sfpose default", "paper: +DWC+GDC"],
        "table5": ["paper: MS1M, then VGGFace2"],
        "studies": ["3 mixed - 1 profile", "best frame by absolute yaw", "ocular region alone"],
    }[part]:
        assert word in printed


@pytest.mark.usefixtures("any_crop_is_a_face")
@pytest.mark.parametrize("part", ["table3", "table4", "figures", "studies"])
def test_json_tells_what_the_text_does(folder, part, capsys, tmp_path):
    (folder / "P9" / "frontal").mkdir(parents=True)
    arguments = ["reproduce", part, "--data", str(folder), "--draws", "20", *_one_job(part)]
    arguments += ["--out", str(tmp_path / "det.png")] if part == "figures" else []
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["data"], told["people"], told["people_without_image"]) == (str(folder), 3, ["P9"])
    if part == "figures":
        with Image.open(told["out"]) as image:
            assert image.size[0] > 800
        return
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 people without an image were left out: P9" in printed
    if part == "table3":
        assert [row["genuine"] for row in told["rows"]] == [135, 300, 3, 12]
        assert told["rows"][3]["published_genuine"] == 1_472
    elif part == "table4":
        assert (told["images"], told["not_acquired"]) == (90, 0)
        assert told["published_eer_percent"]["SENet50ft"][0] == 3.86
        rates = [f"{100 * row['eer']:.2f}" for row in told["rows"]]
        assert all(rate in printed for rate in rates)
        assert len(rates) == 12
    else:
        rows = [row for study in told["studies"].values() for row in study]
        assert all(row["name"] in printed and f"{100 * row['eer']:.2f}" in printed for row in rows)
        assert (told["images"], told["people_left_out"]) == (90, 0)


@pytest.mark.usefixtures("any_crop_is_a_face")
def test_people_of_whom_no_image_was_acquired_are_counted_among_those_left_out(
    folder, capsys, monkeypatch
):
    aligned = reproduce._aligned

    def without_the_last(data, options):
        columns = aligned(data, options)
        return tuple(column[data.subjects[columns[1]] != "P2"] for column in columns)

    monkeypatch.setattr(reproduce, "_aligned", without_the_last)
    arguments = ["reproduce", "studies", "--data", str(folder), "--draws", "20", "--n-jobs", "1"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["people"], told["people_left_out"], told["not_acquired"]) == (3, 1, 30)
    assert main(arguments) == 0
    assert "1 people without two images of each pose were left out" in capsys.readouterr().out


def test_json_of_networks_is_that_of_the_registry(capsys):
    networks = pytest.importorskip("sfpose.networks", reason="needs the [train] extra")
    assert main(["reproduce", "networks", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == list(networks.NETWORKS)
    assert told["squeezefaceposenet+dwc"]["parameters"] == 694_056


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("table4", "two templates of 1 need 2 images of each person and pose; P0 has 1 of"),
        ("studies", "two people need two images in each of"),
    ],
)
def test_too_few_images_are_refused_before_any_is_read(folder, part, message, capsys, monkeypatch):
    for pose in folder.glob("*/*"):
        for image in sorted(pose.iterdir())[1:]:
            image.unlink()
    monkeypatch.setattr("sfpose._embedding.Aligner.landmarks", None)
    assert main(["reproduce", part, "--data", str(folder), "--n-jobs", "1"]) == 2
    assert message in capsys.readouterr().err


def test_data_must_be_given(capsys):
    assert main(["reproduce", "table4"]) == 2
    assert "table4 needs --data" in capsys.readouterr().err
