"""What is said, written and decided where few people stand behind a threshold."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from sfpose import TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.decision import Condition, shipped_rule
from sfpose.embedder import FaceEmbedder
from sfpose.metrics import SmallSampleWarning, calibrate_threshold
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact


def _people(count, images=20, width=256):
    """Descriptors of people that sum to 1, and whose they are."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(count), images)
    rows = rng.gamma(4 * rng.gamma(1.0, 1.0, (count, width))[subjects] + 0.1)
    return rows / rows.sum(axis=1, keepdims=True), subjects


def _said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = call()
    return made, [(warning.category, str(warning.message)) for warning in caught]


@pytest.mark.parametrize(("count", "few"), [(9, True), (10, False)])
def test_fewer_than_ten_people_are_told_however_many_pairs_they_have(count, few):
    rows, subjects = _people(count)
    verifier, said = _said(lambda: TemplateVerifier(0.1).fit(rows, subjects))
    result = verifier.verify(rows[0], rows[-1])
    assert verifier.calibration_.expected_false_matches > 1_000
    if few:
        ((category, message),) = said
        assert category is SmallSampleWarning
        assert "at least 10 people; got 9" in message
        assert "TemplateVerifier() without fit" in message
        assert result.caution == "calibrated on 9 people"
        assert str(result).endswith("(target FMR 0.1, calibrated on 9 people)")
    else:
        assert (said, result.caution) == ([], None)
        assert str(result).endswith("(for one false match in 10)")


@pytest.mark.filterwarnings("ignore::sfpose.metrics.SmallSampleWarning")
def test_fewer_than_three_expected_false_matches_are_no_rate():
    rows, subjects = _people(12, 2)
    pairs = 12 * 11 // 2 * 4
    for target, caution in [(3 / pairs, None), (2.9 / pairs, "calibrated on 264 pairs of")]:
        result = TemplateVerifier(target).fit(rows, subjects).verify(rows[0], rows[-1])
        assert (result.caution or "").startswith(caution or "")
        assert (result.caution is None) == (caution is None)


@pytest.mark.filterwarnings("ignore::sfpose.metrics.SmallSampleWarning")
def test_a_bundle_remembers_on_how_few_it_was_calibrated(tmp_path):
    rows, subjects = _people(3)
    verifier = TemplateVerifier(0.1).fit(rows, subjects)
    path = VerificationBundle(FaceEmbedder(), verifier).save(tmp_path / "door")
    again = VerificationBundle.load(path).verifier
    assert again.verify(rows[0], rows[1]) == verifier.verify(rows[0], rows[1])
    assert again.verify(rows[0], rows[1]).caution == "calibrated on 3 people"


@pytest.mark.parametrize("name", ["default", "small", "plain", "plain-int8"])
def test_what_ships_rests_on_enough(name):
    for entry in read_manifest(name)["calibration"]["conditions"]:
        for stated in entry["thresholds"]:
            wanted = Condition(*(entry[part] for part in ("template_images", "probe_images")))
            wanted = wanted._replace(poses=entry["poses"] and tuple(entry["poses"]))
            assert shipped_rule(name, stated["target_fmr"], wanted).caution is None


@pytest.mark.parametrize(
    ("people", "pairs", "mark"),
    [(10, 299, "*"), (10, 300, ""), (9, 300, "!"), (10, 29, "!"), (10, 30, "*")],
)
def test_info_marks_what_rests_on_little(tmp_path, capsys, people, pairs, mark):
    artifact = read_artifact("plain")
    manifest = json.loads(json.dumps(dict(artifact.manifest)))
    manifest["calibration"]["conditions"][1:] = []
    stated = {"target_fmr": 0.1, "threshold": 0.5, "fnmr": 0.25, "people": people}
    stated["impostor_pairs"] = pairs
    sound = {**stated, "target_fmr": 0.2, "people": 100, "impostor_pairs": 1_000}
    manifest["calibration"]["conditions"][0]["thresholds"] = [stated, sound]
    folder = write_artifact(tmp_path / "mine", artifact.model, manifest)
    assert main(["info", "--weights", str(folder)]) == 0
    table, *notes = capsys.readouterr().out.partition("1 against 1 images: ")[2].splitlines()
    assert table == f"0.1: 0.5000{mark} (0.250), 0.2: 0.5000 (0.250)"
    meanings = {
        "*": "  * fewer than 30 false matches are expected: the true rate may be far off",
        "!": "  ! fewer than 10 people, or than 3 expected false matches: decisions state no rate",
    }
    assert notes == ([meanings[mark]] if mark else [])


