"""Manifests, folders and zip files that were made to harm: refused with a reason."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile

import pytest
from test_hostile_graphs import IMAGE, MANIFEST, tiny

from sfpose import FaceEmbedder
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact
from sfpose.runtime.folders import write_folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"size": 10**9, "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": "8", "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": True, "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": 8, "mean": [0] * 2, "std": [1] * 3}}, "mean and std must be three"),
        ({"input": {"size": 8, "mean": [0] * 3, "std": [1, 0, 1]}}, "std positive"),
        ({"input": {"size": 8, "mean": [0] * 3}}, "mean and std must be three"),
        ({"input": []}, "must have a table 'input'"),
        ({"descriptor": {"size": -1, "normalization": "l1"}}, "descriptor size must be"),
        ({"descriptor": {"normalization": "l1"}}, "descriptor size must be"),
        ({"descriptor": {"size": 4, "normalization": ["l1"]}}, "normalization must be one of"),
        *(
            (
                {"descriptor": {"size": 4, "normalization": "l1", "less_mean": bad}},
                "less_mean must be",
            )
            for bad in (1, -0.1, True, "half", None)
        ),
    ],
)
def test_manifests_that_make_no_sense_are_refused(tmp_path, changes, message):
    folder = tiny(tmp_path / "odd", **changes)
    with pytest.raises(ValueError, match=message):
        FaceEmbedder(folder).transform([IMAGE])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "sfpose-artifact", "format": "sfpose-artifact"}', "a key comes twice"),
        ('{"a": NaN}', "numbers must be finite; got NaN"),
        ('{"a": -Infinity}', "numbers must be finite"),
        ("[" * 100_000, "must be JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "must be JSON"),
        ('{"format": "sfpose-artifact", "format_version": true}', "format_version must be"),
        ('{"format": "sfpose-artifact", "format_version": 0}', "format_version must be"),
        ("[]", "must state format"),
        ("null", "must state format"),
        ("1" * 5000, "must"),
        (" " * (2**20 + 1), "at most 1048576 bytes"),
    ],
)
def test_manifests_that_are_no_table_are_refused(tmp_path, text, message):
    folder = tiny(tmp_path / "odd")
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_manifest, read_artifact):
        with pytest.raises(ValueError, match=message):
            read(folder)


def _stated(folder, files):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {},
        {"model.onnx": None},
        {"model.onnx": {"sha256": None}},
        {"model.onnx": {"sha256": "0" * 64}},
        {"../../../etc/passwd": {"sha256": "0" * 64}},
    ],
)
def test_a_digest_that_is_missing_or_of_another_file_is_refused(tmp_path, files):
    folder = tiny(tmp_path / "odd")
    _stated(folder, files)
    with pytest.raises(ValueError, match="must have the sha256 that"):
        read_artifact(folder)


def test_one_changed_bit_is_found(tmp_path):
    folder = tiny(tmp_path / "tiny")
    data = bytearray((folder / "model.onnx").read_bytes())
    for place in range(0, len(data), 7):
        data[place] ^= 1
        (folder / "model.onnx").write_bytes(data)
        with pytest.raises(ValueError, match="changed or damaged"):
            read_artifact(folder)
        data[place] ^= 1


def test_names_in_a_manifest_open_no_other_file(tmp_path):
    """Whatever the manifest lists, two files are read and no more."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tiny(tmp_path / "tiny")
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    _stated(folder, {"model.onnx": {"sha256": digest}, "../secret": {"sha256": "0"}})
    assert read_artifact(folder).digest == digest


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_symbolic_links_are_refused(tmp_path, name):
    folder = tiny(tmp_path / "tiny")
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="symbolic link"):
        read_artifact(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="symbolic link"):
        read_artifact(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="must be an ordinary file"):
        read_artifact(folder)


def _zip(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.fixture
def parts(tmp_path):
    folder = tiny(tmp_path / "tiny")
    return [(name, (folder / name).read_bytes()) for name in ("model.onnx", "manifest.json")]


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "..", "folder\\..\\evil", "./../evil"]
)
def test_names_that_leave_a_zip_are_refused(tmp_path, parts, name):
    path = _zip(tmp_path / "evil.zip", [*parts, (name, b"x")])
    with pytest.raises(ValueError, match="names in a zip file must lie below it"):
        read_artifact(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "card.md"])
def test_names_that_come_twice_in_a_zip_are_refused(tmp_path, parts, name):
    path = _zip(tmp_path / "twice.zip", [*parts, (name, b"x"), (name, b"y")])
    with pytest.raises(ValueError, match="names in a zip file must differ"):
        read_artifact(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, parts, compression):
    path = _zip(tmp_path / "other.zip", parts, compression=compression)
    with pytest.raises(ValueError, match="must be stored or deflated"):
        read_artifact(path)


def test_damaged_zip_files_are_refused(tmp_path, parts):
    path = _zip(tmp_path / "whole.zip", parts, compression=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    expected = read_artifact(path).digest
    for place in range(0, len(data), 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            assert read_artifact(path).digest == expected
        except ValueError as error:
            assert "must" in str(error)  # noqa: PT017


def _with_stated_size(path, size):
    """The size of the first entry as the directory of the zip states it, changed."""
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(data)


def test_zip_bombs_are_refused_in_little_memory(tmp_path, parts):
    """One that states its size, and one that says it were small."""
    program = """
import resource, sys
from sfpose.runtime.artifact import read_artifact
for path, message in [(sys.argv[1], "must have at most 536870912"), (sys.argv[2], "whole zip")]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_artifact(path)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise SystemExit("not refused")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    entries = [("model.onnx", bytes(60 * 2**20)), parts[1]]
    paths = [
        _zip(tmp_path / name, entries, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
        for name in ("large.zip", "small.zip")
    ]
    _with_stated_size(paths[0], 600 * 2**20)
    _with_stated_size(paths[1], 100)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert max(map(int, done.stdout.split())) < 20_000  # kilobytes


def test_a_zip_with_a_thousand_and_one_entries_is_refused(tmp_path, parts):
    path = _zip(tmp_path / "many.zip", parts + [(f"{n}", b"") for n in range(1000)])
    with pytest.raises(ValueError, match="at most 1000 entries"):
        read_artifact(path)


def test_encrypted_zip_files_are_refused(tmp_path, parts):
    path = _zip(tmp_path / "secret.zip", parts)
    data = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="must be a whole zip file"):
        read_artifact(path)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "c:evil", "a\\b", "x\0"])
def test_files_are_written_below_their_folder_only(tmp_path, name):
    with pytest.raises(ValueError, match="files must have plain names"):
        write_folder(tmp_path / "out", {name: b""}, overwrite=False, marker="manifest.json")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_artifact(tmp_path / "out", b"", {**MANIFEST, "calibration": float("nan")})
    assert list(tmp_path.iterdir()) == []
