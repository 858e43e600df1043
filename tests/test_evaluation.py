"""Evaluation and command line with a made-up embedding, and with the shipped one."""

import io
import json
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceEmbedder
from sfpose.cli import main
from sfpose.evaluation import (
    TARGET_FMRS,
    calibrated,
    evaluate_cfp,
    evaluate_lfw,
    evaluate_poses,
    format_table,
    row_from_distances,
)
from sfpose.metrics import SmallSampleWarning, equal_error_rate, verification_summary
from sfpose.protocols import CFP, LFW, PoseFolder, all_pairs
from sfpose.runtime.artifact import read_artifact


@pytest.fixture
def cfp_zip(tmp_path):
    """Twelve made-up people whose images are noisy copies of one picture each."""
    rng = np.random.default_rng(0)
    path = tmp_path / "cfp.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for person in range(1, 13):
            face = rng.integers(0, 256, (16, 16, 3))
            for pose, count, noise in [("frontal", 5, 60), ("profile", 4, 140)]:
                for number in range(1, count + 1):
                    image = np.clip(face + rng.normal(0, noise, face.shape), 0, 255)
                    data = io.BytesIO()
                    Image.fromarray(image.astype(np.uint8)).save(data, "PNG")
                    archive.writestr(f"{person:03d}/{pose}/{number:02d}.png", data.getvalue())
    return path


def _pixels(images):
    return np.stack([image.astype(np.float64).ravel() for image in images])


def _all_distances(first, second):
    """Each row with each, in plain NumPy."""
    x, y = first[:, None], second[None]
    return ((x - y) ** 2 / np.where(x + y > 0, x + y, 1)).sum(2)


def _few_pixels(images):
    """So few that people resemble each other."""
    return _pixels(images)[:, :5]


