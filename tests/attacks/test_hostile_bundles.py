"""Bundles that were damaged or made to harm; their network is an artifact, tested as such."""

import hashlib
import io
import json
import resource
import struct
import zipfile
from pathlib import Path

import pytest

from sfpose.bundle import VerificationBundle
from sfpose.decision import shipped_rule

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
        ("ids.json", 2**28 + 1, "ids.json must have at most 268435456 bytes"),
        ("counts.json", 2**27 + 1, "counts.json must have at most 134217728 bytes"),
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
        (("calibration",), True),
        (("calibration", "conditions"), None),
        (("calibration", "conditions", 0, "thresholds", 0, "threshold"), True),
        (("calibration", "conditions", 0, "thresholds", 0, "achieved_fmr"), "0.1"),
        (("calibration", "conditions", 0, "thresholds", 0, "achieved_fmr"), [0.1]),
        (("calibration", "conditions", 0, "thresholds", 0, "achieved_fmr"), 2),
        (("calibration", "conditions", 0, "thresholds", 0, "fnmr"), None),
        (("calibration", "conditions", 0, "thresholds", 0, "genuine_pairs"), 0.5),
        (("calibration", "conditions", 0, "thresholds", 0, "impostor_pairs"), None),
        (("calibration", "conditions", 0, "thresholds", 0, "people"), -1),
        (("calibration", "conditions", 0, "thresholds", 0, "fmr_interval"), "ab"),
        (("calibration", "conditions", 0, "thresholds", 0, "fmr_interval"), [0, 1, 2]),
        (("calibration", "conditions", 0, "thresholds", 0, "fnmr_interval"), [0, "1"]),
        (("calibration", "conditions", 0, "log_likelihood_ratio", "slope"), True),
        (("calibration", "conditions", 0, "log_likelihood_ratio", "intercept"), "0"),
        (("descriptor", "size"), 4.9),
        (("descriptor", "size"), True),
        (("descriptor", "normalization"), "L1"),
        (("descriptor", "normalization"), None),
        (("bundle", "fitted"), "no"),
        (("bundle", "fitted"), 1),
        (("bundle", "gallery"), "yes"),
        (("bundle", "gallery"), None),
        (("bundle", "cohort"), True),
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


@pytest.mark.parametrize("of", ["conditions", "thresholds"])
def test_what_is_stated_twice_is_refused(tmp_path, of):
    """Before, the last one won: its threshold may be any."""
    with zipfile.ZipFile(STORED) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    listed = manifest["calibration"]["conditions"]
    if of == "thresholds":
        listed = listed[0]["thresholds"]
    again = json.loads(json.dumps(listed[0]))
    listed.append(again)
    for stated in again.get("thresholds", [again]):
        stated["threshold"] = 1.9
    path = tmp_path / "bundle.zip"
    path.write_bytes(_changed(**{"manifest.json": json.dumps(manifest)}))
    with pytest.raises(ValueError, match=r"of another form.* comes twice"):
        VerificationBundle.load(path)
    with pytest.raises(ValueError, match=r"of another form.* comes twice"):
        shipped_rule(path, 0.1)


def test_a_small_zip_of_many_ids_costs_little(tmp_path):
    """Forty thousand bytes that unpack to a list of twenty million ids for three templates."""
    with zipfile.ZipFile(STORED) as archive:
        gallery = json.loads(archive.read("gallery.json"))
    many = 20_000_000
    ids = b"[" + b"1," * (many - 1) + b"1]"
    for name in ("ids.json", "counts.json"):
        gallery["files"][name] = {"sha256": hashlib.sha256(ids).hexdigest(), "bytes": len(ids)}
    changed = {"ids.json": ids, "counts.json": ids}
    for stated, message in [
        (3, r"ids\.json must have at most 147[0-9]{3} bytes; got 40000001"),
        (many, "one id a template; got 20000000 ids for templates of shape"),
        (2**62, "one id a template"),
        (-1, r"gallery\.json must state the number of templates; got -1"),
        (3.0, "must state the number of templates"),
    ]:
        gallery["templates"] = stated
        path = tmp_path / "many.zip"
        path.write_bytes(_changed(**changed, **{"gallery.json": json.dumps(gallery)}))
        assert path.stat().st_size < 200_000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match=message):
            VerificationBundle.load(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


@pytest.mark.parametrize("network", [5, True, ["a"], {}])
def test_a_network_that_is_no_text_is_not_taken_for_an_unknown_one(tmp_path, network):
    with zipfile.ZipFile(STORED) as archive:
        gallery = json.loads(archive.read("gallery.json"))
    path = tmp_path / "bundle.zip"
    changed = json.dumps({**gallery, "network": network})
    path.write_bytes(_changed(**{"gallery.json": changed}))
    with pytest.raises(ValueError, match=r"gallery\.json must state the sha256 of the network"):
        VerificationBundle.load(path)
