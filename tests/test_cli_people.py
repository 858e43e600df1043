"""Who is in a gallery, who leaves it, and what somebody who enrols should look at."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image, features
from test_cli import printed_json

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose._kernels import reference
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.cli.output import shown
from sfpose.protocols.files import is_image
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact

ONE_THREAD = ["--n-jobs", "1"]


def _row(seed):
    row = np.random.default_rng(seed).random(256, dtype=np.float32)
    return row / row.sum()


@pytest.fixture
def door(tmp_path):
    gallery = TemplateGallery(weights="default")
    ids = ["ann", "bo", 7, "8", 8]
    gallery.add(ids, np.stack([_row(seed) for seed in range(5)]), counts=[1, 2, 3, 4, 5])
    return gallery.save(tmp_path / "door")


def test_remove_deletes_who_is_named_and_keeps_the_others(door, capsys):
    assert main(["remove", str(door), "--id", "bo", "7", "bo", "--json"]) == 0
    assert printed_json(capsys) == [{"gallery": str(door), "people": 3, "removed": ["bo", 7]}]
    left = TemplateGallery.load(door, weights="default")
    assert (list(left), left.counts.tolist()) == (["ann", "8", 8], [1, 4, 5])
    np.testing.assert_array_equal(left.templates, [_row(0), _row(3), _row(4)])
    stored = b"".join(file.read_bytes() for file in door.iterdir())
    assert _row(1).tobytes() not in stored
    assert main(["remove", str(door), "--id", "ann"]) == 0
    assert capsys.readouterr().out == "deleted ann; the gallery holds 2\n"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["bo", "nobody", "none"], "not enrolled: 'nobody', 'none'; nobody was deleted"),
        (["bo", "8"], "two are written '8', a number and a text"),
    ],
)
def test_nobody_is_deleted_if_somebody_cannot_be(door, ids, message, capsys):
    before = {file.name: file.read_bytes() for file in door.iterdir()}
    assert main(["remove", str(door), "--id", *ids]) == 2
    assert message in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in door.iterdir()} == before


def test_nobody_is_deleted_from_where_there_is_no_gallery(tmp_path, capsys):
    assert main(["remove", str(tmp_path / "none" / "door"), "--id", "ann"]) == 2
    assert "there must be a gallery at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_info_tells_who_is_enrolled_if_it_is_asked_to(door, capsys):
    digest = read_artifact("default").digest
    assert main(["info", str(door), "--json"]) == 0
    counted = {"gallery": str(door), "people": 5, "photos": 15, "network": digest}
    assert printed_json(capsys) == [counted]
    assert main(["info", str(door), "--ids", "--json"]) == 0
    listed = {"ids": ["ann", "bo", 7, "8", 8], "counts": [1, 2, 3, 4, 5]}
    assert printed_json(capsys) == [counted | listed]
    assert main(["info", str(door)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "5 people from 15 photos" in line
    assert main(["info", str(door), "--ids"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["ann: 1 photos", "bo: 2 photos"]
    for arguments, message in [
        (["--ids"], "--ids needs a gallery"),
        ([str(door), "--weights", "small"], "--weights must be left out"),
    ]:
        assert main(["info", *arguments]) == 2
        assert message in capsys.readouterr().err


def _limit(target, images):
    for entry in read_manifest("default")["calibration"]["conditions"]:
        sides = [entry["template_images"], entry["probe_images"]]
        if sides == images and entry["poses"] is None:
            return next(t["threshold"] for t in entry["thresholds"] if t["target_fmr"] == target)
    raise AssertionError("the shipped calibration lacks a condition")


def test_enrol_names_a_photo_that_shows_somebody_else(people, tmp_path, capsys):
    photos = [str(people / "hopper" / f"{number}.png") for number in (0, 1, 2)]
    wrong = str(people / "collins" / "0.png")
    arguments = ["enrol", str(tmp_path / "door"), *photos, wrong, "--id", "hopper", *ONE_THREAD]
    assert main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    (odd,) = json.loads(output.out)["may_show_somebody_else"]
    rows = FaceEmbedder().transform([*photos, wrong])
    distance = reference.chi2_pairs(rows[3:], rows[:3].mean(0, keepdims=True))[0]
    assert odd == {
        "photo": wrong,
        "id": "hopper",
        "distance": pytest.approx(distance, rel=1e-3),
        "threshold": _limit(0.01, [3, 1]),
    }
    assert odd["distance"] > odd["threshold"]
    assert f"note: {wrong} may show somebody else than hopper: look at it" in output.err
    assert len(output.err.splitlines()) == 1


def test_enrol_names_both_of_two_photos_that_differ(people, tmp_path, capsys):
    photos = [str(people / name / "0.png") for name in ("hopper", "collins")]
    assert main(["enrol", str(tmp_path / "door"), *photos, "--id", "x", "--json"]) == 0
    odd = printed_json(capsys)[0]["may_show_somebody_else"]
    assert [entry["photo"] for entry in odd] == photos
    assert {entry["threshold"] for entry in odd} == {_limit(0.01, [1, 1])}


def test_enrol_says_who_may_be_enrolled_already(people, tmp_path, capsys):
    door = str(tmp_path / "door")
    assert main(["enrol", door, str(people), "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out)
    assert (told["may_show_somebody_else"], told["may_be_enrolled_already"]) == ([], [])
    assert output.err == ""
    again = str(people / "hopper" / "1.png")
    assert main(["enrol", door, again, "--id", "grace", "--json"]) == 0
    output = capsys.readouterr()
    (alike,) = json.loads(output.out)["may_be_enrolled_already"]
    assert (alike["id"], alike["other"]) == ("grace", "hopper")
    assert alike["threshold"] == _limit(0.001, [3, 1])
    assert "note: grace may already be enrolled as hopper: look at both" in output.err
    # To be enrolled anew under the same id is no reason to look.
    replaced = ["enrol", str(tmp_path / "other"), again, "--id", "hopper", "--replace"]
    assert main(replaced) == main(replaced) == 0
    assert capsys.readouterr().err == ""


def test_of_two_who_are_enrolled_together_the_later_is_said_to_be_the_other(
    people, tmp_path, capsys
):
    shutil.copytree(people / "hopper", people / "ann")
    assert main(["enrol", str(tmp_path / "door"), str(people), "--json"]) == 0
    (alike,) = printed_json(capsys)[0]["may_be_enrolled_already"]
    assert (alike["id"], alike["other"]) == ("hopper", "ann")


def test_enrol_names_photos_without_a_face(people, noise, tmp_path, capsys):
    photo = str(people / "hopper" / "0.png")
    assert main(["enrol", str(tmp_path / "door"), photo, str(noise), "--id", "x", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["photos_without_face"] == [str(noise)]
    assert output.err == f"note: no face was found or taken in {noise}\n"


@pytest.fixture
def at(tmp_path):
    """The shipped weights with thresholds for some rates alone."""

    def make(*rates):
        artifact = read_artifact("default")
        manifest = json.loads(json.dumps(dict(artifact.manifest)))
        for entry in manifest["calibration"]["conditions"]:
            listed = entry["thresholds"]
            entry["thresholds"] = [known for known in listed if known["target_fmr"] in rates]
        return str(write_artifact(tmp_path / "mine", artifact.model, manifest, overwrite=True))

    return make


@pytest.mark.parametrize(
    ("rates", "identified", "verified"),
    [
        ([0.01, 0.001], 0.001, 0.001),
        ([0.01], 0.01, 0.01),
        ([0.1, 0.0001], 0.0001, 0.1),
        ([0.1, 0.01, 0.001, 0.0001], 0.0001, 0.001),
    ],
)
def test_a_rate_that_is_not_given_is_one_that_the_weights_have(
    at, people, tmp_path, capsys, rates, identified, verified
):
    weights, door, photo = at(*rates), str(tmp_path / "door"), str(people / "hopper" / "0.png")
    assert main(["enrol", door, photo, "--id", "hopper", "--weights", weights]) == 0
    capsys.readouterr()
    for command, place, chosen, usual in [
        ("identify", door, identified, 1e-4),
        ("verify", photo, verified, 1e-3),
    ]:
        assert main([command, place, photo, "--weights", weights, "--json"]) == 0
        output = capsys.readouterr()
        assert json.loads(output.out)["target_fmr"] == chosen
        said = f"note: the weights are not calibrated for --target-fmr {usual:g}; {chosen:g} is"
        assert (said in output.err) == (chosen != usual)
        assert main([command, place, photo, "--weights", weights, "--target-fmr", "0.3"]) == 2
        assert "got 0.3" in capsys.readouterr().err


def test_weights_without_such_rates_give_no_reason_to_look(at, people, tmp_path, capsys):
    photos = [str(people / name / "0.png") for name in ("hopper", "collins")]
    weights = at(0.005)
    arguments = ["enrol", str(tmp_path / "door"), *photos, "--id", "x", "--weights", weights]
    assert main([*arguments, "--json"]) == 0
    assert printed_json(capsys)[0]["may_show_somebody_else"] == []


def test_many_who_have_no_threshold_are_told_in_one_line(people, tmp_path, capsys):
    photo = people / "hopper" / "0.png"
    gallery = TemplateGallery(weights="default")
    gallery.add(["a", "b", "c", "d", "e"], np.stack([_row(n) for n in range(5)]), counts=[12] * 5)
    assert main(["identify", str(gallery.save(tmp_path / "door")), str(photo)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "note: nobody is taken for a, b, c and 2 more, whose templates are of 12"
    )


@pytest.fixture(params=["bundle", "bundle.zip"])
def bundle(request, people, tmp_path):
    gallery = TemplateGallery(weights="small")
    gallery.add(["hopper"], FaceEmbedder("small").transform([people / "hopper" / "0.png"]))
    verifier = TemplateVerifier(target_fmr=0.01, weights="small")
    made = VerificationBundle(FaceEmbedder("small"), verifier, gallery)
    return str(made.save(tmp_path / request.param))


@pytest.mark.parametrize("target", [0.01, 0.0001])
def test_a_bundle_decides_at_the_rate_of_its_verifier(people, tmp_path, capsys, target):
    photo = str(people / "hopper" / "0.png")
    gallery = TemplateGallery(weights="small")
    gallery.add(["hopper"], FaceEmbedder("small").transform([photo]))
    verifier = TemplateVerifier(target_fmr=target, weights="small")
    made = VerificationBundle(FaceEmbedder("small"), verifier, gallery)
    path = made.save(tmp_path / "door")
    for arguments in (["verify", photo, photo, "--weights", str(path)], ["identify", path, photo]):
        assert main([*map(str, arguments), "--json"]) == 0
        output = capsys.readouterr()
        assert (json.loads(output.out)["target_fmr"], output.err) == (target, "")
        assert main([*map(str, arguments), "--target-fmr", "0.1", "--json"]) == 0
        assert printed_json(capsys)[0]["target_fmr"] == 0.1


@pytest.mark.parametrize("stated", [None, "x", {"verifier": {"target_fmr": True}}])
def test_a_bundle_without_a_rate_is_refused(tmp_path, people, capsys, stated):
    path = VerificationBundle(FaceEmbedder(), TemplateVerifier()).save(tmp_path / "door")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "bundle": stated}))
    photo = str(people / "hopper" / "0.png")
    assert main(["verify", photo, photo, "--weights", str(path)]) == 2
    assert "must state its verifier's target_fmr; got " in capsys.readouterr().err


def test_identify_finds_the_people_of_a_bundle_by_its_own_weights(bundle, people, capsys):
    photo = str(people / "hopper" / "1.png")
    assert main(["identify", bundle, photo, "--target-fmr", "0.01", "--json"]) == 0
    (told,) = printed_json(capsys)
    assert (told["id"], told["nearest"][0]["id"]) == ("hopper", "hopper")
    rows = FaceEmbedder("small").transform(
        [people / "hopper" / name for name in ("0.png", "1.png")]
    )
    distance = reference.chi2_pairs(rows[:1], rows[1:])[0]
    assert told["nearest"][0]["distance"] == pytest.approx(distance, rel=1e-3)
    assert main(["identify", bundle, photo, "--weights", bundle, "--target-fmr", "0.01"]) == 0
    assert main(["identify", bundle, photo, "--weights", "default"]) == 2
    assert "must be of the network of weights 'default', " in capsys.readouterr().err
    assert main(["info", bundle, "--ids"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["hopper: 1 photos"]


@pytest.mark.parametrize("command", ["enrol", "remove"])
def test_commands_change_no_bundle_and_say_what_does(bundle, command, people, capsys):
    photos = [str(people / "hopper")] if command == "enrol" else []
    assert main([command, bundle, *photos, "--id", "hopper"]) == 2
    assert "is a bundle: load it with VerificationBundle.load" in capsys.readouterr().err
    assert list(VerificationBundle.load(bundle).gallery) == ["hopper"]


def test_a_bundle_of_nobody_is_not_searched(tmp_path, people, capsys):
    made = VerificationBundle(FaceEmbedder("small"), TemplateVerifier(weights="small"))
    path = str(made.save(tmp_path / "empty.zip"))
    assert main(["identify", path, str(people / "hopper" / "0.png")]) == 2
    assert "must hold people" in capsys.readouterr().err


FORGED = ["a\nb.png: bo", "\x1b[31mred", "a\rb", "a\u202eb", "a\u2028b", "\x9b31m"]


@pytest.mark.parametrize("name", FORGED)
def test_names_forge_neither_lines_nor_colours(people, tmp_path, capsys, name):
    door, photo = tmp_path / "door", people / "hopper" / f"{name}.png"
    (people / "hopper" / "0.png").rename(photo)
    row = FaceEmbedder().transform([photo])
    gallery = TemplateGallery(weights="default")
    gallery.add([name], row, counts=[1])
    gallery.save(door)
    wanted = name.encode("unicode_escape").decode()
    assert main(["identify", str(door), str(photo)]) == 0
    (line,) = capsys.readouterr().out.split("\n")[:-1]
    assert line == f"{people}/hopper/{wanted}.png: {wanted}; nearest: {wanted} 0.0000 " + (
        f"(threshold {_limit(1e-4, [1, 1]):.4f})"
    )
    assert main(["identify", str(door), str(photo), "--json"]) == 0
    assert printed_json(capsys)[0]["id"] == name
    assert main(["info", str(door), "--ids"]) == 0
    assert capsys.readouterr().out.split("\n")[1] == f"{wanted}: 1 photos"
    photo.write_bytes(b"no photo")
    assert main(["embed", str(photo), "--out", str(tmp_path / "x.npz")]) == 2
    assert len(capsys.readouterr().err.split("\n")) == 2
    assert main(["remove", str(door), "--id", name]) == 0
    assert capsys.readouterr().out == f"deleted {wanted}; the gallery holds 0\n"


@pytest.mark.parametrize("name", FORGED)
def test_ids_with_control_characters_are_not_enrolled(people, tmp_path, capsys, name):
    (people / "hopper").rename(people / name)
    door = tmp_path / "door"
    for arguments in ([str(people)], [str(people / name), "--id", name]):
        assert main(["enrol", str(door), *arguments]) == 2
        assert "an id must hold no control characters; got" in capsys.readouterr().err
    assert not door.exists()


def test_names_in_any_script_are_printed_as_they_are():
    # Hebrew runs to the left by itself; Persian needs a character that joins nothing.
    for name in ["Грейс", "גרייס", "مى\u200cروم", "ann\\nbo", "a'b"]:
        assert shown(name) == name


def test_every_ending_of_what_can_be_decoded_is_a_photo():
    Image.init()
    kinds = {"JPEG", "MPO", "PNG", "WEBP"}
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in kinds}
    assert {ending for ending in known if is_image(f"a{ending.upper()}")} == known - {".apng"}


def test_photos_of_other_kinds_are_counted(people, tmp_path, capsys):
    for name in ("a.HEIC", "b.heic", "c.tif", "notes.txt"):
        (people / "hopper" / name).write_bytes(b"")
    (people / "hopper" / "._d.heic").write_bytes(b"a Mac's")
    Image.open(people / "hopper" / "0.png").save(people / "hopper" / "3.jfif", "JPEG")
    said = "note: left out: 2 .heic, 1 .tif; only JPEG, PNG and WebP are read\n"
    assert main(["enrol", str(tmp_path / "door"), str(people), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["photos"] == {"collins": 3, "hopper": 4}
    assert output.err == said
    assert main(["identify", str(tmp_path / "door"), str(people / "hopper"), "--json"]) in (0, 1)
    assert said in capsys.readouterr().err
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.avif").write_bytes(b"")
    assert main(["embed", str(tmp_path / "only"), "--out", str(tmp_path / "x.npz")]) == 2
    assert "only; it holds 1 .avif" in capsys.readouterr().err


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_what_pillow_opens_is_embedded_whatever_its_format(people, tmp_path):
    photo = Image.open(people / "hopper" / "0.png")
    photo.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    rows = FaceEmbedder().transform([photo, Image.open(tmp_path / "a.avif")])
    assert reference.chi2_pairs(rows[:1], rows[1:])[0] < _limit(1e-4, [1, 1]) / 10


@pytest.mark.parametrize("place", [0, 1])
def test_verify_names_the_photo_that_cannot_be_read(people, tmp_path, capsys, place):
    good, bad = str(people / "hopper" / "0.png"), str(tmp_path / "bad.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    photos = [good, good]
    photos[place] = bad
    assert main(["verify", *photos]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sfpose verify: {bad}: ")
    assert "image 0" not in error
    assert "image 1" not in error


def test_a_rate_is_chosen_that_all_templates_have_a_threshold_for(people, tmp_path, capsys):
    """Means of many are fewer, and may be calibrated for greater rates alone."""
    artifact = read_artifact("default")
    manifest = json.loads(json.dumps(dict(artifact.manifest)))
    for entry in manifest["calibration"]["conditions"]:
        if entry["template_images"] > 1:
            listed = entry["thresholds"]
            entry["thresholds"] = [known for known in listed if known["target_fmr"] >= 1e-3]
    weights = str(write_artifact(tmp_path / "mine", artifact.model, manifest))
    door, photo = str(tmp_path / "door"), str(people / "hopper" / "0.png")
    assert main(["enrol", door, str(people), "--weights", weights]) == 0
    capsys.readouterr()
    assert main(["identify", door, photo, "--weights", weights, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["target_fmr"] == 1e-3
    assert "not calibrated for --target-fmr 0.0001; 0.001 is taken" in output.err
    asked = ["--weights", weights, "--target-fmr", "0.0001"]
    assert main(["identify", door, photo, *asked]) == 1
    assert "weights have no threshold for so many at 0.0001" in capsys.readouterr().err


def test_a_name_is_one_in_whatever_form_of_unicode_it_is_written(people, tmp_path, capsys):
    """Folders of a Mac may write the accent apart from its letter."""
    composed, apart = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    assert composed != apart
    (people / "hopper").rename(people / apart)
    door, photo = str(tmp_path / "door"), str(people / apart / "0.png")
    assert main(["enrol", door, str(people)]) == 0
    assert composed in TemplateGallery.load(door)
    assert main(["enrol", door, photo, "--id", apart]) == 2
    assert f"'{composed}' is enrolled" in capsys.readouterr().err
    assert main(["remove", door, "--id", apart, composed]) == 0
    assert list(TemplateGallery.load(door)) == ["collins"]
    with TemplateGallery.changing(door) as gallery:
        gallery.add([composed, apart], np.stack([_row(0), _row(1)]))
    assert main(["remove", door, "--id", composed]) == 2
    assert "in two forms of Unicode" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bob.heic", "bob.TIFF"])
def test_pictures_of_other_kinds_beside_the_folders_of_people_are_told(
    people, tmp_path, capsys, name
):
    (people / name).write_bytes(b"a picture")
    assert main(["enrol", str(tmp_path / "door"), str(people)]) == 2
    assert "photos must lie in a folder for each person" in capsys.readouterr().err
