"""Names, folders, streams and weights that commands meet and must not be misled by."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from test_cli import printed_json

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact, write_artifact


@pytest.mark.parametrize("name", ["default", "./small", "plain"])
def test_a_bundle_may_be_called_as_what_ships(people, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    photo = str(people / "hopper" / "0.png")
    gallery = TemplateGallery(weights="small")
    gallery.add(["hopper"], FaceEmbedder("small").transform([photo]))
    verifier = TemplateVerifier(target_fmr=0.01, weights="small")
    VerificationBundle(FaceEmbedder("small"), verifier, gallery).save(name)
    assert main(["identify", name, photo, "--json"]) == 0
    (told,) = printed_json(capsys)
    assert told["target_fmr"] == 0.01
    assert told["nearest"][0]["threshold"] == pytest.approx(verifier.decision_rule().threshold)


@pytest.mark.parametrize("command", ["enrol", "identify", "calibrate"])
def test_weights_that_are_replaced_meanwhile_are_not_mixed(
    people, tmp_path, capsys, monkeypatch, command
):
    """Both networks give 256 values, so that nothing else would tell."""
    weights, gallery, out = (str(tmp_path / name) for name in ("w", "gallery", "out"))
    small, default = read_artifact("small"), read_artifact("default")
    write_artifact(weights, small.model, small.manifest)
    collins, hopper = str(people / "collins"), str(people / "hopper")
    if command != "calibrate":
        assert main(["enrol", gallery, collins, "--id", "collins", "--weights", weights]) == 0
    transform = FaceEmbedder.transform

    def late(self, photos):
        # The network is read at the first call, here of what was put there after the command began.
        if read_artifact(weights).digest == small.digest:
            write_artifact(weights, default.model, default.manifest, overwrite=True)
        return transform(self, photos)

    monkeypatch.setattr(FaceEmbedder, "transform", late)
    if command == "calibrate":
        arguments = [command, str(people), "--out", out, "--target-fmr", "0.4"]
        assert main([*arguments, "--weights", weights]) == 0
        assert read_artifact(out).digest == default.digest
        return
    arguments = {
        "enrol": ["enrol", gallery, hopper, "--id", "hopper"],
        "identify": ["identify", gallery, hopper],
    }[command]
    assert main([*arguments, "--weights", weights]) == 2
    said = capsys.readouterr().err
    assert "was replaced" in said or "must be of the network of weights" in said
    assert list(TemplateGallery.load(gallery)) == ["collins"]


@pytest.mark.parametrize("command", ["enrol", "embed", "calibrate"])
def test_hidden_folders_are_nobodys(people, tmp_path, capsys, command):
    """Thumbnails, deleted photos and what notebooks copy."""
    shutil.copytree(people / "collins", people / ".Trash-1000" / "files")
    shutil.copytree(people / "collins", people / "hopper" / ".thumbs")
    out = str(tmp_path / "out.npz")
    if command == "enrol":
        assert main(["enrol", str(tmp_path / "gallery"), str(people), "--json"]) == 0
        assert printed_json(capsys)[0]["photos"] == {"collins": 3, "hopper": 3}
    elif command == "embed":
        assert main(["embed", str(people), "--out", out, "--json"]) == 0
        assert printed_json(capsys)[0]["photos"] == 6
    else:
        assert main(["calibrate", str(people), "--out", out, "--target-fmr", "0.4", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data"] == "6 photos of 2 people in people"


@pytest.mark.skipif(os.name == "nt", reason="shells of Windows close no streams so")
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-"])
def test_closed_streams_keep_no_command_from_its_work(people, tmp_path, closed):
    run = f'"{sys.executable}" -m sfpose'
    photo = people / "hopper" / "0.png"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def shell(command):
        done = subprocess.run(
            f"{run} {command}", shell=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    assert shell(f'embed "{photo}" --out rows.npz {closed}')[0] == 0
    assert (tmp_path / "rows.npz").exists()
    # Errors do not go where results are read.
    assert shell(f"verify no.jpg nor.jpg --json {closed}") == (2, b"")


@pytest.mark.parametrize(
    "command", ["embed {photo} --out rows.npz", "export --target onnx --out model.onnx"]
)
def test_a_full_disk_is_told_with_the_file(people, tmp_path, command):
    pytest.importorskip("resource", reason="Windows limits no files")
    words = command.format(photo=people / "hopper" / "0.png").split()
    code = (
        "import resource, sys; from sfpose.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        f"sys.exit(main({words}))"
    )
    place = tmp_path / "here"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{words[-1]!r} cannot be written and is as it was: File too large" in done.stderr
    assert list(place.iterdir()) == []
