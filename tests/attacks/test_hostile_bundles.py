"""Bundles that were damaged or made to harm; their network is an artifact, tested as such."""

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest

from sfpose.bundle import VerificationBundle

STORED = Path(__file__).resolve().parents[1] / "data" / "bundle-v1.zip"
OF_THE_GALLERY = ("gallery.json", "ids.json", "counts.json", "templates.safetensors")


def _changed(**changes):
    """The stored bundle with other contents of some entries; None leaves one out."""
    data = io.BytesIO()
    with (
        zipfile.ZipFile(STORED) as source,
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            contents = changes.get(name, source.read(name))
            if contents is not None:
                target.writestr(name, contents)
    return data.getvalue()


def test_every_damage_is_found_or_harmless(tmp_path):
    """Each byte of the file in turn has other bits, or the file ends there."""
    whole = VerificationBundle.load(STORED)
    data = STORED.read_bytes()
    path = tmp_path / "damaged.zip"
    refused = 0
    for place in range(0, len(data), 13):
        for damaged in (
            data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :],
            data[:place],
        ):
            path.write_bytes(damaged)
            try:
                loaded = VerificationBundle.load(path)
            except ValueError:
                refused += 1
                continue
            assert list(loaded.gallery) == list(whole.gallery)
            assert loaded.gallery.templates.tobytes() == whole.gallery.templates.tobytes()
            assert loaded.verifier.threshold_ == whole.verifier.threshold_
            assert loaded.embedder.artifact.digest == whole.embedder.artifact.digest
    assert refused > 1.8 * len(data) / 13
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.zip"]


@pytest.mark.parametrize("name", OF_THE_GALLERY)
def test_what_is_missing_or_exchanged_is_named(tmp_path, name):
    path = tmp_path / "bundle.zip"
    path.write_bytes(_changed(**{name: None}))
    with pytest.raises(ValueError, match=f"must hold {name}"):
        VerificationBundle.load(path)
    path.write_bytes(_changed(**{name: b"{}"}))
    with pytest.raises(ValueError, match=name if name != "gallery.json" else "must be a gallery"):
        VerificationBundle.load(path)


def _stating(name, size):
    """The stored bundle whose directory states another size of an entry."""
    data = bytearray(STORED.read_bytes())
    place = data.index(b"PK\x01\x02")
    while data[place + 46 : place + 46 + len(name)] != name.encode():
        place = data.index(b"PK\x01\x02", place + 1)
    data[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("gallery.json", 2**20 + 1, "gallery.json must have at most 1048576 bytes"),
        ("ids.json", 2**31 + 1, "ids.json must have at most 2147483648 bytes"),
        ("counts.json", 2**31 + 1, "counts.json must have at most 2147483648 bytes"),
        *((name, 5, "must be a whole zip file") for name in OF_THE_GALLERY),
    ],
)
def test_sizes_that_are_too_large_or_lie_are_refused(tmp_path, name, size, message):
    path = tmp_path / "bundle.zip"
    path.write_bytes(_stating(name, size))
    with pytest.raises(ValueError, match=message):
        VerificationBundle.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["bundle.zip"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("bundle",), []),
        (("bundle", "align"), "sideways"),
        (("bundle", "align"), ["auto"]),
        (("bundle", "verifier"), []),
        (("bundle", "verifier", "target_fmr"), "0.1"),
        (("bundle", "verifier", "target_fmr"), None),
        (("bundle", "verifier", "target_fmr"), 2),
        (("bundle", "verifier", "groups"), 5),
        (("bundle", "verifier", "groups"), [["size"]]),
        (("bundle", "verifier", "groups"), "colour"),
        (("bundle", "verifier", "template_sizes"), [1]),
        (("calibration", "conditions"), []),
        (("calibration", "conditions", 0, "thresholds"), []),
        (("calibration", "conditions", 0, "thresholds", 0, "threshold"), -1),
        (("calibration", "conditions", 0, "log_likelihood_ratio"), None),
        (("descriptor", "size"), 17),
        (("descriptor", "normalization"), "none"),
        (("distance",), None),
    ],
)
def test_manifests_that_make_no_sense_are_refused(tmp_path, place, value):
    manifest = json.loads(zipfile.ZipFile(STORED).read("manifest.json"))
    table = manifest
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    path = tmp_path / "bundle.zip"
    path.write_bytes(_changed(**{"manifest.json": json.dumps(manifest)}))
    with pytest.raises(ValueError, match=r"must|of another form"):
        VerificationBundle.load(path)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("max_pairs", "many", "max_pairs must be a whole number"),
        ("random_state", -1, "random_state must be"),
        ("template_sizes", [[0, 0]], "template_sizes must be"),
        ("template_sizes", [[1]], "template_sizes must be"),
        ("template_sizes", "ab", "template_sizes must be"),
    ],
)
def test_parameters_that_fit_would_refuse_are_refused_at_once(tmp_path, parameter, value, message):
    with zipfile.ZipFile(STORED) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    manifest["bundle"]["verifier"][parameter] = value
    path = tmp_path / "bundle.zip"
    path.write_bytes(_changed(**{"manifest.json": json.dumps(manifest)}))
    with pytest.raises(ValueError, match=message):
        VerificationBundle.load(path)


def test_a_damaged_zip_of_any_compression_is_not_overwritten(tmp_path):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", json.dumps({"format": "sfpose-artifact"}) * 50)
    damaged = bytearray(path.read_bytes())
    for place in range(60, 90):
        damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(FileExistsError, match="what is overwritten must be"):
        VerificationBundle.load(STORED).save(path, overwrite=True)
    assert path.read_bytes() == damaged