def test_cfp_rows_are_those_of_brute_force(cfp_zip):
    cfp = CFP(cfp_zip)
    rows = evaluate_cfp(cfp, _few_pixels, draws=20)
    assert [(row.rates.genuine, row.rates.impostor) for row in rows] == [
        (12 * 20, 60 * 48 - 240),
        (12 * 10, 60 * 59 // 2 - 120),
        (12, 12 * 11),
    ]
    pixels = _few_pixels(cfp.images)
    frontal, profile = (np.flatnonzero(cfp.poses == pose) for pose in ("frontal", "profile"))
    pairs = np.triu_indices(len(frontal), 1)
    people = np.unique(cfp.subjects)
    means = [
        np.stack([pixels[side[cfp.subjects[side] == person]].mean(0) for person in people])
        for side in (frontal, profile)
    ]
    own = cfp.subjects[frontal]
    expected = [
        (_all_distances(pixels[frontal], pixels[profile]), own[:, None] == cfp.subjects[profile]),
        (_all_distances(pixels[frontal], pixels[frontal])[pairs], own[pairs[0]] == own[pairs[1]]),
        (_all_distances(*means), np.eye(12, dtype=bool)),
    ]
    for row, (distances, genuine) in zip(rows, expected, strict=True):
        by_hand = verification_summary(distances.ravel(), genuine.ravel())
        assert row.rates.to_dict() == pytest.approx(by_hand.to_dict(), rel=1e-9)
    assert all(row.rates.eer > 0 for row in rows)
    for row in rows:
        assert row.eer_interval.low <= row.rates.eer <= row.eer_interval.high
        assert row.rates.fmr100 <= row.rates.fmr1000


def test_pose_rows_compare_means_of_the_right_images(cfp_zip):
    compared = []

    def compare(rows, first, second):
        compared.append(rows)
        return np.abs(rows[first] - rows[second]).sum(1)

    folder = PoseFolder(cfp_zip)
    rows = evaluate_poses(
        folder, _pixels, compare, poses=("frontal", "profile"), template_sizes=(1, 2), draws=5
    )
    assert [row.name for row in rows][:3] == [
        "frontal - frontal, 1 image",
        "profile - profile, 1 image",
        "frontal - profile, 1 image",
    ]
    assert [row.rates.genuine for row in rows] == [120, 72, 240, 12, 12, 48]
    assert all(row.rates.impostor == 12 * 11 for row in rows)
    # Two templates of two for each of 12 people in each of two poses.
    assert compared[-1].shape == (48, 16 * 16 * 3)
    own = (folder.subjects == "001") & (folder.poses == "frontal")
    images = _pixels([folder.images[row] for row in np.flatnonzero(own)])
    np.testing.assert_allclose(compared[-1][:2], [images[:2].mean(0), images[2:4].mean(0)])


def test_a_peer_brings_its_own_distance(cfp_zip):
    def opposite(rows, first, second):
        return -np.abs(rows[first] - rows[second]).sum(1)

    ours = evaluate_cfp(CFP(cfp_zip), _pixels, draws=5)[0]
    theirs = evaluate_cfp(CFP(cfp_zip), lambda x: _pixels(x) - 99, opposite, draws=5)[0]
    assert (theirs.rates.genuine, theirs.rates.impostor) == (
        ours.rates.genuine,
        ours.rates.impostor,
    )
    assert theirs.rates.eer > 0.5 > ours.rates.eer


def test_images_that_could_not_be_acquired_are_refused_and_counted(cfp_zip):
    def lossy(images):
        rows = _pixels(images)
        rows[3] = np.nan
        return rows

    rows = evaluate_cfp(CFP(cfp_zip), lossy, draws=5)
    whole = evaluate_cfp(CFP(cfp_zip), _pixels, draws=5)
    assert [row.rates.failed_genuine + row.rates.failed_impostor for row in rows] == [48, 59, 0]
    assert rows[0].rates.genuine == whole[0].rates.genuine
    # Four of 240 genuine comparisons cannot be accepted at any threshold.
    assert rows[0].rates.fmr100 >= 4 / 240
    assert "107 comparisons with an image that could not be acquired" in format_table(rows)
    assert "acquired" not in format_table(whole)


def test_table_shows_every_row_in_percent(cfp_zip):
    rows = evaluate_cfp(CFP(cfp_zip), _pixels, draws=5)
    lines = format_table(rows).splitlines()
    assert len(lines) == 5
    assert f"{100 * rows[0].rates.eer:.2f}" in lines[1]
    assert "accuracy" not in lines[0]


@pytest.mark.usefixtures("any_crop_is_a_face")
@pytest.mark.filterwarnings("ignore::sfpose.metrics.SmallSampleWarning")
@pytest.mark.filterwarnings("ignore:distances must be smaller the more alike")  # noise
def test_calibration_goes_into_the_manifest(cfp_zip):
    artifact = calibrated(read_artifact("default"), CFP(cfp_zip))
    conditions = artifact.manifest["calibration"]["conditions"]
    assert [entry["target_fmr"] for entry in conditions[0]["thresholds"]] == list(TARGET_FMRS)
    for entry in conditions:
        for stated in entry["thresholds"]:
            assert stated["achieved_fmr"] <= stated["target_fmr"]
    assert ["frontal", "profile"] in [entry["poses"] for entry in conditions]
    assert "people 001 to 012" in artifact.manifest["calibration"]["data"]
    json.dumps(artifact.manifest)


@pytest.mark.usefixtures("any_crop_is_a_face")
def test_small_calibrations_warn(cfp_zip):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrated(read_artifact("default"), CFP(cfp_zip))
    # These pictures are noise, of which no two are more alike than others.
    assert {warning.category for warning in caught} == {SmallSampleWarning, UserWarning}


@pytest.mark.usefixtures("any_crop_is_a_face")
def test_evaluate_cfp_prints_a_table_and_json(cfp_zip, capsys):
    assert main(["evaluate", "cfp", str(cfp_zip), "--people", "1-4", "--draws", "5"]) == 0
    assert "frontal-profile" in capsys.readouterr().out
    assert main(["evaluate", "cfp", str(cfp_zip), "--people", "1-4", "--draws", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["genuine"] for row in rows] == [80, 40, 4]


def test_the_limit_of_the_face_score_can_be_told(cfp_zip, capsys):
    """These pictures show no face: with the landmark network's limit none is acquired."""
    arguments = ["evaluate", "cfp", str(cfp_zip), "--people", "1-4", "--draws", "5", "--json"]
    assert main(arguments) == 2
    assert "of 320 comparisons 320 have an image that was not" in capsys.readouterr().err
    assert main([*arguments, "--min-face-score", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["not_acquired"] == 0
    assert main([*arguments, "--min-face-score", "2"]) == 2
    assert "min_face_score must be 0 to 1 or 'auto'; got 2.0" in capsys.readouterr().err


def test_images_that_are_lost_in_templates_are_counted(cfp_zip, capsys, monkeypatch):
    taken = []

    def transform(self, images):
        rows = _pixels(images)
        rows[[name in ("001/frontal/02.png", "003/profile/01.png") for name in images.names]] = (
            np.nan
        )
        taken.append(len(rows))
        return rows

    monkeypatch.setattr(FaceEmbedder, "transform", transform)
    arguments = ["evaluate", "cfp", str(cfp_zip), "--people", "1-4", "--draws", "5"]
    assert main(arguments) == 0
    assert "2 of 36 images could not be acquired; templates are" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["not_acquired"]) == (36, 2)
    assert sum(taken) == 72


def test_rates_that_cannot_be_told_are_null_in_json(cfp_zip, capsys, monkeypatch):
    """Where all distances of a kind are equal, there is no d'."""

    def transform(self, images):
        names = sorted({name[:3] for name in images.names})
        return np.eye(len(names), dtype=np.float32)[[names.index(n[:3]) for n in images.names]]

    monkeypatch.setattr(FaceEmbedder, "transform", transform)
    assert main(["evaluate", "cfp", str(cfp_zip), "--people", "1-4", "--draws", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["d_prime"] for row in told["rows"]] == [None] * 3


@pytest.mark.parametrize("text", ["x", "5-1", "", "1-x"])
def test_people_must_be_a_range(text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "cfp", "path", "--people", text])
    assert stop.value.code == 2
    assert "FIRST-LAST" in capsys.readouterr().err


def test_shipped_weights_on_lfw_are_far_from_chance(shared_data):
    """A tenth of LFW: the exact figures stand in the model card."""
    lfw = LFW(shared_data / "lfw_pairs.zip")
    trials = lfw.trials()
    keep = trials.folds < 2
    used = np.unique(np.concatenate([trials.first[keep], trials.second[keep]]))
    from sfpose import FaceEmbedder
    from sfpose._scoring import chi2_pairs_at

    rows = np.zeros((len(lfw.images), 256), np.float32)
    rows[used] = FaceEmbedder().transform([lfw.images[i] for i in used])
    distances = chi2_pairs_at(rows, trials.first[keep], trials.second[keep])
    assert equal_error_rate(distances, trials.is_genuine[keep]) < 0.2


def test_lfw_row_has_an_accuracy(tmp_path):
    data = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data, "PNG")
    lines = ["2 2"]
    with zipfile.ZipFile(tmp_path / "lfw.zip", "w") as archive:
        for fold in "xy":
            for person in "ab":
                for number in (1, 2):
                    archive.writestr(f"{fold}{person}_000{number}.jpg", data.getvalue())
            lines += [
                f"{fold}a 1 2",
                f"{fold}b 1 2",
                f"{fold}a 1 {fold}b 1",
                f"{fold}a 2 {fold}b 2",
            ]
        archive.writestr("pairs.txt", "\n".join(lines))
    lfw = LFW(tmp_path / "lfw.zip")
    people = {name[:2]: k + 1 for k, name in enumerate(sorted({n[:2] for n in lfw.images.names}))}
    rows = np.eye(6)[[people[name[:2]] for name in lfw.images.names]]
    (row,) = evaluate_lfw(lfw, lambda images: rows, draws=5)
    assert (row.accuracy, row.rates.eer) == (1.0, 0.0)
    assert "accuracy %" in format_table([row])


def test_a_table_has_both_rates_below_their_headings():
    trials = all_pairs(np.repeat(np.arange(60), 2), range(120))
    distances = np.random.default_rng(0).normal(np.where(trials.is_genuine, 1.0, 3.0), 0.8)
    head, line, *_ = format_table([row_from_distances("x", trials, distances, draws=5)]).split("\n")
    strangers = np.sort(distances[~trials.is_genuine])
    genuine = distances[trials.is_genuine]
    expected = [
        f"{100 * (genuine >= strangers[int(rate * len(strangers))]).mean():.2f}"
        for rate in (0.01, 0.001)
    ]
    assert expected[0] != expected[1]
    assert head.endswith("FNMR % at FMR 1 %  at 0.1 %")
    assert [cell.rstrip("*") for cell in line.split()[-2:]] == expected


@pytest.mark.filterwarnings("ignore::sfpose.metrics.SmallSampleWarning")
def test_a_calibration_leaves_out_whom_it_could_not_acquire(cfp_zip, monkeypatch):
    """By hand: labels and poses are those of the images that are left, and all pairs count."""
    cfp = CFP(cfp_zip)
    rng = np.random.default_rng(1)
    centres = rng.gamma(1.0, 1.0, (12, 256))[np.unique(cfp.subjects, return_inverse=True)[1]]
    rows = rng.gamma(0.4 * centres + 0.05)
    rows[cfp.poses == "profile"] *= rng.gamma(1.5, 1.0, 256)
    rows = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    lost = np.isin(np.arange(len(rows)), [3, 17, 40, 41, 77])
    given = np.where(lost[:, None], np.float32(np.nan), rows)
    monkeypatch.setattr(FaceEmbedder, "transform", lambda self, images: given)
    made = calibrated(read_artifact("default"), cfp).manifest["calibration"]

    first, second = np.triu_indices((~lost).sum(), 1)
    distances = _all_distances(*[rows[~lost].astype(np.float64)] * 2)[first, second]
    subjects, poses = cfp.subjects[~lost], cfp.poses[~lost]
    same = subjects[first] == subjects[second]
    sides = np.sort([poses[first], poses[second]], axis=0).T.tolist()
    conditions = [
        entry
        for entry in made["conditions"]
        if (entry["template_images"], entry["probe_images"]) == (1, 1)
    ]
    assert [entry["poses"] for entry in conditions] == [
        None,
        ["frontal", "frontal"],
        ["frontal", "profile"],
        ["profile", "profile"],
    ]
    for entry in conditions:
        chosen = np.array([entry["poses"] in (None, pair) for pair in sides])
        genuine, strangers = distances[chosen & same], distances[chosen & ~same]
        for stated in entry["thresholds"]:
            assert (stated["genuine_pairs"], stated["impostor_pairs"]) == (
                len(genuine),
                len(strangers),
            )
            matches = (strangers <= stated["threshold"]).mean()
            misses = (genuine > stated["threshold"]).mean()
            assert stated["achieved_fmr"] == pytest.approx(matches, abs=1.5 / len(strangers))
            assert stated["fnmr"] == pytest.approx(misses, abs=1.5 / len(genuine))


def test_somebody_without_any_of_the_poses_is_not_passed_over(cfp_zip):
    whole = PoseFolder(cfp_zip)
    with zipfile.ZipFile(cfp_zip, "a") as archive:
        for number in range(1, 5):
            archive.writestr(f"099/video/{number:02d}.png", archive.read("001/frontal/01.png"))
    settings = {"poses": ("frontal",), "template_sizes": (1,), "draws": 5}
    assert evaluate_poses(whole, _few_pixels, **settings)[0].people == 12
    with pytest.raises(ValueError, match="everybody must have images of 'frontal'; 099 has none"):
        evaluate_poses(PoseFolder(cfp_zip), _few_pixels, **settings)