@pytest.mark.parametrize("count", ["many", None, float("nan"), [3]])
def test_a_count_of_a_manifest_that_is_no_number_is_refused(count):
    manifest = json.loads(json.dumps(read_manifest("small")))
    manifest["calibration"]["conditions"][0]["thresholds"][0]["people"] = count
    with pytest.raises(ValueError, match="calibration is of another form"):
        shipped_rule(manifest, 1e-3)


@pytest.fixture
def five_people(tmp_path, portrait, hopper):
    """Two photos each of five people, as a folder; whom they show does not matter here."""
    rng = np.random.default_rng(0)
    for person in range(5):
        (tmp_path / "people" / str(person)).mkdir(parents=True)
        for number in range(2):
            face = (portrait, hopper)[person % 2].astype(int)
            noise = rng.integers(-25, 26, face.shape)
            photo = Image.fromarray(np.clip(face + noise, 0, 255).astype(np.uint8))
            photo.save(tmp_path / "people" / str(person) / f"{number}.png")
    return tmp_path / "people"


def test_calibrate_leaves_out_rates_that_too_little_founds(five_people, tmp_path, capsys):
    command = ["calibrate", str(five_people), "--out", str(tmp_path / "mine")]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (stated,) = told["conditions"][0]["thresholds"]
    # 10 pairs of people, 2 photos of each: 4 false matches at 0.1.
    assert (stated["target_fmr"], stated["impostor_pairs"], stated["people"]) == (0.1, 40, 5)
    for rate, needed in [("0.01", 300), ("0.001", 3_000), ("0.0001", 30_000)]:
        note = f"a target FMR of {rate} needs at least {needed} impostor pairs (rule of 3); got 40"
        assert any(note in said for said in told["warnings"])
    photo = str(five_people / "0" / "0.png")
    verify = ["verify", photo, photo, "--weights", str(tmp_path / "mine"), "--target-fmr"]
    assert main([*verify, "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["caution"] == "calibrated on 5 people"
    assert main([*verify, "0.001"]) == 2
    assert "sfpose calibrate --target-fmr 0.001" in capsys.readouterr().err


def test_rates_that_no_calibration_tells_apart_are_one(five_people, tmp_path, capsys):
    out = str(tmp_path / "mine")
    command = ["calibrate", str(five_people), "--out", out, "--target-fmr"]
    assert main([*command, "0.1", "0.10000000000000002", "0.2"]) == 0
    assert "target FMR 0.2" in capsys.readouterr().out
    assert main(["info", "--weights", out, "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)["weights"]["calibration"]["conditions"][0]
    assert [entry["target_fmr"] for entry in stated["thresholds"]] == pytest.approx([0.2, 0.1])


def test_calibrate_writes_nothing_where_no_rate_is_founded(people, tmp_path, capsys):
    assert main(["calibrate", str(people), "--out", str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err
    assert "a target FMR of 0.1 needs at least 30 impostor pairs (rule of 3); got 9 of 2 p" in said
    assert not (tmp_path / "mine").exists()


def test_an_artifact_that_states_no_counts_is_not_judged(tmp_path):
    artifact = read_artifact("small")
    manifest = json.loads(json.dumps(artifact.manifest))
    for entry in manifest["calibration"]["conditions"]:
        for stated in entry["thresholds"]:
            del stated["people"], stated["impostor_pairs"]
    write_artifact(tmp_path / "bare", artifact.model, manifest)
    assert shipped_rule(tmp_path / "bare", 1e-3).caution is None


def _scores():
    genuine = np.arange(20_000) < 2_000
    return np.random.default_rng(0).normal(np.where(genuine, 1.0, 3.0), 0.5), genuine


@pytest.mark.parametrize("wrong", ["similarities", "labels of other rows"])
def test_distances_that_do_not_tell_people_apart_are_asked_about(wrong):
    distances, genuine = _scores()
    assert _said(lambda: calibrate_threshold(distances, genuine, 0.01))[1] == []
    if wrong == "similarities":
        distances = 1 - distances
    else:
        genuine = np.random.default_rng(1).permutation(genuine)
    _, said = _said(lambda: calibrate_threshold(distances, genuine, 0.01))
    ((category, message),) = said
    own, strangers = np.median(distances[genuine]), np.median(distances[~genuine])
    assert category is UserWarning
    assert f"the median {own:.4g}, impostor ones {strangers:.4g}: are these similar" in message


def test_a_fit_on_labels_of_other_rows_is_asked_about():
    rows, subjects = _people(20, 6)
    assert _said(lambda: TemplateVerifier(0.1).fit(rows, subjects))[1] == []
    shuffled = np.random.default_rng(0).permutation(subjects)
    with pytest.warns(UserWarning, match=r"are these similarities, or the labels") as caught:
        TemplateVerifier(0.1).fit(rows, shuffled)
    assert {warning.filename for warning in caught} == {__file__}
