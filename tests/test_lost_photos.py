"""Folders of photos of which some show nobody, and which are more than one step takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfpose import FaceAligner, FaceEmbedder, TemplateGallery
from sfpose.cli import main
from sfpose.detectors import LibFaceDetection

# Steps of four photos; one small network on one thread.
IN_STEPS = ["--batch-size", "1", "--weights", "small", "--n-jobs", "1"]


@pytest.fixture
def half_lost(people, nothing):
    """Two people, four photos each, the first of which shows nobody."""
    for person in people.iterdir():
        Image.fromarray(nothing).save(person / "-nobody.png")
    return people


def _rows(folder):
    """Descriptors of a person's photos; NaN where nobody is shown."""
    return FaceEmbedder("small").transform(sorted(folder.iterdir()))


def test_enrol_takes_the_photos_that_show_somebody_for_whom_they_show(half_lost, tmp_path):
    assert main(["enrol", str(tmp_path / "gallery"), str(half_lost), *IN_STEPS]) == 0
    gallery = TemplateGallery.load(tmp_path / "gallery")
    assert (list(gallery), gallery.counts.tolist()) == (["collins", "hopper"], [3, 3])
    for name, template in zip(gallery, gallery.templates, strict=True):
        nobody, *shown = _rows(half_lost / name)
        assert np.isnan(nobody).all()
        np.testing.assert_allclose(template, np.mean(shown, axis=0), rtol=1e-3, atol=1e-6)


def test_calibrate_compares_the_photos_that_show_somebody(half_lost, tmp_path, capsys):
    arguments = ["calibrate", str(half_lost), "--out", str(tmp_path / "mine"), "--json"]
    assert main([*arguments, "--target-fmr", "0.5", *IN_STEPS]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["data"].startswith("6 photos of 2 people")
    (stated,) = told["conditions"][0]["thresholds"]
    # Three photos of each: under the right names, all of one person lie nearer than any other.
    assert (stated["genuine_pairs"], stated["impostor_pairs"]) == (6, 9)
    assert stated["fnmr"] == 0


def test_embed_gives_each_row_the_name_of_its_photo(half_lost, tmp_path):
    out = tmp_path / "faces.npz"
    assert main(["embed", str(half_lost), "--out", str(out), *IN_STEPS]) == 0
    stored = np.load(out)
    files = sorted(half_lost.rglob("*.png"))
    assert stored["files"].tolist() == [str(file) for file in files]
    expected = FaceEmbedder("small").transform(files)
    np.testing.assert_allclose(stored["descriptors"], expected, rtol=1e-3, atol=1e-6)


def test_embed_with_a_detector_names_the_photos_that_show_a_face(half_lost, tmp_path, monkeypatch):
    def whole(self, photo):
        """The whole photo, if it is not of one colour."""
        return [(0, 0, *photo.shape[1::-1])] if np.ptp(photo[..., 0]) else []

    monkeypatch.setattr(LibFaceDetection, "__call__", whole)
    out = tmp_path / "faces.npz"
    arguments = ["embed", str(half_lost), "--out", str(out), "--detector", "libfacedetection"]
    assert main([*arguments, *IN_STEPS]) == 0
    stored = np.load(out)
    files = sorted(file for file in half_lost.rglob("*.png") if "nobody" not in file.name)
    assert stored["files"].tolist() == [str(file) for file in files]
    crops = FaceAligner(LibFaceDetection(), policy="largest").transform(files)
    expected = FaceEmbedder("small", align="done").transform(crops)
    np.testing.assert_allclose(stored["descriptors"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["faces.npz", "faces.safetensors"])
def test_what_finds_no_room_leaves_what_was_there(people, tmp_path, capsys, monkeypatch, name):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("before")

    def half(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    arguments = ["embed", str(people / "hopper"), "--out", str(folder / name), "--overwrite"]
    assert main([*arguments, *IN_STEPS]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [(name, b"before")]


def test_damaged_photos_are_left_out_and_named_when_asked_for(people, tmp_path, capsys):
    """One of a thousand stops everything otherwise."""
    damaged = people / "collins" / "0a.png"
    damaged.write_bytes((people / "collins" / "0.png").read_bytes()[:2_000])
    arguments = ["embed", str(people), "--out", str(tmp_path / "rows.npz")]
    assert main(arguments) == 2
    assert "0a.png" in capsys.readouterr().err
    assert not (tmp_path / "rows.npz").exists()
    assert main([*arguments, "--leave-out-unreadable", "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert (told["photos"], told["rows"], told["no_face"]) == (6, 6, 0)
    assert told["unreadable"] == [str(damaged)]
    assert re.search(r"note: left out: .*0a\.png", printed.err)
    whole = sorted(path for path in people.rglob("*.png") if path != damaged)
    with np.load(tmp_path / "rows.npz") as stored:
        assert stored["files"].tolist() == [str(path) for path in whole]
        expected = FaceEmbedder().transform(whole)
        np.testing.assert_allclose(stored["descriptors"], expected, rtol=1e-4, atol=1e-7)
    gallery, leave = str(tmp_path / "door"), "--leave-out-unreadable"
    assert main(["enrol", gallery, str(people), leave, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["photos"] == {"collins": 3, "hopper": 3}
    assert (told["unreadable"], told["photos_without_face"]) == ([str(damaged)], [])
    # Nobody was found in it: who decides by the exit code must not take it for looked at.
    assert main(["identify", gallery, str(people / "collins"), leave, "--json"]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["id"] for each in answers] == ["collins"] * 3 + [None]
    assert [each["unreadable"] for each in answers] == [False] * 3 + [True]
    assert answers[3]["photo"] == str(damaged)
    assert not answers[3]["match"]
    assert main(["identify", gallery, str(people / "collins"), leave]) == 1
    assert capsys.readouterr().out.splitlines()[3] == f"{damaged}: cannot be read"
    mine = ["calibrate", str(people), "--out", str(tmp_path / "mine"), "--target-fmr", "0.6"]
    assert main([*mine, leave, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unreadable"] == [str(damaged)]
    (people / "nobody").mkdir()
    damaged.rename(people / "nobody" / "0.png")
    assert main(["enrol", str(tmp_path / "new"), str(people), leave]) == 2
    assert "in any photo that can be read of nobody; nobody was added" in capsys.readouterr().err
    damaged = people / "nobody" / "0.png"
    alone = ["embed", str(damaged), "--out", str(tmp_path / "none.npz"), "--leave-out-unreadable"]
    assert main(alone) == 2
    assert "there must be a photo that can be read; there is none" in capsys.readouterr().err
