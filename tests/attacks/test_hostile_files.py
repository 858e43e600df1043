"""Pipes and devices where a file must be, and JSON that holds what nothing can be done with."""

import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sfpose import FaceEmbedder
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact
from sfpose.runtime.files import parse_json

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")

READS = {
    "embedder": "from sfpose import FaceEmbedder; FaceEmbedder(path).artifact",
    "manifest": "from sfpose.runtime.artifact import read_manifest; read_manifest(path)",
    "bundle": "from sfpose.bundle import VerificationBundle; VerificationBundle.load(path)",
    "gallery": "from sfpose import TemplateGallery; TemplateGallery.load(path)",
    "overwriting": "from sfpose.bundle import VerificationBundle as Bundle\n"
    "from sfpose import FaceEmbedder, TemplateVerifier\n"
    "Bundle(FaceEmbedder(), TemplateVerifier()).save(path, overwrite=True)",
}


@pipes
@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind, device):
    path = tmp_path / "it.zip"
    if device == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(device)
    code = f"path = {str(path)!r}\nimport resource\n"
    code += "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n" + READS[kind]
    if (kind, device) == ("overwriting", "/dev/zero"):
        path.unlink()  # it would be written beside the device
        path.symlink_to(tmp_path / "there")
        os.mkfifo(tmp_path / "there")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("ValueError: ", "FileNotFoundError: ", "FileExistsError: ")), last
    assert "must be" in last


@pipes
def test_info_does_not_wait_for_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["info", "--weights", str(tmp_path / "pipe")]) == 2
    assert "must be a folder or a zip file" in capsys.readouterr().err


def test_a_zip_whose_directory_is_enormous_is_refused_unread(tmp_path):
    """Each of its entries costs ten times its place in the file in memory."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(21_000):
            archive.writestr(zipfile.ZipInfo(f"{number:06}"), b"")
    (tmp_path / "many.zip").write_bytes(data.getvalue())
    with pytest.raises(ValueError, match="its directory must have at most 1048576 bytes"):
        read_artifact(tmp_path / "many.zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "numbers must be finite; got 1e999"),
        ("[-1e400]", "numbers must be finite; got -1e400"),
        ('{"a": 1E+309}', "numbers must be finite"),
        ("9" * 101, "whole numbers must have at most 100 digits; got 101"),
        ("-" + "9" * 101, "whole numbers must have at most 100 digits"),
        ("[" * 51 + "]" * 51, "nested at most 50 deep"),
        ('{"a":' * 51 + "1" + "}" * 51, "nested at most 50 deep"),
        ('[{"a":' * 300 + "1" + "}]" * 300, "nested at most 50 deep"),
        ("[" * 100_000, "must be JSON"),
    ],
)
def test_json_that_nothing_can_be_done_with_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_json(text.encode(), "manifest.json")
    assert str(raised.value).startswith("manifest.json must be JSON; ")


@pytest.mark.parametrize(
    "table",
    [
        json.loads("[" * 50 + "]" * 50),
        [[]] * 1000,
        ["[" * 100, "{" * 100],
        {"a": [{"b": 1e308, "c": -5e-324}], "d": 10**99},
        -(10**99),
        None,
    ],
)
def test_json_within_the_limits_is_read(table):
    assert parse_json(json.dumps(table).encode(), "manifest.json") == table


def _odd(folder, text):
    """An artifact whose manifest holds a text as it is."""
    shipped = read_artifact("plain")
    path = write_artifact(folder, shipped.model, {**shipped.manifest, "note": "HERE"})
    manifest = (path / "manifest.json").read_text().replace('"HERE"', text)
    (path / "manifest.json").write_text(manifest)
    return path


@pytest.mark.parametrize("note", ["1e999", "9" * 400, "[" * 900 + "]" * 900])
def test_manifests_that_could_not_be_saved_again_are_refused_at_once(tmp_path, note, capsys):
    """Of each, reading was no error, and saving, showing or comparing it was."""
    path = _odd(tmp_path / "odd", note)
    for read in (read_manifest, read_artifact, VerificationBundle.load):
        with pytest.raises(ValueError, match=r"manifest\.json must be JSON"):
            read(path)
    for options in ([], ["--json"]):
        assert main(["info", "--weights", str(path), *options]) == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", [True, 0, 0]),
        ("mean", [1e300, 0, 0]),
        ("mean", [10**99, 0, 0]),
        ("mean", [-2e6, 0, 0]),
        ("std", [True] * 3),
        ("std", [1e-320] * 3),
        ("std", [1e-40] * 3),
        ("std", [1, 1, 1e7]),
        ("std", [1, 1, -1]),
        ("std", [1, 1, "1"]),
    ],
)
def test_means_that_leave_float32_are_refused(tmp_path, name, value):
    shipped = read_artifact("plain")
    settings = {**shipped.manifest["input"], name: value}
    path = write_artifact(tmp_path / "odd", shipped.model, {**shipped.manifest, "input": settings})
    with pytest.raises(ValueError, match="mean and std must be three numbers, std positive"):
        FaceEmbedder(path).transform([np.zeros((64, 64, 3), np.uint8)])
